"""Of a rebuilt catalog no snapshot passes for whole that is not (case 75)."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backing_up import Outcome
from jobs import Job
from rebuilding import rebuild, rows_of, states
from recorded import Recorded

from pybak.backup.catalog_base import CatalogBase
from pybak.catalog.engine import Database
from pybak.catalog.facts import Snapshot
from pybak.catalog.history import History
from pybak.catalog.locks import job_lock
from pybak.errors import LockedError
from pybak.formats.manifest_facts import Head
from pybak.formats.opening import open_archive
from pybak.retention.reading import manifest_of


@pytest.fixture
def job(tmp_path: Path) -> Job:
    made = Job(tmp_path / "job")
    for name in "pqr":
        (made.source / name).write_text(f"{name}1")
    return made


def contents(folder: Path) -> dict[str, str]:
    return {one.name: one.read_text() for one in folder.iterdir()}


@contextmanager
def opened(job: Job) -> Iterator[History]:
    """Open the catalog, and close it again: nobody may have it open during a rebuild."""
    database = Database(job.url)
    try:
        yield History(database)
    finally:
        database.close()


def snapshots_of(job: Job) -> list[Snapshot]:
    with opened(job) as history:
        return history.snapshots(job.name)


def statuses(job: Job) -> dict[int, str]:
    return {one.seq: one.status for one in snapshots_of(job)}


def errors_of(job: Job, run: Outcome) -> list[str]:
    with opened(job) as history:
        return [one.message for one in history.errors(run.report.run_id or "")]


def test_a_snapshot_whose_archives_were_pruned_counts_as_partial(job: Job) -> None:
    """(case 75)"""
    runs = [job.run()]
    for name, text in (("p", "p2"), ("q", "q2"), ("p", "p3")):
        (job.source / name).write_text(text)
        runs.append(job.run())
    job.prune(keep_last=1)
    assert len(job.archives) == 3
    report = rebuild(job.url, job.store)
    assert statuses(job) == {1: "success", 3: "partial", 4: "success"}
    (error,) = report.errors
    second = runs[1].report.run_id or ""
    assert (error.path, error.code) == (str(runs[2].path), "storage")
    assert f"run {second[:8]}, which it needs, is not there" in error.message
    assert [run.status for run in report.runs] == ["success", "partial", "success"]
    assert errors_of(job, runs[2]) == [error.message]
    _, folder = job.restore()
    assert contents(folder) == {"p": "p3", "q": "q2", "r": "r1"}


def test_an_older_version_in_place_of_a_lost_one_is_told(job: Job) -> None:
    """(case 75)"""
    runs = [job.run()]
    for name, text in (("p", "p2"), ("q", "q2"), ("r", "r2")):
        (job.source / name).write_text(text)
        runs.append(job.run())
    runs[1].path.unlink()
    report = rebuild(job.url, job.store)
    assert statuses(job) == {1: "success", 3: "partial", 4: "partial"}
    assert [error.code for error in report.errors] == ["storage", "storage"]
    # The next run saves what is lost, and what it makes needs the lost archive no more.
    assert job.run().report.status == "success"
    assert rebuild(job.url, job.store).status == "partial"
    assert statuses(job) == {1: "success", 3: "partial", 4: "partial", 5: "success"}
    _, folder = job.restore()
    assert contents(folder) == {"p": "p2", "q": "q2", "r": "r2"}


def test_an_archive_that_was_never_recorded_is_no_base(job: Job) -> None:
    """(case 93)"""
    job.run()
    (job.source / "q").write_text("q2")
    second = job.run()
    (job.source / "y").write_text("not for long")
    child = os.fork()
    if child == 0:
        try:
            job.run(before_recording=lambda: os._exit(9))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (job.source / "y").unlink()
    (job.source / "q").write_text("q4")
    fourth = job.run()
    second.path.unlink()  # as a prune does: nothing of it is needed
    rebuild(job.url, job.store)
    # It is a snapshot itself, and was made after the second.
    assert statuses(job) == {1: "success", 3: "partial", 4: "success"}
    assert snapshots_of(job)[-1].run_id == fourth.report.run_id
    _, folder = job.restore()
    assert contents(folder) == {"p": "p1", "q": "q4", "r": "r1"}


def test_a_file_that_failed_keeps_the_archive_of_its_old_version_needed(job: Job) -> None:
    """Its old version stays in the snapshot, though it was to be saved anew."""
    job.run()
    (job.source / "p").write_text("p2")
    second = job.run()
    (job.source / "p").write_text("the third")
    (job.source / "q").write_text("q3")

    def swap(_run: object) -> None:
        (job.source / "p").unlink()
        (job.source / "p").mkdir()

    third = job.run(before_reading=swap)
    assert third.report.status == "partial"
    second.path.unlink()
    rebuild(job.url, job.store)
    message = errors_of(job, third)[-1]
    assert f"the archive of run {(second.report.run_id or '')[:8]}" in message


def test_runs_go_on_from_a_rebuilt_catalog_that_lacks_some(job: Job) -> None:
    """What its later archives need is told by them as well."""
    job.run()
    (job.source / "p").write_text("p2")
    job.run()
    (job.source / "q").write_text("q2")
    third = job.run()
    (job.source / "q").write_text("q3")
    job.run()
    third.path.unlink()
    assert rebuild(job.url, job.store).status == "success"
    (job.source / "q").write_text("q4")
    fifth = job.run()
    before = rows_of(job.url)
    assert rebuild(job.url, job.store).status == "success"
    assert rows_of(job.url) == before
    head = read_head(fifth.path)
    ids = [one.run_id for one in snapshots_of(job)]
    assert [run for run in head.bases or () if run in ids] == [ids[2], ids[1], ids[0]]
    assert set(head.needs or ()) == {ids[0], ids[1]}


def test_a_chain_that_was_consolidated_is_whole(job: Job) -> None:
    """Archives that were made before say that they need those which are gone."""
    job.run()
    for text in ("p2", "p3", "p4"):
        (job.source / "p").write_text(text)
        (job.source / text).write_text(text)
        job.run()
    job.prune(keep_last=2, consolidate=True)
    assert len(job.archives) == 2
    before = rows_of(job.url)
    report = rebuild(job.url, job.store)
    assert (report.status, report.errors) == ("success", ())
    assert statuses(job) == {3: "success", 4: "success"}
    assert rows_of(job.url)["file_version"] == before["file_version"]


def test_of_two_archives_of_a_run_the_full_one_counts(job: Job, tmp_path: Path) -> None:
    """As a kill while chains are consolidated may leave both."""
    job.run()
    for text in ("p2", "p3"):
        (job.source / "p").write_text(text)
        last = job.run()
    aside = tmp_path / "aside.zip"
    shutil.copy(last.path, aside)
    job.prune(keep_last=1, consolidate=True)
    (full,) = job.archives
    for name in ("a.zip", "z.zip"):
        aside.rename(job.store / name)
        report = rebuild(job.url, job.store)
        assert (report.status, report.errors) == ("success", ())
        assert [run.archive for run in report.runs] == [str(full)]
        assert [os.path.basename(one.path) for one in report.skipped] == [name]
        aside = job.store / name


def test_a_manifest_that_names_only_its_base_makes_partial_snapshots_without_it(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CatalogBase, "lineage", lambda *_words: None)
    job.run()
    for text in ("p2", "p3"):
        (job.source / "p").write_text(text)
        last = job.run()
    assert read_head(last.path).bases is None
    assert rebuild(job.url, job.store).status == "success"
    job.archives[1].unlink()
    assert rebuild(job.url, job.store).status == "partial"
    assert statuses(job) == {1: "success", 3: "partial"}


def test_jobs_that_only_the_old_catalog_knows_are_waited_for_too(job: Job, tmp_path: Path) -> None:
    """(case 98)"""
    job.run()
    Recorded(job.url, tmp_path / "elsewhere", job="other").back_up(job.source)
    before = rows_of(job.url)
    with job_lock("other"), pytest.raises(LockedError, match="other"):
        rebuild(job.url, job.store)
    assert rows_of(job.url) == before
    assert rebuild(job.url, job.store).status == "success"


def read_head(path: Path) -> Head:
    with open_archive([os.fsencode(path)]) as archive:
        return manifest_of(archive).head


@pytest.mark.parametrize("seed", range(5))
def test_a_snapshot_counts_as_whole_if_and_only_if_it_is(job: Job, seed: int) -> None:
    """Whatever archives are lost, of runs in any mode."""
    chance = random.Random(seed)
    runs = {}
    for number in range(9):
        for name in chance.sample("pqrst", 2):
            path = job.source / name
            if chance.random() < 0.3:
                path.unlink(missing_ok=True)
            else:
                path.write_text(f"{name} {number}")
        for path in sorted(job.source.iterdir()):
            if chance.random() < 0.2:
                path.chmod(chance.choice([0o600, 0o640]))
        mode = chance.choice(["incremental"] * 6 + ["differential", "full"])
        made = job.run(mode, dedupe=chance.random() < 0.5)
        if made.report.archive is not None:
            runs[made.report.run_id or ""] = made.path
    with opened(job) as history:
        needs = history.needs(history.snapshots(job.name))
        made_by = {one.id: one.run_id for one in history.archives_of_job(job.name)}
    before = states(job.url)
    lost = set(chance.sample(sorted(runs), 3))
    for run in lost:
        runs[run].unlink()
    rebuild(job.url, job.store)
    after = states(job.url)
    found = {one.run_id: one.status for one in snapshots_of(job)}
    assert found.keys() == runs.keys() - lost
    for run, status in found.items():
        is_whole = not lost & {made_by[number] for number in needs[run]}
        assert (status == "success") == is_whole
        if is_whole:
            assert after[run] == before[run]
