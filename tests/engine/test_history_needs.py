"""What a prune leaves is enough to make the catalog anew, and what was lost is told for good."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from backing_up import shrink
from jobs import Job, seen
from rebuilding import rebuild

from pybak.catalog import references
from pybak.catalog.engine import Database
from pybak.catalog.failures import CatalogError
from pybak.catalog.needs import read_needs
from pybak.catalog.removal import mark_deleting
from pybak.catalog.rows import execute_many
from pybak.retention.run import PruneRun


@pytest.fixture
def job(tmp_path: Path) -> Job:
    made = Job(tmp_path / "job")
    for number in range(5):
        (made.source / f"f{number}").write_text(f"file {number}")
    return made


def lose_catalog(job: Job) -> None:
    job.url = f"{job.url}.new"
    assert rebuild(job.url, job.store).status == "success"


def check(job: Job, run_id: str = "latest") -> None:
    """See that a snapshot restores to what the source is."""
    report, folder = job.restore(run_id)
    assert report.status == "success", report.errors
    assert seen(folder) == seen(job.source)


# ---- references


def test_the_archive_that_tells_of_a_moved_file_stays(job: Job) -> None:
    """(case 79)"""
    job.run("full")
    for old, new in (("f0", "k"), ("f1", "f0"), ("k", "f1")):
        os.rename(job.source / old, job.source / new)
    moved = job.run(dedupe=True)
    assert len(moved.manifest.references) == 2
    (job.source / "new").write_text("new")
    job.run(dedupe=True)
    job.prune(keep_last=1)
    assert len(job.archives) == 3
    lose_catalog(job)
    check(job)


def test_the_archive_that_tells_of_a_mode_stays(job: Job) -> None:
    job.run("full")
    (job.source / "f0").chmod(0o600)
    job.run(dedupe=True)
    (job.source / "f1").write_text("changed")
    job.run(dedupe=True)
    job.prune(keep_last=1)
    lose_catalog(job)
    check(job)


def test_it_goes_when_nothing_is_as_it_tells_any_more(job: Job) -> None:
    job.run("full")
    os.rename(job.source / "f0", job.source / "g")
    moved = job.run(dedupe=True)
    (job.source / "g").write_text("another content")
    (job.source / "new").write_text("so that the folder is told anew, too")
    job.run(dedupe=True)
    job.prune(keep_last=1)
    assert not moved.path.exists()
    lose_catalog(job)
    check(job)


def test_what_a_failed_file_refers_to_stays(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--dedupe` as well."""
    shrink(monkeypatch, part=60_000)
    job.run("full")
    (job.source / "f0").write_text("newer")
    job.run()
    (job.source / "f0").write_text("unread")
    number = (job.source / "f0").stat().st_ino

    def read(fd: int, size: int, at: int) -> bytes:
        if os.fstat(fd).st_ino == number:
            raise OSError(errno.EIO, "Input/output error")
        return os.pread(fd, size, at)

    (job.source / "f1").write_text("a")
    assert job.run("differential", read=read).report.history.mode == "differential"
    (job.source / "f1").write_text("b")
    (job.source / "z").write_text("z")
    job.run(read=read)
    job.prune(keep_last=1)
    lose_catalog(job)
    _, folder = job.restore()
    assert (folder / "f0").read_text() == "newer"


def test_a_run_sees_that_an_archive_with_nothing_but_references_is_gone(job: Job) -> None:
    job.run("full")
    os.rename(job.source / "f0", job.source / "g")
    moved = job.run(dedupe=True)
    (job.source / "new").write_text("new")
    job.run(dedupe=True)
    moved.path.unlink()
    (job.source / "newer").write_text("newer")
    report = job.run(dedupe=True).report
    assert report.history.mode == "full"
    assert [error.path for error in report.errors] == [str(moved.path)]


def test_a_manifest_names_the_run_that_tells_of_a_member(job: Job) -> None:
    """Without its archive the file would have its older mode, and the count would be right."""
    job.run("full")
    (job.source / "f0").chmod(0o600)
    told = job.run(dedupe=True)
    (job.source / "f1").write_text("changed")
    job.run(dedupe=True)
    job.url += ".new"
    told.path.unlink()
    assert rebuild(job.url, job.store).status == "partial"
    assert [one.status for one in job.snapshots] == ["success", "partial"]
    assert job.restore()[0].status == "partial"


def test_chains_with_references_are_consolidated(job: Job) -> None:
    job.run("full")
    os.rename(job.source / "f0", job.source / "g")
    job.run(dedupe=True)
    (job.source / "new").write_text("new")
    job.run(dedupe=True)
    job.prune(keep_last=1, consolidate=True)
    assert len(job.archives) == 1
    lose_catalog(job)
    check(job)


def test_what_moved_while_it_was_read_is_referred_to_by_nobody(job: Job) -> None:
    """Its digest need not be that of what was stored."""
    job.run("full")
    with job.history() as history:
        database = history.database
        (snapshot,) = history.snapshots(job.name)
        size = len("file 0")
        assert len(list(references.contents(database, snapshot, {size}))) == 5
        with database.transaction() as connection:
            connection.exec_driver_sql("UPDATE file_version SET changed = 1 WHERE path LIKE '%f0'")
        found = [one.member for one in references.contents(database, snapshot, {size})]
    assert found == [f"docs/f{number}".encode() for number in range(1, 5)]


