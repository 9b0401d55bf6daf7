"""Runs of one job that nothing kept apart cost the history nothing, whichever ends first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backing_up import Made, Outcome, back_up
from catalogs import query
from rebuilding import rebuild
from written import WrittenJob, file

from pybak.backup.catalog_base import JobHistory
from pybak.backup.record import write_backup
from pybak.backup.run import BackupRun
from pybak.catalog.engine import Database
from pybak.catalog.facts import Snapshot
from pybak.catalog.failures import CatalogError
from pybak.catalog.history import History
from pybak.catalog.recorder import RunRecorder
from pybak.catalog.removal import finish_removal, mark_deleting
from pybak.catalog.runs import Catalog
from pybak.catalog.snapshots import OvertakenError, SnapshotEnd, StoredArchive, write_snapshot
from pybak.formats.manifest_facts import FullFact
from pybak.report import BackupReport

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
COUNTS = (
    "SELECT (SELECT COUNT(*) FROM archive), (SELECT COUNT(*) FROM volume), "
    "(SELECT COUNT(*) FROM file_version), (SELECT COUNT(*) FROM run WHERE is_snapshot)"
)


class Late:
    """A run that has its number and its base; `end` writes its snapshot."""

    def __init__(self, job: WrittenJob, base: Snapshot | None, mode: str = "incremental") -> None:
        self.job = job
        self.run_id = f"late-{mode}"
        catalog = Catalog(job.url)
        seq = catalog.begin_run(self.run_id, kind="backup", job=job.job, options={}, now=NOW)
        catalog.close()
        self._end = SnapshotEnd(
            run_id=self.run_id, job=job.job, seq=seq, status="success",
            mode=mode if base else "full", base_run=base.run_id if base else None,
            base_seq=base.seq if base else None, full_run=base.full_run if base else self.run_id,
            finished_at=NOW, counts={},
        )  # fmt: skip

    def end(
        self, *records: FullFact, meanwhile: Callable[[], object] = lambda: None
    ) -> dict[str, int]:
        archive = StoredArchive(
            name=f"/b/{self.run_id}.zip", format="zip", encrypted=False, members=len(records),
            created_at=NOW, volumes=[],
        )  # fmt: skip
        with self.job.database.transaction() as connection:
            write_snapshot(connection, self._end, archive, records, [])
            meanwhile()
        (found,) = self.job.history.find(self.run_id)
        return held(self.job, found)


def held(job: WrittenJob, snapshot: Snapshot) -> dict[str, int]:
    return {one.path.decode(): one.size for one in job.history.versions(snapshot)}


@pytest.fixture
def job(any_catalog: str) -> WrittenJob:
    return WrittenJob(any_catalog)


@pytest.mark.parametrize("late_mode", ["full", "incremental", "differential"])
@pytest.mark.parametrize("is_full", [True, False], ids=["full", "incremental"])
def test_a_run_that_ends_after_a_later_one_is_not_written(
    job: WrittenJob, late_mode: str, is_full: bool
) -> None:
    first = job.run(file("a", "1"), file("b", "1"))
    late = Late(job, None if late_mode == "full" else first, late_mode)
    if is_full:
        second = job.run(file("a", "22"), file("b", "1"), file("new", "1"))
    else:
        second = job.run(file("a", "22"), file("new", "1"), base=first)
    before = query(job.url, COUNTS)
    with pytest.raises(OvertakenError) as refused:
        late.end(file("a", "333"))
    told = str(refused.value)
    assert told.startswith(f"run {second.run_id}, which began after this one")
    assert "/b/late-" in told
    assert "run `python flows/rebuild.py DESTINATION`" in told
    assert query(job.url, COUNTS) == before
    assert held(job, first) == {"a": 1, "b": 1}
    assert held(job, second) == {"a": 2, "b": 1, "new": 1}


def test_a_later_run_whose_snapshot_was_removed_again_has_overtaken_it_too(
    job: WrittenJob,
) -> None:
    first = job.run(file("a", "1"))
    late = Late(job, first)
    second = job.run(file("a", "22"), file("new", "1"), base=first)
    mark_deleting(job.database, "docs", runs=[second.run_id], archives=[])
    with pytest.raises(OvertakenError, match="began after"):
        late.end()
    assert held(job, first) == {"a": 1}


def test_later_runs_that_recorded_nothing_and_other_jobs_overtake_nobody(job: WrittenJob) -> None:
    first = job.run(file("a", "1"), file("b", "1"))
    late = Late(job, first)
    catalog = Catalog(job.url)
    for run_id, status in (("later", None), ("failed", "failed"), ("unchanged", "unchanged")):
        catalog.begin_run(run_id, kind="backup", job="docs", options={}, now=NOW)
        if status is not None:
            catalog.finish_run(run_id, status=status, counts={}, now=NOW)
    catalog.close()
    other = WrittenJob(job.url, "mail")
    for _ in range(4):
        other.run(file("m"))
    assert late.end(file("a", "22")) == {"a": 2, "b": 1}


def test_a_later_run_that_ends_after_it_goes_back_to_the_base_of_both(job: WrittenJob) -> None:
    first = job.run(file("a", "1"), file("b", "1"))
    late = Late(job, first)
    later = Late(job, first, "differential")
    assert late.end(file("a", "22"), file("new", "1")) == {"a": 2, "b": 1, "new": 1}
    assert later.end(file("b", "333")) == {"a": 1, "b": 3}
    assert held(job, first) == {"a": 1, "b": 1}


@pytest.mark.parametrize("is_deleted", [False, True], ids=["leaving", "deleted"])
@pytest.mark.parametrize("mode", ["incremental", "differential"])
def test_a_run_whose_base_was_pruned_meanwhile_is_not_written(
    job: WrittenJob, mode: str, is_deleted: bool
) -> None:
    first = job.run(file("a", "1"), file("b", "1"))
    late = Late(job, first, mode)
    (archive,) = job.history.archives(first)
    mark_deleting(job.database, "docs", runs=[first.run_id], archives=[archive.id])
    if is_deleted:
        finish_removal(job.database, [archive.id])
    before = query(job.url, COUNTS)
    with pytest.raises(OvertakenError) as refused:
        late.end(file("a", "22"))
    told = str(refused.value)
    assert told.startswith(f"run {first.run_id}, to which /b/late-{mode}.zip is the difference")
    assert "run `python flows/rebuild.py DESTINATION`" in told
    assert query(job.url, COUNTS) == before


def test_a_base_whose_row_is_gone_is_none(job: WrittenJob) -> None:
    first = job.run(file("a", "1"))
    late = Late(job, first)
    with job.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM run WHERE seq = 1")
    with pytest.raises(CatalogError, match="removed from the history"):
        late.end()


def test_a_full_run_is_a_base_as_long_as_its_archive_is_there(job: WrittenJob) -> None:
    """Its snapshot may have been removed before; only differential runs go back to it then."""
    full = job.run(file("a", "1"), file("b", "1"))
    second = job.run(file("a", "22"), base=full)
    mark_deleting(job.database, "docs", runs=[full.run_id], archives=[])
    assert Late(job, full, "differential").end(file("b", "333")) == {"a": 1, "b": 3}
    mark_deleting(job.database, "docs", runs=[second.run_id], archives=[])
    with pytest.raises(OvertakenError, match=second.run_id):
        Late(job, second).end(file("b", "333"))


def test_of_two_that_write_at_once_one_waits_for_the_other(job: WrittenJob) -> None:
    first = job.run(file("a", "1"))
    late, later = Late(job, first), Late(job, first, "differential")
    begun, told = threading.Event(), list[str]()

    def end_late() -> None:
        begun.set()
        try:
            late.end(file("late", "1"))
        except OvertakenError as error:
            told.append(str(error))

    thread = threading.Thread(target=end_late)

    def meanwhile() -> None:
        thread.start()
        begun.wait()
        thread.join(0.5)
        assert thread.is_alive(), "it waits"

    assert later.end(file("later", "1"), meanwhile=meanwhile) == {"a": 1, "later": 1}
    thread.join()
    assert len(told) == 1
    assert late.job.history.find(late.run_id) == []


def test_a_prune_that_marks_the_base_meanwhile_waits_and_finds_it_needed(job: WrittenJob) -> None:
    first = job.run(file("a", "1"), file("b", "1"))
    (archive,) = job.history.archives(first)
    late = Late(job, first)
    begun, told = threading.Event(), list[str]()

    def mark() -> None:
        begun.set()
        try:
            mark_deleting(job.database, "docs", runs=[first.run_id], archives=[archive.id])
        except CatalogError as error:
            told.append(str(error))

    thread = threading.Thread(target=mark)

    def meanwhile() -> None:
        thread.start()
        begun.wait()
        thread.join(0.5)
        assert thread.is_alive(), "it waits"

    assert late.end(file("a", "22"), meanwhile=meanwhile) == {"a": 2, "b": 1}
    thread.join()
    assert len(told) == 1
    assert "needed by now" in told[0]
    assert held(job, first) == {"a": 1, "b": 1}


# ---- backups themselves


class Runs:
    """Backups of one job that nothing keeps apart."""

    def __init__(self, url: str, to: Path) -> None:
        self.url = url
        self.to = to
        self.now = datetime.now(UTC) + timedelta(seconds=5)
        self.problems: list[str | None] = []

    def back_up(self, source: Path, **options: Any) -> Outcome:
        self.now += timedelta(seconds=61)
        now = self.now
        recorders: list[RunRecorder] = []

        def begin(run: BackupRun) -> JobHistory:
            recorder = RunRecorder(
                self.url, run.run_id, kind="backup", job=run.job, options={}, now=now
            )
            assert recorder.history is not None
            recorders.append(recorder)
            run.seq = recorder.seq
            return JobHistory(recorder.history, run.job)

        def after(run: BackupRun, report: BackupReport, made: Made) -> None:
            self.problems.append(
                recorders[0].finish(
                    status=report.status, counts=report.files.to_json(), now=now,
                    write=lambda connection: write_backup(
                        connection, run=run, report=report, **made._asdict(), now=now
                    ),
                )
            )  # fmt: skip

        return back_up(source, to=self.to, job="docs", begin=begin, after=after, now=now, **options)

    def held(self) -> dict[int, set[str]]:
        """Give what each snapshot holds; fails if it holds a name twice."""
        database = Database(self.url)
        history = History(database)
        try:
            found = {}
            for one in history.snapshots("docs"):
                names = [version.path.decode() for version in history.versions(one)]
                assert len(set(names)) == len(names)
                found[one.seq] = {f"{name.rpartition('/')[2]}" for name in names} - {"src"}
            return found
        finally:
            database.close()


def test_a_backup_that_was_overtaken_is_complete_and_is_added_by_a_rebuild(
    any_catalog: str, tmp_path: Path
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for name in "abc":
        (source / name).write_text(name)
    runs = Runs(any_catalog, tmp_path / "to")
    runs.to.mkdir()
    runs.back_up(source, mode="full")
    (source / "a").unlink()
    (source / "late").write_text("late")

    def meanwhile(_run: BackupRun) -> None:
        (source / "later").write_text("later")
        runs.back_up(source, mode="full")

    done = runs.back_up(source, mode="incremental", before_reading=meanwhile)
    before = {1: {"a", "b", "c"}, 3: {"b", "c", "late", "later"}}
    assert runs.held() == before
    assert done.report.status == "success"
    assert done.path.is_file()
    assert [problem is None for problem in runs.problems] == [True, True, False]
    assert str(done.path) in str(runs.problems[2])
    ((status, archive, message, is_snapshot),) = query(
        any_catalog, "SELECT status, archive, message, is_snapshot FROM run WHERE seq = 2"
    )
    assert (status, archive, message, bool(is_snapshot)) == (
        "success", None, runs.problems[2], False,
    )  # fmt: skip
    assert rebuild(any_catalog, runs.to, replace=True).status == "success"
    assert runs.held() == {**before, 2: {"b", "c", "late"}}
