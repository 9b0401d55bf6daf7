"""A prune of real files and a real catalog: what goes, what stays, and what a kill leaves."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from jobs import Job
from pruning import DIFFERENTIAL, INCREMENTAL, Shelf, names

from pybak.catalog import removal
from pybak.catalog.failures import CatalogError
from pybak.catalog.locks import archives_lock, job_lock
from pybak.catalog.removal import mark_deleting
from pybak.catalog.runs import Catalog
from pybak.errors import (
    ExitCode,
    LockedError,
    NotFoundError,
    PlanError,
    StorageError,
)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "backups", f"sqlite:///{tmp_path}/catalog.db")


def test_archives_that_nothing_needs_go_from_storage_and_catalog(
    any_catalog: str, tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path / "backups", any_catalog)
    for number in range(1, 6):
        last = shelf.add({"a": number, "b": 1}, volumes=2)
    done = shelf.prune(keep_last=2)
    assert [one.seq for one in done.keep] == [5, 4]
    assert [one.seq for one in done.remove] == [3, 2, 1]
    assert done.status == "success"
    assert all(one.archive_deleted for one in done.remove)
    assert done.deleted == tuple(str(shelf.folder / name) for name in names(1, 2, 3))
    assert done.bytes_freed == 3 * 2 * (1000 + len("docs_0001.zip.001"))
    assert shelf.files() == [
        f"{name}.{volume}" for name in names(4, 5) for volume in ("001", "002")
    ]
    assert shelf.counts() == {"archive": 2, "volume": 4, "file_version": 4}
    assert shelf.seqs() == [4, 5]
    assert shelf.held(last) == {"a": 5, "b": 1}


def test_a_run_whose_snapshot_is_removed_stays_in_the_record(shelf: Shelf) -> None:
    first, _ = shelf.add({"a": 1}), shelf.add({"a": 2})
    shelf.prune(keep_last=1)
    run = Catalog(shelf.url).get_run(first.run_id)
    assert run is not None
    assert (run.status, run.archive, run.is_snapshot) == ("success", None, False)
    assert run.message == "the snapshot was removed by a prune"


def test_a_chain_keeps_what_its_end_needs(any_catalog: str, tmp_path: Path) -> None:
    """(case 109)"""
    shelf = Shelf(tmp_path / "backups", any_catalog)
    shelf.add({"a": 1, "b": 1, "c": 1})
    shelf.add({"b": 2}, mode=INCREMENTAL)
    shelf.add({"b": 3, "n": 3}, mode=INCREMENTAL, gone=["c"])
    last = shelf.add({"m": 4}, mode=INCREMENTAL)
    content = {"a": 1, "b": 3, "n": 3, "m": 4}
    assert shelf.held(last) == content
    done = shelf.prune(keep_last=1)
    assert [(one.seq, one.reasons) for one in done.keep] == [
        (4, ("the last one",)), (3, ("needed by run 4",)), (1, ("needed by run 4",)),
    ]  # fmt: skip
    assert [one.seq for one in done.remove] == [2]
    assert shelf.files() == names(1, 3, 4)
    assert shelf.held(last) == content


def test_an_archive_that_was_left_goes_when_nothing_needs_it_any_more(shelf: Shelf) -> None:
    shelf.add({"a": 1, "b": 1})
    shelf.add({"x": 2}, mode=INCREMENTAL)
    shelf.add({"b": 3}, mode=INCREMENTAL)
    last = shelf.add({"x": 4}, mode=INCREMENTAL)
    shelf.prune(keep_last=1)
    assert shelf.files() == names(1, 3, 4)
    assert shelf.seqs() == [1, 4]  # run 3 had x from run 2
    assert shelf.held(last) == {"a": 1, "b": 3, "x": 4}
    shelf.add({"a": 5})
    done = shelf.prune(keep_last=1)
    assert shelf.files() == names(5)
    assert len(done.deleted) == 3
    assert [one.seq for one in done.remove] == [4, 1]


def test_a_removed_snapshot_whose_archive_stays_says_so(shelf: Shelf) -> None:
    shelf.add({"a": 1, "b": 1})
    shelf.add({"x": 2}, mode=INCREMENTAL)
    shelf.add({"b": 3}, mode=INCREMENTAL)
    shelf.add({"x": 4}, mode=INCREMENTAL)
    third, second = shelf.prune(keep_last=1).remove
    assert not third.archive_deleted
    assert third.reasons == ("no rule keeps it", "its archive stays: needed by run 4")
    assert second.archive_deleted


def test_runs_go_on_as_before_after_a_prune(shelf: Shelf) -> None:
    shelf.add({"a": 1, "b": 1})
    shelf.add({"b": 2}, mode=INCREMENTAL)
    shelf.add({"b": 3}, mode=INCREMENTAL)
    shelf.prune(keep_last=1)
    fourth = shelf.add({"c": 4}, mode=INCREMENTAL, gone=["a"])
    fifth = shelf.add({"a": 5, "b": 5, "c": 5}, mode=DIFFERENTIAL)
    assert shelf.held(fourth) == {"b": 3, "c": 4}
    assert shelf.held(fifth) == {"a": 5, "b": 5, "c": 5}


def test_a_dry_run_shows_the_same_and_changes_nothing(shelf: Shelf) -> None:
    for number in range(1, 4):
        shelf.add({"a": number})
    before = (shelf.files(), shelf.counts(), shelf.seqs())
    shown = shelf.rehearse(keep_last=1)
    assert (shelf.files(), shelf.counts(), shelf.seqs()) == before
    done = shelf.prune(keep_last=1)
    assert shown == done
    assert [one.reasons for one in shown.remove] == [("no rule keeps it",)] * 2


def test_the_newest_good_snapshot_stays_whatever_comes_after(shelf: Shelf) -> None:
    """(case 108)"""
    good = shelf.add({"a": 1})
    for number in (2, 3, 4):
        shelf.add({"a": number}, status="partial")
    done = shelf.prune(keep_last=1)
    assert [(one.seq, one.reasons) for one in done.keep] == [
        (4, ("the last one",)), (1, ("the last good one",)),
    ]  # fmt: skip
    assert shelf.held(good) == {"a": 1}


def test_jobs_do_not_touch_each_other(shelf: Shelf) -> None:
    for number in (1, 2):
        shelf.add({"a": number})
        shelf.add({"a": number}, job="mail")
    shelf.prune("mail", keep_last=1)
    assert shelf.files() == [*names(1, 3), *names(4, job="mail")]
    assert shelf.seqs() == [1, 2]


def test_tags_keep(shelf: Shelf) -> None:
    shelf.add({"a": 1}, tags=["keep"])
    shelf.add({"a": 2})
    shelf.add({"a": 3})
    shelf.prune(keep_tag=["keep"])
    assert shelf.seqs() == [1, 3]


def test_what_is_asked_wrongly_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    """(case 108)"""
    with pytest.raises(PlanError, match="no rule says what to keep") as refused:
        shelf.run()
    assert refused.value.exit_code == ExitCode.USAGE
    with shelf.run(keep_last=1) as run:
        with pytest.raises(NotFoundError, match="docs: no backup of this job"):
            run.jobs("docs")
        # Else a scheduled prune of a lost catalog would look fine for ever.
        with pytest.raises(NotFoundError, match=r"rebuild\.py"):
            run.jobs(None)
    assert not (tmp_path / "catalog.db").exists()
    shelf.add({"a": 1}, job="mail")
    with shelf.run(keep_last=1) as run, pytest.raises(NotFoundError, match="known are mail"):
        run.jobs("docs")


def test_a_job_at_work_is_left_alone(shelf: Shelf) -> None:
    """(case 98)"""
    shelf.add({"a": 1})
    with job_lock("docs"), pytest.raises(LockedError):
        shelf.prune(keep_last=1)
    with (
        archives_lock("docs", shared=True),
        pytest.raises(LockedError, match="are being read"),
    ):
        shelf.prune(keep_last=1)
    shelf.prune(keep_last=1)


def test_nothing_is_deleted_where_no_lock_can_be_had(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.add({"a": 1})
    shelf.add({"a": 2})
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "file/home"))
    with pytest.raises(StorageError, match="can't hold locks"):
        shelf.prune(keep_last=1)
    assert shelf.files() == names(1, 2)


def test_what_came_between_plan_and_deed_undoes_it(shelf: Shelf) -> None:
    first = shelf.add({"a": 1, "b": 1})
    shelf.add({"a": 2, "b": 2})
    (number, _) = (one.id for one in shelf.history.archives_of_job("docs"))
    before = shelf.counts()
    shelf.add({"a": 3}, mode=INCREMENTAL)
    with shelf.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE file_version SET archive_id = ? WHERE first_seq = 3", (number,)
        )
    with pytest.raises(CatalogError, match="is needed by now; run prune again"):
        mark_deleting(shelf.database, "docs", runs=[first.run_id], archives=[number])
    with pytest.raises(CatalogError):
        mark_deleting(shelf.database, "docs", runs=[], archives=[number + 1])
    assert shelf.seqs() == [1, 2, 3]
    assert before["archive"] == 2


def test_many_archives_go_in_one_run(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the parameters that one statement gets."""
    monkeypatch.setattr(removal, "_CHUNK", 3)
    for number in range(1, 12):
        shelf.add({"a": number})
    done = shelf.prune(keep_last=1)
    assert len(done.deleted) == 10
    assert shelf.files() == names(11)
    assert shelf.counts() == {"archive": 1, "volume": 1, "file_version": 1}


def test_a_clock_that_was_wrong_never_costs_the_newest_content(tmp_path: Path) -> None:
    """What the next run compares with, and what `latest` gives, is what stays."""
    job = Job(tmp_path)
    days = ["2026-03-20", "2026-03-10", "2099-01-01", "2026-03-21", "2026-03-22"]
    left = [[1], [1, 2], [1, 2, 3], [3, 4], [3, 5]]
    for number, (day, expected) in enumerate(zip(days, left, strict=True), 1):
        (job.source / "a").write_text(f"{number}" * number)
        job.run("full", now=datetime.fromisoformat(f"{day}T10:00:00+00:00"))
        job.prune(keep_last=1, keep_within="1h")
        assert [one.seq for one in job.snapshots] == expected
        _, folder = job.restore()
        assert (folder / "a").read_text() == f"{number}" * number