def test_versions_that_could_not_be_looked_up_are_named(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A differential archive that lacks a file says so if it can't tell the newest version."""
    shrink(monkeypatch, part=60_000)
    job.run("full")
    (job.source / "f0").write_text("newer")
    job.run()
    (job.source / "f0").write_text("unread")
    (job.source / "f1").write_text("changed")

    def fail(*_: object) -> None:
        raise CatalogError("catalog.db: the disk is gone")

    def read(fd: int, size: int, at: int) -> bytes:
        if os.fstat(fd).st_ino == (job.source / "f0").stat().st_ino:
            monkeypatch.setattr(references, "other_versions", fail)
            raise OSError(errno.EIO, "Input/output error")
        return os.pread(fd, size, at)

    made = job.run("differential", read=read)
    assert made.report.history.mode == "differential"
    assert made.manifest.references == []
    path = str(job.source / "f0")
    told = [(code, message) for where, code, message in made.manifest.errors if where == path]
    assert [code for code, _ in told] == ["io_error", "storage"]
    assert told[1][1].endswith("could not be looked up: catalog.db: the disk is gone")
    monkeypatch.undo()
    job.url += ".new"
    rebuild(job.url, job.store)
    assert job.snapshots[-1].status == "partial"


# ---- differential archives beside a consolidated one


@pytest.mark.parametrize("modes", [["differential"] * 2, ["incremental"] * 2 + ["differential"]])
def test_the_full_archive_stays_that_later_differential_ones_go_back_to(
    job: Job, modes: list[str]
) -> None:
    """(case 77)"""
    job.run("full")
    for number, mode in enumerate(modes):
        (job.source / f"f{number}").write_text(f"changed {number}")
        assert job.run(mode).report.history.mode == mode
    (done,) = job.prune(keep_last=2, consolidate=True).jobs
    assert done.consolidated is not None
    assert len(job.archives) == 3
    check(job)
    (again,) = job.prune(keep_last=2, consolidate=True).jobs
    assert (again.consolidated, again.deleted) == (None, ())
    lose_catalog(job)
    check(job)
    (job.source / "last").write_text("last")
    job.run()
    check(job)


def test_it_stays_for_what_is_made_on_top_of_them_and_then_goes(job: Job) -> None:
    job.run("full")
    for number in range(2):
        (job.source / f"f{number}").write_text(f"changed {number}")
        job.run("differential")
    job.prune(keep_last=2, consolidate=True)
    (job.source / "f1").write_text("once more")
    job.run()
    job.prune(keep_last=1)
    first = job.url
    lose_catalog(job)
    check(job)
    job.url = first
    check(job)
    (job.source / "f4").write_text("all anew")
    job.run("full")
    job.prune(keep_last=1)
    assert len(job.archives) == 1


def test_a_removal_that_would_take_what_a_manifest_goes_back_to_is_refused(job: Job) -> None:
    job.run("full")
    full = job.archives[0]
    for number in range(2):
        (job.source / f"f{number}").write_text(f"changed {number}")
        job.run("differential")
    job.prune(keep_last=2, consolidate=True)
    database = Database(job.url)
    with job.history() as history:
        (number,) = [one.id for one in history.archives_of_job(job.name) if one.name == str(full)]
    with pytest.raises(CatalogError, match="needed by now"):
        mark_deleting(database, job.name, runs=[], archives=[number])
    database.close()


# ---- what was lost


def test_every_restore_of_a_snapshot_that_is_not_whole_says_so(job: Job, tmp_path: Path) -> None:
    """(case 75)"""
    full = job.run("full")
    (job.source / "f0").write_text("changed")
    job.run()
    full.path.unlink()
    job.url += ".new"
    assert rebuild(job.url, job.store).status == "partial"
    (snapshot,) = job.snapshots
    for _ in range(2):
        report, folder = job.restore()
        assert report.status == "partial"
        (error,) = report.errors
        assert error.path == snapshot.archive
        assert error.message.startswith("4 files of 5 files can't be restored from this run: ")
        assert os.listdir(folder) == ["f0"]
    other = tmp_path / "other"
    (other / "docs").mkdir(parents=True)
    (other / "docs" / "f1").write_text("the only one")
    report, _ = job.restore(target=other, delete=True, overwrite="always")
    assert (other / "docs" / "f1").read_text() == "the only one"
    assert "nothing was deleted: the backup is not whole" in [one.message for one in report.errors]


def test_an_archive_whose_place_was_taken_before_a_kill_goes_after_a_rebuild(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 80)"""

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    job.run("full")
    for name in "gh":
        (job.source / name).write_text(name)
        job.run()
    with monkeypatch.context() as patched:
        patched.setattr(PruneRun, "_delete", die)
        with pytest.raises(Killed):
            job.prune(keep_last=2, consolidate=True)
    before = set(job.archives)
    job.url += ".new"
    report = rebuild(job.url, job.store)
    (skipped,) = report.skipped
    assert skipped.message.endswith("; the next prune deletes it")
    check(job)
    job.prune(keep_last=1, consolidate=True)
    assert len(job.archives) == 1
    assert Path(skipped.path) in before - set(job.archives)
    check(job)
    lose_catalog(job)
    assert [one.mode for one in job.snapshots] == ["full"]


def test_needs_are_read_in_one_pass_over_many_versions(job: Job) -> None:
    job.run("full")
    database = Database(job.url)
    statement = (
        "INSERT INTO file_version (job_id, path, kind, size, mtime_ns, ctime_ns, inode, mode, uid, "
        "gid, changed, archive_id, first_seq, gone_seq) "
        "VALUES (1, ?, 'file', 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, ?)"
    )
    with database.transaction() as connection:
        execute_many(
            connection, statement,
            ((f"n{number}", number % 97 + 2) for number in range(100_000)),
        )  # fmt: skip
    with database.reading() as connection:
        needs = read_needs(connection, job.name)
    assert len(needs.spans) == 98
    assert needs.of(1) == {1}
    database.close()
