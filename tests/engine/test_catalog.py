"""The catalog keeps runs, and never stands in a run's way."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from catalogs import file_of, query, run_sql

from pybak.catalog.recorder import RunRecorder
from pybak.catalog.runs import Catalog, CatalogError

NOW = datetime(2026, 11, 21, 12, tzinfo=timezone(timedelta(hours=2)))


@pytest.fixture
def url(any_catalog: str) -> str:
    """SQLite and PostgreSQL do the same."""
    return any_catalog


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/deep/home/catalog.db"


def begin(catalog: Catalog, run_id: str, job: str = "docs", kind: str = "backup") -> None:
    catalog.begin_run(run_id, kind=kind, job=job, options={"level": 2}, now=NOW)


def finish(catalog: Catalog, run_id: str, **more: Any) -> None:
    settings = {"status": "success", "counts": {"new": 3}, "now": NOW} | more
    catalog.finish_run(run_id, **settings)


def test_a_run_is_there_from_its_first_moment(url: str) -> None:
    catalog = Catalog(url)
    begin(catalog, "a")
    run = catalog.get_run("a")
    assert run is not None
    assert (run.seq, run.status, run.finished_at) == (1, "running", None)
    assert run.started_at.replace(tzinfo=None) == datetime(2026, 11, 21, 10)  # noqa: DTZ001 - UTC
    finish(catalog, "a", archive="/x.zip")
    done = catalog.get_run("a")
    assert done is not None
    assert (done.status, done.archive, done.counts) == ("success", "/x.zip", {"new": 3})
    catalog.close()


def test_runs_are_counted_by_job(url: str) -> None:
    catalog = Catalog(url)
    for run_id, job in [("a", "docs"), ("b", "docs"), ("c", "mail"), ("d", "docs")]:
        begin(catalog, run_id, job)
    assert [catalog.get_run(n).seq for n in "abcd"] == [1, 2, 1, 3]  # type: ignore[union-attr]


def test_the_newest_archive_is_that_of_the_last_good_backup(url: str) -> None:
    catalog = Catalog(url)
    for run_id in "abc":
        begin(catalog, run_id)
    begin(catalog, "r", kind="restore")
    finish(catalog, "a", archive="/1.zip")
    finish(catalog, "b", archive="/2.zip")
    finish(catalog, "c", status="failed")
    finish(catalog, "r", archive="/restored-from.zip")
    assert catalog.newest_archive("docs") == "/2.zip"
    assert catalog.newest_archive("other") is None
    assert catalog.backup_jobs() == ["docs"]


def test_a_run_that_is_not_there_is_left_alone(url: str) -> None:
    catalog = Catalog(url)
    finish(catalog, "nobody")
    assert catalog.get_run("nobody") is None


def test_runs_that_end_at_once_wait_for_each_other(url: str) -> None:
    """(case 98)"""
    Catalog(url).close()

    def record(number: int) -> None:
        catalog = Catalog(url)
        begin(catalog, str(number), job=str(number))
        finish(catalog, str(number))
        catalog.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record, range(24)))
    assert query(url, "select count(*) from run where status='success'") == [(24,)]


def test_first_runs_at_once_both_make_the_catalog(url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        catalogs = list(pool.map(lambda _: Catalog(url), range(8)))
    for number, catalog in enumerate(catalogs):
        begin(catalog, str(number))


def recorder(url: str) -> RunRecorder:
    return RunRecorder(url, "a", kind="backup", job="docs", options={}, now=NOW)


def test_a_recorder_begins_and_ends_a_run(url: str) -> None:
    assert recorder(url).finish(status="partial", counts={}, now=NOW, message="m") is None
    run = Catalog(url).get_run("a")
    assert run is not None
    assert (run.status, run.message) == ("partial", "m")


@pytest.mark.parametrize(
    "wrong", ["sqlite:////proc/nothing/catalog.db", "nonsense", "oracle://u:secret@host/db"]
)
def test_a_catalog_that_can_not_be_used_is_only_noted(wrong: str) -> None:
    """In one line, without the password that its address may hold."""
    noted = recorder(wrong).finish(status="success", counts={}, now=NOW)
    assert noted is not None
    assert "the catalog can't be used" in noted
    assert "\n" not in noted
    assert "secret" not in noted


def test_a_catalog_that_breaks_on_the_way_is_only_noted(url: str) -> None:
    begun = recorder(url)
    run_sql(url, "drop table run;")
    noted = str(begun.finish(status="success", counts={}, now=NOW))
    assert "no such table" in noted or 'relation "run" does not exist' in noted
    assert "flows/rebuild.py" in noted


def test_times_are_kept_in_utc(url: str) -> None:
    catalog = Catalog(url)
    begin(catalog, "a")
    finish(catalog, "a", now=NOW.astimezone(UTC))
    run = catalog.get_run("a")
    assert run is not None
    assert run.finished_at is not None
    assert run.finished_at.hour == 10


def test_the_catalog_is_for_its_owner_only(sqlite_url: str) -> None:
    """It holds paths and settings."""
    catalog = Catalog(sqlite_url)
    begin(catalog, "a")
    folder = file_of(sqlite_url).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    catalog.close()


def test_runs_of_a_job_that_begin_at_once_get_numbers_of_their_own(url: str) -> None:
    """(case 98)"""
    Catalog(url).close()
    ready = threading.Barrier(6)

    def record(number: int) -> None:
        catalog = Catalog(url)
        ready.wait()
        for again in range(5):
            begin(catalog, f"{number}-{again}")
        catalog.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(record, range(6)))
    numbers = query(url, "select seq from run order by seq")
    assert numbers == [(number,) for number in range(1, 31)]


def test_a_run_that_is_begun_twice_is_an_error(url: str) -> None:
    catalog = Catalog(url)
    begin(catalog, "a")
    with pytest.raises(CatalogError):
        begin(catalog, "a")


def test_text_that_is_not_utf_8_comes_back_as_it_was(url: str) -> None:
    """Names on disk are bytes (case 3)."""
    odd = os.fsdecode(b"/b\xff \\ \\xff \\\\ \xc3\xa4")
    catalog = Catalog(url)
    catalog.begin_run("a", kind="backup", job=odd, options={"sources": [odd]}, now=NOW)
    finish(catalog, "a", archive=odd, message=odd, counts={odd: 1})
    run = catalog.get_run("a")
    assert run is not None
    assert (run.job, run.archive, run.message) == (odd, odd, odd)
    assert (run.options, run.counts) == ({"sources": [odd]}, {odd: 1})
    assert catalog.backup_jobs() == [odd]
    assert catalog.newest_archive(odd) == odd


def test_text_that_can_not_be_stored_is_only_noted(url: str) -> None:
    noted = RunRecorder(url, "a", kind="backup", job="\ud800", options={}, now=NOW)
    assert "can't be used" in str(noted.problem)
