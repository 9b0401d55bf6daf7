"""A rebuilt catalog takes the old one's place at once or not at all."""

from __future__ import annotations

import os
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from catalogs import query
from rebuilding import change, make_tree, rebuild, rows_of
from recorded import Recorded

from pybak.catalog.engine import Database
from pybak.catalog.locks import job_lock
from pybak.errors import Interrupted, LockedError, PlanError, StorageError
from pybak.options.rebuild import RebuildOptions
from pybak.rebuild import run as rebuild_run
from pybak.rebuild.run import RebuildRun


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/catalog.db"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path)


def test_a_rebuild_that_fails_leaves_postgresql_as_it_was(
    tree: Path, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 94)"""
    made = Recorded(postgres_url, tmp_path / "to")
    made.back_up(tree)
    before = rows_of(postgres_url)
    fail_in_the_middle(monkeypatch)
    with pytest.raises(StorageError):
        rebuild(postgres_url, tmp_path / "to", replace=True)
    assert rows_of(postgres_url) == before


def fail_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    write = rebuild_run.write_step

    def failing(*words: Any) -> None:
        write(*words)
        raise StorageError("the disk went away")

    monkeypatch.setattr(rebuild_run, "write_step", failing)


def test_a_rebuild_that_fails_leaves_the_file_as_it_was(
    tree: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 94)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    before = rows_of(url)
    fail_in_the_middle(monkeypatch)
    with pytest.raises(StorageError):
        rebuild(url, tmp_path / "to")
    assert rows_of(url) == before
    assert not [name for name in os.listdir(tmp_path / "home") if ".new-" in name]


def test_a_stopped_rebuild_changes_nothing(tree: Path, tmp_path: Path, url: str) -> None:
    """(case 95)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    before = rows_of(url)
    with RebuildRun([str(tmp_path / "to")], RebuildOptions(), catalog_url=url) as run:
        steps = run.read()
        run.request_cancel()
        with pytest.raises(Interrupted):
            run.describe(steps)
        with pytest.raises(Interrupted):
            run.write(steps, {})
    assert rows_of(url) == before


def test_a_rebuild_can_be_stopped_while_it_writes(
    tree: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 95)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    before = rows_of(url)
    with RebuildRun([str(tmp_path / "to")], RebuildOptions(), catalog_url=url) as run:
        steps = run.read()
        volumes = run.describe(steps)
        write = rebuild_run.write_step

        def stopping(*words: Any) -> str | None:
            run.request_cancel()
            return write(*words)

        monkeypatch.setattr(rebuild_run, "write_step", stopping)
        with pytest.raises(Interrupted):
            run.write(steps, volumes)
    assert rows_of(url) == before
    assert not [name for name in os.listdir(tmp_path / "home") if ".new-" in name]


def test_what_a_killed_rebuild_left_goes_after_a_day(tree: Path, tmp_path: Path, url: str) -> None:
    """(case 93)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    old, young = (tmp_path / "home" / f"catalog.db.new-{name}" for name in ("old", "young"))
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    rebuild(url, tmp_path / "to")
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("step", ["_settle", "_held", "_move_side_files", "_name_old", "replace"])
def test_a_kill_while_catalogs_are_swapped_leaves_a_whole_one(
    tree: Path, tmp_path: Path, url: str, step: str
) -> None:
    """(case 94)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    before = rows_of(url)
    child = os.fork()
    if child == 0:
        try:
            from pybak.rebuild import swap

            def die(*_words: Any) -> None:
                os._exit(9)

            if step == "replace":
                swap.os = type("os", (), {**vars(os), "replace": staticmethod(die)})  # type: ignore[assignment]
            else:
                setattr(swap, step, die)
            rebuild(url, tmp_path / "to")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert rows_of(url) == before
    assert rebuild(url, tmp_path / "to").status == "success"
    assert rows_of(url) == before


