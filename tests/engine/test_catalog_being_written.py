"""A catalog that can't be written here is read, while its owner may write it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from written import WrittenJob, file

from pybak.catalog import engine
from pybak.catalog.engine import Database
from pybak.catalog.failures import CatalogError
from pybak.catalog.history import History

FILES = 30_000


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog with one snapshot that nobody has open; whoever reads it may not write it."""
    (tmp_path / "archives").mkdir()
    path = tmp_path / "home" / "catalog.db"
    made = WrittenJob(f"sqlite:///{path}", place=tmp_path / "archives")
    made.run(*(file(f"docs/{number:05d}", "one") for number in range(FILES)))
    made.close()
    assert not path.with_name("catalog.db-wal").exists()
    monkeypatch.setattr(engine, "is_read_only", lambda _path: True)
    return path


def write(path: Path) -> None:
    """Change every row, as its owner would, and close it."""
    database = sqlite3.connect(path)
    database.execute("UPDATE file_version SET size = 77, path = path || 'x'")
    database.commit()
    database.close()


def test_what_is_written_while_it_is_read_is_told_and_not_mixed_in(catalog: Path) -> None:
    history = History(Database(f"sqlite:///{catalog}"))
    (snapshot,) = history.snapshots()
    found = history.versions(snapshot)
    next(found)
    write(catalog)
    with pytest.raises(CatalogError, match=r"it is being written\); try again$"):
        list(found)
    again = list(history.versions(snapshot))
    assert [one.size for one in again] == [77] * FILES


def test_what_was_written_between_two_readings_is_seen(catalog: Path) -> None:
    history = History(Database(f"sqlite:///{catalog}"))
    (snapshot,) = history.snapshots()
    assert 77 not in {one.size for one in history.versions(snapshot)}
    write(catalog)
    assert {one.size for one in history.versions(snapshot)} == {77}


def test_a_catalog_that_its_owner_has_open_is_read_as_it_is_at_one_moment(catalog: Path) -> None:
    owner = sqlite3.connect(catalog)
    owner.execute("SELECT COUNT(*) FROM run").fetchall()
    assert catalog.with_name("catalog.db-wal").stat().st_size == 0
    history = History(Database(f"sqlite:///{catalog}"))
    (snapshot,) = history.snapshots()
    found = history.versions(snapshot)
    sizes = [next(found).size]
    write(catalog)
    sizes += [one.size for one in found]
    assert len(sizes) == FILES
    assert 77 not in sizes
    assert {one.size for one in history.versions(snapshot)} == {77}
    owner.close()
