"""A chain has one password or none: a run with another one is told before it writes (case 63)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backing_up import PASSWORD
from jobs import Job, seen
from recorded import Recorded

from pybak.backup.run import BackupRun
from pybak.errors import PlanError, PyBakError, WrongPasswordError
from pybak.options import BackupOptions

OTHER = b"another horse"
ENCRYPTED: list[dict[str, Any]] = [
    {},
    {"format": "tar"},
    {"format": "tar.gz"},
    {"format": "tar.bz2"},
    {"format": "tar.zst"},
    {"hide_names": True},
    {"format": "tar.zst", "split": "64KiB"},
    {"split": "64KiB"},
]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    made = Job(tmp_path)
    (made.source / "a").write_bytes(bytes(range(256)) * 600)
    return made


def left_by(job: Job) -> list[str]:
    return [path.name for path in job.archives]


def refused(job: Job, error: type[PyBakError], match: str, **how: Any) -> None:
    """See that a run is refused, and leaves nothing in the store or the history."""
    before, snapshots = left_by(job), job.snapshots
    with pytest.raises(error, match=match) as caught:
        job.run(**how)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert "--mode full" in str(caught.value)
    assert (left_by(job), job.snapshots) == (before, snapshots)


@pytest.mark.parametrize("how", ENCRYPTED, ids=lambda how: "-".join(map(str, how.values())))
def test_a_wrong_password_is_refused_and_the_right_one_goes_on(
    job: Job, how: dict[str, Any]
) -> None:
    job.run(password=PASSWORD, **how)
    (job.source / "b").write_bytes(b"new")
    plain = {name: value for name, value in how.items() if name != "hide_names"}
    for mode in ("incremental", "differential"):
        refused(job, WrongPasswordError, "another password", mode=mode, password=OTHER, **how)
        refused(job, WrongPasswordError, "are encrypted", mode=mode, **plain)
    done = job.run(password=PASSWORD, **how)
    assert done.report.history.base_run is not None
    report, folder = job.restore(password=PASSWORD)
    assert report.status == "success"
    assert seen(folder) == seen(job.source)


def test_nothing_new_is_no_reason_to_let_a_wrong_password_pass(job: Job) -> None:
    job.run(password=PASSWORD)
    refused(job, WrongPasswordError, "another password", password=OTHER)
    assert job.run(password=PASSWORD).report.status == "unchanged"


def test_a_password_for_a_chain_in_clear_is_a_mistake(job: Job) -> None:
    job.run()
    (job.source / "b").write_bytes(b"new")
    refused(job, PlanError, "not encrypted", password=PASSWORD)


def test_a_full_run_begins_a_chain_with_another_password(job: Job) -> None:
    job.run(password=PASSWORD)
    job.run("full", password=OTHER)
    (job.source / "b").write_bytes(b"new")
    refused(job, WrongPasswordError, "another password", password=PASSWORD)
    assert job.run("differential", password=OTHER).report.history.mode == "differential"
    job.run("full")
    refused(job, PlanError, "not encrypted", password=OTHER)
    assert job.run().report.status == "unchanged"


def test_the_newest_archive_of_the_chain_is_asked(job: Job) -> None:
    job.run(password=PASSWORD)
    (job.source / "b").write_bytes(b"new")
    job.run(password=PASSWORD)
    # Not what is asked for, so it may be anything; its size is all that is looked at.
    oldest = job.archives[0]
    oldest.write_bytes(bytes(oldest.stat().st_size))
    assert job.run(password=PASSWORD).report.status == "unchanged"


def test_a_missing_archive_makes_a_full_run_whatever_the_password(job: Job) -> None:
    job.run(password=PASSWORD)
    job.archives[0].unlink()
    done = job.run(password=OTHER)
    assert (done.report.history.mode, done.report.status) == ("full", "partial")


@pytest.mark.parametrize("how", [{}, {"format": "tar.zst"}], ids=["zip", "wrapped"])
def test_an_archive_whose_end_is_damaged_makes_a_full_run(job: Job, how: dict[str, Any]) -> None:
    job.run(password=PASSWORD, **how)
    (path,) = job.archives
    data = path.read_bytes()
    path.write_bytes(data[:-200] + bytes(200))
    done = job.run(password=PASSWORD, **how)
    assert (done.report.history.mode, done.report.status) == ("full", "partial")
    assert done.report.history.reasons == ("the newest archive can't be read",)
    assert list(done.errors) == [str(path)]


def test_a_full_run_that_is_due_and_must_wait_is_asked_too(tmp_path: Path) -> None:
    made = Recorded(f"sqlite:///{tmp_path}/catalog.db", tmp_path / "to")
    sources = [tmp_path / "one", tmp_path / "two"]
    for source in sources:
        source.mkdir()
        (source / "a").write_bytes(b"a")
    made.back_up(*sources, password=PASSWORD)
    (sources[0] / "b").write_bytes(b"new")
    sources[1].rename(tmp_path / "away")
    with pytest.raises(WrongPasswordError, match="another password"):
        made.back_up(*sources, password=OTHER, full_every="1")
    assert [path.name for path in (tmp_path / "to").iterdir()] == [made.outcomes[0].path.name]
    (tmp_path / "away").rename(sources[1])
    done = made.back_up(*sources, password=OTHER, full_every="1")
    assert (done.report.history.mode, done.report.status) == ("full", "success")


@pytest.mark.parametrize("password", [None, OTHER])
def test_a_dry_run_is_refused_as_the_run_would_be(
    job: Job, tmp_path: Path, password: bytes | None
) -> None:
    """With a block's name alone nothing can be opened, so nothing is refused."""
    from pybak.backup.catalog_base import JobHistory

    job.run(password=PASSWORD)

    def choose(*, encrypted: bool, password: bytes | None) -> str:
        (tmp_path / "scratch").mkdir(exist_ok=True)
        with (
            BackupRun(
                [str(job.source)], output=None, to=str(job.store), job=job.name,
                options=BackupOptions(mode="incremental"), password=password,
                scratch=tmp_path / "scratch", encrypted=encrypted,
            ) as run,
            job.history() as history,
        ):  # fmt: skip
            return run.choose_base(JobHistory(history, job.name)).mode

    with pytest.raises(WrongPasswordError):
        choose(encrypted=password is not None, password=password)
    assert choose(encrypted=True, password=None) == "incremental"