def test_the_old_catalog_is_kept_beside_the_new_one(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    before = rows_of(url)
    now = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
    report = rebuild(url, tmp_path / "to", now=now)
    kept = tmp_path / "home" / f"catalog.db.old-{now.astimezone():%Y%m%d_%H%M%S}"
    assert report.kept == str(kept)
    assert report.catalog == str(tmp_path / "home" / "catalog.db")
    assert rows_of(f"sqlite:///{kept}") == before
    again = rebuild(url, tmp_path / "to", now=now)
    assert again.kept == f"{kept}_2"
    assert rows_of(url) == before


def leave_log(other: Path, catalog: Path) -> None:
    """Lay a log that SQLite would take in beside a file that it was not made for."""
    database = sqlite3.connect(other)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE stranger (x)")
    database.executemany("INSERT INTO stranger VALUES (?)", [("x" * 3000,)] * 50)
    database.commit()
    # From here on the first page, by which SQLite knows a database, is in the file alone.
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.execute("UPDATE stranger SET x = ?", ("y" * 3000,))
    database.commit()
    for ending in ("-wal", "-shm"):
        shutil.copy(f"{other}{ending}", f"{catalog}{ending}")
    database.close()


@pytest.mark.parametrize("what", ["missing", "empty", "garbage", "cut", "log of another"])
def test_a_catalog_that_is_lost_or_damaged_is_replaced(
    tree: Path, tmp_path: Path, url: str, what: str
) -> None:
    """(case 75)"""
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    change(tree, 1)
    made.back_up(tree)
    before = rows_of(url)
    path = tmp_path / "home" / "catalog.db"
    data = path.read_bytes()
    if what == "missing":
        shutil.rmtree(tmp_path / "home")
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "garbage":
        path.write_bytes(b"no database\n" * 1000)
    elif what == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(b"no database\n" * 1000)
        leave_log(tmp_path / "other.db", path)
    report = rebuild(url, tmp_path / "to")
    assert report.status == "success"
    assert (report.kept is None) == (what == "missing")
    assert ("the old catalog can't be read" in "".join(report.notes)) == (
        what in ("garbage", "cut", "log of another")
    )
    assert rows_of(url) == before
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_catalog_that_is_in_use_stays(
    tree: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 98)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    database = Database(url)
    before = rows_of(url)
    monkeypatch.setattr("pybak.rebuild.swap._WAIT_SECONDS", 0.2)
    with database.transaction(), pytest.raises(LockedError, match="has the catalog open"):
        rebuild(url, tmp_path / "to")
    with pytest.raises(LockedError):  # idle connections are kept open
        rebuild(url, tmp_path / "to")
    database.close()
    assert rows_of(url) == before
    names = os.listdir(tmp_path / "home")
    assert not [name for name in names if ".new-" in name or ".old-" in name]


def test_a_swap_that_fails_leaves_the_catalog_as_it_was(
    tree: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 96)"""
    from pybak.rebuild import swap

    Recorded(url, tmp_path / "to").back_up(tree)
    before = rows_of(url)

    def full(*_words: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(swap, "_name_old", full)
    with pytest.raises(StorageError, match="the old catalog is as it was"):
        rebuild(url, tmp_path / "to")
    assert rows_of(url) == before
    assert query(url, "PRAGMA journal_mode") == [("wal",)]
    assert [n for n in os.listdir(tmp_path / "home") if ".new-" in n or ".old-" in n] == []


def test_a_job_that_is_at_work_keeps_its_catalog(tree: Path, tmp_path: Path, url: str) -> None:
    """(case 98)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    with job_lock("docs"), pytest.raises(LockedError, match="docs"):
        rebuild(url, tmp_path / "to")
    assert rebuild(url, tmp_path / "to").status == "success"


def test_a_link_to_the_catalog_stays_one(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    before = rows_of(url)
    path, real = tmp_path / "home" / "catalog.db", tmp_path / "elsewhere.db"
    path.rename(real)
    path.symlink_to(real)
    rebuild(url, tmp_path / "to")
    assert path.is_symlink()
    assert rows_of(url) == before


def test_postgresql_is_rebuilt_in_one_transaction_if_that_is_asked_for(
    tree: Path, tmp_path: Path, postgres_url: str
) -> None:
    made = Recorded(postgres_url, tmp_path / "to")
    made.back_up(tree)
    change(tree, 1)
    made.back_up(tree)
    before = rows_of(postgres_url)
    with pytest.raises(PlanError, match="holds 2 runs; give --replace"):
        rebuild(postgres_url, tmp_path / "to")
    report = rebuild(postgres_url, tmp_path / "to", replace=True)
    assert (report.status, report.kept) == ("success", None)
    assert rows_of(postgres_url) == before
    assert made.back_up(tree).report.status == "unchanged"
