"""Whether a run is a job's first one, told before the catalog is opened."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from written import BEGIN, WrittenJob, file

from pybak.catalog.peek import is_first_run
from pybak.catalog.runs import Catalog


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "catalog.db"


def url_of(place: Path) -> str:
    return f"sqlite:///{place}"


def test_without_a_catalog_it_is_the_first_and_none_is_made(place: Path) -> None:
    assert is_first_run(url_of(place), "docs")
    assert not place.parent.exists()
    place.parent.mkdir()
    assert is_first_run(url_of(place), "docs")
    place.touch()
    assert is_first_run(url_of(place), "docs")
    assert os.listdir(place.parent) == [place.name]


def test_a_snapshot_makes_the_next_run_another(place: Path) -> None:
    place.parent.mkdir()
    WrittenJob(url_of(place)).run(file("f"))
    assert not is_first_run(url_of(place), "docs")
    assert is_first_run(url_of(place), "photos")
    (place.parent / "link").symlink_to(place)
    assert not is_first_run(url_of(place.parent / "link"), "docs")


def test_a_run_that_made_none_does_not(place: Path) -> None:
    place.parent.mkdir()
    catalog = Catalog(url_of(place))
    catalog.begin_run("one", kind="backup", job="docs", options={}, now=BEGIN)
    catalog.close()
    assert is_first_run(url_of(place), "docs")


def test_what_is_in_doubt_is_no_first_run(place: Path) -> None:
    place.parent.mkdir()
    place.write_bytes(b"no database at all" * 1000)
    assert not is_first_run(url_of(place), "docs")
    place.unlink()
    with sqlite3.connect(place) as other:
        other.execute("CREATE TABLE run (other)")
    other.close()
    assert not is_first_run(url_of(place), "docs")
    place.unlink()
    place.mkdir()
    assert not is_first_run(url_of(place), "docs")
    for job in ("d\udcffcs", "döcs", "d\\ocs"):
        assert not is_first_run(url_of(place.parent / "none.db"), job)
    for url in (
        "postgresql://host/db", "block:catalog", "sqlite://", "sqlite:///none.db?mode=ro",
        "sqlite:///no\0ne.db",
    ):  # fmt: skip
        assert not is_first_run(url, "docs")


def test_it_needs_nothing_that_takes_time_to_import() -> None:
    looked = "import sys, pybak.catalog.peek; sys.exit('sqlalchemy' in sys.modules)"
    subprocess.run([sys.executable, "-c", looked], check=True)


def test_whoever_writes_is_not_waited_for(place: Path) -> None:
    place.parent.mkdir()
    job = WrittenJob(url_of(place))
    job.run(file("f"))
    job.database.close()
    holder = sqlite3.connect(place, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        assert not is_first_run(url_of(place), "docs")
    finally:
        holder.close()
