"""What can be asked for after a prune, with real backups: the right content, or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobs import Job

from pybak.errors import NotFoundError


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_a_run_that_found_nothing_new_has_no_other_content_than_it_found(job: Job) -> None:
    file = job.source / "a"
    file.write_text("1")
    job.run("full", tag=["pin"])
    file.write_text("22")
    job.run("full")
    unchanged = job.run().report
    assert unchanged.status == "unchanged"
    assert unchanged.run_id is not None
    _, folder = job.restore(unchanged.run_id)
    assert (folder / "a").read_text() == "22"
    file.write_text("333")
    job.run("full")
    job.prune(keep_last=1, keep_tag=["pin"])
    assert [one.seq for one in job.snapshots] == [1, 4]
    with pytest.raises(NotFoundError, match="its snapshot, of the run before, was removed"):
        job.restore(unchanged.run_id)


def test_a_removed_snapshot_says_what_became_of_it(job: Job) -> None:
    (job.source / "a").write_text("1")
    first = job.run("full").report
    (job.source / "a").write_text("22")
    job.run("full")
    job.prune(keep_last=1)
    assert first.run_id is not None
    with pytest.raises(NotFoundError, match="the snapshot was removed by a prune"):
        job.restore(first.run_id)


def test_a_removed_snapshot_is_not_mistaken_for_its_archive_that_stays(job: Job) -> None:
    for name in "ab":
        (job.source / name).write_text("1")
    made = [job.run("full").report]
    for name in "bab":
        (job.source / name).write_text(f"{name} of run {len(made) + 1}")
        made.append(job.run().report)
    (done,) = job.prune(keep_last=1).jobs
    third, second = done.remove
    assert (third.seq, third.archive_deleted, second.archive_deleted) == (3, False, True)
    assert Path(third.archive or "").exists()
    with pytest.raises(NotFoundError, match="the snapshot was removed by a prune"):
        job.restore(third.run_id)
    _, folder = job.restore()
    assert (folder / "a").read_text() == "a of run 3"


def test_a_time_before_the_oldest_that_is_left_is_refused(job: Job) -> None:
    (job.source / "a").write_text("1")
    job.run("full")
    (job.source / "a").write_text("22")
    job.run("full")
    job.prune(keep_last=1)
    with pytest.raises(NotFoundError, match="no backup is as old as"):
        job.restore(at="2020-01-01T00:00:00+00:00")
    _, folder = job.restore(at="2099-01-01T00:00:00+00:00")
    assert (folder / "a").read_text() == "22"
