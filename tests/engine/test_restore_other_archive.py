"""Another archive in the place of one that a run wrote is never taken for it."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from backing_up import FORMATS, PASSWORD
from jobs import Job

from pybak.errors import ArchiveError
from pybak.problems import DAMAGED
from pybak.restore.ask import ask
from pybak.restore.select import Selector
from pybak.restore.stream import restore_to_stream


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def two_runs(job: Job, mode: str = "full", **how: object) -> list[tuple[str, Path]]:
    """Make a full run and another one; give their ids and archives."""
    made = []
    (job.source / "kept").write_text("of the first run")
    for content in ("first", "second"):
        (job.source / "a").write_text(content)
        report = job.run("full" if not made else mode, **how).report  # type: ignore[arg-type]
        assert report.archive is not None
        assert report.run_id is not None
        made.append((report.run_id, Path(report.archive)))
    return made


@pytest.mark.parametrize("kind", ["zip", "tar", "aes"])
def test_a_run_whose_archive_was_replaced_is_not_restored_from_the_other(
    job: Job, kind: str
) -> None:
    """(case 64)"""
    how = FORMATS[kind]
    (first, path), (second, other) = two_runs(job, **how)
    shutil.copyfile(other, path)
    password = PASSWORD if "password" in how else None
    with pytest.raises(ArchiveError, match=f"is another archive than run {first} wrote"):
        job.restore(first, password=password)
    _, folder = job.restore(second, password=password)
    assert (folder / "a").read_text() == "second"
    out = io.BytesIO()
    asked = ask(first, job=None, at=None, catalog_url=job.url)
    with pytest.raises(ArchiveError, match="is another archive than run"):
        restore_to_stream(asked.shares(job.url), Selector(["a"], []), out, password)
    assert not out.getvalue()


def test_in_a_chain_its_files_are_named_and_the_others_restored(job: Job) -> None:
    """(case 109)"""
    (_, path), (second, other) = two_runs(job, "incremental")
    shutil.copyfile(other, path)
    report, folder = job.restore(second)
    assert (report.exit_code, report.files.failed) == (3, 1)
    assert {problem.code for problem in report.errors} == {DAMAGED}
    assert all("is another archive than run" in one.message for one in report.errors)
    assert (folder / "a").read_text() == "second"
    assert not (folder / "kept").exists()


def test_without_a_manifest_the_size_tells(job: Job, tmp_path: Path) -> None:
    (first, path), _ = two_runs(job, format="tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(job.source, "docs")
    with pytest.raises(ArchiveError, match=r"is another archive .* restore this one by its path"):
        job.restore(first)
    _, folder = job.restore(os.fspath(path), target=tmp_path / "by-path")
    assert (folder / "a").read_text() == "second"


def test_one_whose_end_was_cut_off_gives_what_is_left(job: Job) -> None:
    """(case 109)"""
    (first, path), _ = two_runs(job, format="tar")
    path.write_bytes(path.read_bytes()[:-3000])
    report, folder = job.restore(first)
    assert report.exit_code != 0
    assert report.errors
    assert (folder / "a").read_text() == "first"


def test_one_whose_end_was_never_written_is_told_although_its_size_is_right(job: Job) -> None:
    """As after a crash: zeros, which are the end of a tar."""
    (job.source / "z").write_bytes(bytes(range(256)) * 100)
    (first, path), _ = two_runs(job, format="tar")
    size = path.stat().st_size
    os.truncate(path, 8192)
    os.truncate(path, size)
    report, folder = job.restore(first)
    assert (folder / "a").read_text() == "first"
    assert report.exit_code == 3
    (lost,) = [one for one in report.errors if "has lost its manifest" in one.message]
    assert lost.path == os.fspath(path)


def test_a_consolidated_archive_is_that_of_its_run(job: Job) -> None:
    for content in ("1", "22", "333", "4444"):
        (job.source / "a").write_text(content)
        job.run()
    (done,) = job.prune(keep_last=2, consolidate=True).jobs
    assert done.consolidated is not None
    for snapshot, content in zip(job.snapshots, ("333", "4444"), strict=True):
        report, folder = job.restore(snapshot.run_id)
        assert report.exit_code == 0
        assert (folder / "a").read_text() == content
