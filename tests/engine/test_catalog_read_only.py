"""A catalog that can't be written is read all the same, and what can't be read is told."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import _prefix
from written import WrittenJob, file

from pybak.catalog.engine import Database
from pybak.catalog.failures import CatalogError
from pybak.catalog.history import History

_CHILD = """
import contextlib, io, json, sys
from pybak.cli.program import pybak
done = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = pybak(words)
    done.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a catalog of two runs; nobody has it open."""
    place = tmp_path / "home"
    made = WrittenJob(f"sqlite:///{place}/catalog.db", place=tmp_path / "archives")
    (tmp_path / "archives").mkdir()
    first = made.run(file("docs/a", "one"), file("docs/b", "two"))
    made.run(file("docs/a", "three"), base=first)
    made.close()
    yield place
    place.chmod(0o755)


def look(folder: Path, *commands: list[str]) -> list[Any]:
    """Run `pybak` commands in a process that mode bits stop; give code and outputs of each."""
    done = subprocess.run(
        [*_prefix(powerless=True), sys.executable, "-c", _CHILD, json.dumps(commands)],
        env=os.environ | {"PYBAK_CATALOG_URL": f"sqlite:///{folder}/catalog.db"},
        stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    found: list[Any] = json.loads(done.stdout)
    return found


LOOKS = [
    ["snapshots", "--json"],
    ["versions", "docs/a", "--json"],
    ["find", "b", "latest", "--json"],
    ["diff", "docs0001", "docs0002", "--json"],
    ["list", "latest", "--json"],
]


@pytest.mark.parametrize(("of_folder", "of_file"), [(0o555, 0o644), (0o755, 0o444), (0o555, 0o444)])
def test_history_is_shown_from_a_catalog_that_may_not_be_written(
    folder: Path, of_folder: int, of_file: int
) -> None:
    expected = look(folder, *LOOKS)
    assert [code for code, _, _ in expected] == [0] * len(LOOKS)
    before = (folder / "catalog.db").read_bytes()
    (folder / "catalog.db").chmod(of_file)
    folder.chmod(of_folder)
    assert look(folder, *LOOKS) == expected
    assert os.listdir(folder) == ["catalog.db"]
    assert (folder / "catalog.db").read_bytes() == before


@pytest.mark.needs_root
def test_a_catalog_on_a_read_only_disk_is_read(folder: Path, tmp_path: Path) -> None:
    """(case 97)"""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        shutil.copy(folder / "catalog.db", disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        database = Database(f"sqlite:///{disk}/catalog.db")
        assert [one.seq for one in History(database).snapshots()] == [1, 2]
        with (
            pytest.raises(CatalogError, match="can be written"),
            database.transaction() as connection,
        ):
            connection.exec_driver_sql("DELETE FROM run")
        database.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def leave_changes(folder: Path) -> None:
    """Leave a log with changes beside the catalog, as a killed writer does."""
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    database = sqlite3.connect(other / "catalog.db")
    database.execute("UPDATE run SET status = 'partial'")
    database.commit()
    for name in ("catalog.db-wal", "catalog.db-shm"):
        shutil.copy(other / name, folder)
    database.close()


def test_changes_in_the_log_are_seen_if_its_index_is_there(folder: Path) -> None:
    leave_changes(folder)
    folder.chmod(0o555)
    ((code, out, _),) = look(folder, ["snapshots", "--json"])
    assert code == 0
    assert [one["status"] for one in json.loads(out)["snapshots"]] == ["partial", "partial"]


def test_changes_in_a_log_without_index_are_told_and_not_passed_over(folder: Path) -> None:
    leave_changes(folder)
    (folder / "catalog.db-shm").unlink()
    folder.chmod(0o555)
    ((code, out, err),) = look(folder, ["snapshots"])
    assert (code, out) == (1, "")
    assert "its log holds changes" in err
    assert err.count("\n") == 1


def test_an_older_catalog_that_can_not_be_changed_is_told(folder: Path) -> None:
    """(case 73)"""
    database = sqlite3.connect(folder / "catalog.db")
    database.execute("UPDATE alembic_version SET version_num = '0002'")
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.close()
    folder.chmod(0o555)
    ((code, out, err),) = look(folder, ["snapshots"])
    assert (code, out) == (1, "")
    assert "an older PyBak made this catalog (schema 0002" in err
    assert "it can't be changed here" in err
