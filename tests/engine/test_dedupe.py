"""Moved and copied files of an incremental run are not stored again (`--dedupe`)."""

from __future__ import annotations

import grp
import io
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attributed import folder_with_attributes
from backing_up import FORMATS, noise, prose, shrink
from jobs import Job, seen
from rebuilding import rebuild, rows_of
from test_drill import drill

from pybak.backup import dedupe
from pybak.backup.run import BackupRun
from pybak.catalog import references
from pybak.catalog.failures import CatalogError
from pybak.catalog.lookup import members_of_archive
from pybak.entries import FILE
from pybak.formats.manifest import WITH_REFERENCES
from pybak.restore import owners
from pybak.restore.ask import ask
from pybak.restore.select import Selector
from pybak.restore.stream import restore_to_stream

KINDS = pytest.mark.parametrize("kind", list(FORMATS))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that takes attributes."""
    with folder_with_attributes(tmp_path) as folder:
        yield folder


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return with_files(Job(tmp_path / "job"))


def with_files(made: Job) -> Job:
    (made.source / "old").mkdir()
    for number in range(4):
        (made.source / "old" / str(number)).write_bytes(noise(20_000, number))
    return made


def run(job: Job, mode: str = "incremental", **options: Any) -> Any:
    return job.run(mode, dedupe=True, **options)


def files_in(done: Any) -> set[str]:
    return {name for name in done.contents if not name.endswith("/")}


@KINDS
def test_a_moved_folder_is_not_stored_again_and_restores(job: Job, kind: str) -> None:
    """With the names, modes and times that the files have now."""
    how = FORMATS[kind]
    run(job, **how)
    (job.source / "old").rename(job.source / "new")
    (job.source / "new" / "1").chmod(0o600)
    os.utime(job.source / "new" / "2", ns=(1, 1_000_000_000_000_000_001))
    expected = seen(job.source)
    done = run(job, **how)
    assert files_in(done) == set()
    assert (done.report.files.new, done.report.history.gone) == (4, 4)
    told = done.report.to_json()
    assert (told["duplicates"], told["duplicate_bytes"]) == (4, 80_000)
    assert "4 files (80.0 kB) that earlier archives hold" in done.report.to_text()
    report, folder = job.restore(password=how.get("password"))
    assert report.status == "success", report.errors
    assert seen(folder) == expected


@KINDS
def test_copies_touched_files_and_moves_back_cost_nothing(job: Job, kind: str) -> None:
    how = FORMATS[kind]
    run(job, **how)
    shutil.copyfile(job.source / "old" / "1", job.source / "copy of 1")
    os.utime(job.source / "old" / "2")
    expected = [seen(job.source)]
    done = run(job, **how)
    assert files_in(done) == set()
    assert (done.report.files.new, done.report.files.changed) == (1, 1)
    # A reference to what is a reference itself names the archive that has the content.
    (job.source / "copy of 1").rename(job.source / "moved once more")
    (job.source / "fresh").write_bytes(b"fresh")
    expected.append(seen(job.source))
    done = run(job, **how)
    assert files_in(done) == {"docs/fresh"}
    (reference,) = done.manifest.references
    first, second, _ = job.snapshots
    assert (reference.run, reference.member) == (first.run_id, "docs/old/1")
    # The second tells of the time that was touched.
    assert done.manifest.head.needs == [first.run_id, second.run_id]
    for snapshot, tree in zip(job.snapshots[1:], expected, strict=True):
        report, folder = job.restore(snapshot.run_id, password=how.get("password"))
        assert report.status == "success", report.errors
        assert seen(folder) == tree


def test_without_the_option_all_is_stored(job: Job) -> None:
    job.run()
    (job.source / "old").rename(job.source / "new")
    done = job.run()
    assert len(files_in(done)) == 4
    assert done.manifest.head.pybak_manifest < WITH_REFERENCES
    assert done.manifest.references == []


def test_what_only_has_the_size_is_stored(job: Job) -> None:
    run(job)
    (job.source / "other").write_bytes(noise(20_000, 99))
    assert files_in(run(job)) == {"docs/other"}


def test_duplicates_within_one_archive_are_stored_each(job: Job) -> None:
    """Any tool restores all of them."""
    run(job)
    for name in ("x", "y"):
        (job.source / name).write_bytes(b"the same in both")
    assert files_in(run(job)) == {"docs/x", "docs/y"}
    full = run(job, "full")
    assert len(files_in(full)) == 6
    assert full.manifest.references == []


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_large_files_are_known_by_their_parts(
    job: Job, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch, part=30_000)
    (job.source / "large").write_bytes(noise(100_000, 5))
    first = run(job, **FORMATS[kind])
    assert len(first.records["docs/large"].parts) > 1
    (job.source / "large").rename(job.source / "moved")
    expected = seen(job.source)
    done = run(job, **FORMATS[kind])
    assert files_in(done) == set()
    assert len(done.manifest.references[0].parts) > 1
    report, folder = job.restore()
    assert report.status == "success", report.errors
    assert seen(folder) == expected
    os.utime(folder.parent / "docs" / "moved")
    assert job.run(checksum_compare=True).report.status == "unchanged"


def test_the_kind_of_the_older_archive_does_not_matter(job: Job) -> None:
    run(job, format="tar.zst")
    (job.source / "old").rename(job.source / "new")
    expected = seen(job.source)
    assert files_in(run(job, format="zip")) == set()
    assert seen(job.restore()[1]) == expected


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_files_that_a_reference_cannot_tell_of_are_stored(place: Path, kind: str) -> None:
    """Those with several names, attributes, or holes."""
    job = with_files(Job(place))
    with (job.source / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    run(job, **FORMATS[kind])
    for name in ("0", "1"):
        shutil.copyfile(job.source / "old" / name, job.source / name)
    os.link(job.source / "0", job.source / "also 0")
    os.setxattr(job.source / "1", "user.note", b"keep me")
    (job.source / "sparse").rename(job.source / "moved")
    expected = seen(job.source)
    done = run(job, **FORMATS[kind])
    assert {"docs/0", "docs/also 0", "docs/1", "docs/moved"} == files_in(done)
    if kind == "tar":
        assert seen(job.restore()[1]) == expected


def test_attributes_of_the_old_file_do_not_come_back_with_the_content(place: Path) -> None:
    job = with_files(Job(place))
    os.setxattr(job.source / "old" / "1", "user.note", b"of the old one")
    run(job, format="tar")
    shutil.copyfile(job.source / "old" / "1", job.source / "copy")
    assert files_in(run(job, format="tar")) == set()
    _, folder = job.restore()
    assert os.listxattr(folder / "copy") == []
    assert os.listxattr(folder / "old" / "1") == ["user.note"]


def test_a_file_that_moves_after_it_was_hashed_is_seen_by_the_next_run(job: Job) -> None:
    run(job)
    copy = job.source / "copy"
    shutil.copyfile(job.source / "old" / "1", copy)

    def edit(_: BackupRun) -> None:
        copy.write_bytes(noise(20_000, 77))

    run(job, before_reading=edit)
    assert (job.restore()[1] / "copy").read_bytes() == noise(20_000, 1)
    assert files_in(run(job)) == {"docs/copy"}
    assert (job.restore()[1] / "copy").read_bytes() == noise(20_000, 77)


def test_a_file_that_moves_while_it_is_hashed_is_stored(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job)
    copy = job.source / "copy"
    shutil.copyfile(job.source / "old" / "1", copy)
    real = dedupe.read_pieces

    def read(fd: int, *where: int) -> Iterator[bytes]:
        yield from real(fd, *where)
        os.utime(copy, ns=(5, 5))

    monkeypatch.setattr(dedupe, "read_pieces", read)
    assert files_in(run(job)) == {"docs/copy"}


def test_a_file_that_cannot_be_read_fails_as_without_it(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job)
    shutil.copyfile(job.source / "old" / "1", job.source / "copy")

    def read(fd: int, length: int, offset: int) -> bytes:
        raise OSError(13, "Permission denied")

    done = run(job, read=read)
    assert done.report.status == "success"  # it was read to be hashed
    (job.source / "other").write_bytes(noise(20_000, 98))
    done = run(job, read=read)
    assert done.errors == {str(job.source / "other"): "io_error"}


def test_a_differential_run_refers_to_the_full_one_alone(job: Job) -> None:
    run(job)
    (job.source / "fresh").write_bytes(noise(30_000, 8))
    run(job)
    (job.source / "fresh").rename(job.source / "fresh moved")
    (job.source / "old" / "1").rename(job.source / "moved")
    expected = seen(job.source)
    done = run(job, "differential")
    assert files_in(done) == {"docs/fresh moved"}
    full = job.snapshots[0].run_id
    assert [one.run for one in done.manifest.references] == [full]
    assert done.manifest.head.needs == [full]
    assert seen(job.restore()[1]) == expected


@pytest.mark.parametrize("how", [{}, {"format": "tar.gz"}, {"split": "64KiB"}])
def test_the_rebuilt_catalog_knows_the_references(job: Job, how: dict[str, Any]) -> None:
    """(case 75)"""
    run(job, **how)
    (job.source / "old" / "1").rename(job.source / os.fsdecode(b"odd \xff\\ name"))
    os.utime(job.source / "old" / "2")
    run(job, **how)
    (job.source / os.fsdecode(b"odd \xff\\ name")).rename(job.source / "plain")
    run(job, **how)
    run(job, "differential", **how)
    expected = seen(job.source)
    before = rows_of(job.url)
    assert [row for row in before["file_version"] if b"odd" in repr(row).encode()]
    report = rebuild(job.url, job.store)
    assert report.status == "success", report.errors
    after = rows_of(job.url)
    assert after["file_version"] == before["file_version"]
    restored, folder = job.restore()
    assert restored.status == "success"
    assert seen(folder) == expected


def test_a_rebuild_without_the_archive_that_is_referred_to_says_so(job: Job) -> None:
    first = run(job)
    (job.source / "old" / "1").rename(job.source / "moved")
    (job.source / "fresh").write_bytes(b"fresh")
    run(job)
    first.path.unlink()
    report = rebuild(job.url, job.store)
    assert report.status == "partial"
    assert first.report.run_id is not None
    assert any(first.report.run_id[:8] in one.message for one in report.errors)
    _, folder = job.restore()
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["fresh"]


def test_restored_by_itself_an_archive_names_what_other_ones_hold(job: Job, tmp_path: Path) -> None:
    first = run(job)
    (job.source / "old" / "1").rename(job.source / "moved")
    (job.source / "fresh").write_bytes(b"fresh")
    done = run(job)
    report, folder = job.restore(str(done.path))
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"fresh"}
    assert report.status == "partial"
    (error,) = report.errors
    assert error.path == "docs/moved"
    assert f"its content is in {first.path.name}, as docs/old/1" in error.message
    # Other programs see an ordinary archive.
    subprocess.run(["unzip", "-tqq", done.path], check=True)


def test_without_the_names_of_archives_their_runs_are_named(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalog that fails at the end of a run does not keep the archive from being written."""

    def fail(*_: object) -> dict[str, str]:
        raise CatalogError("it is locked")

    monkeypatch.setattr(references, "archive_names", fail)
    first = run(job)
    (job.source / "old" / "1").rename(job.source / "moved")
    done = run(job)
    assert done.manifest.head.lenders == {first.report.run_id: ""}
    report, _ = job.restore(str(done.path))
    assert f"the archive of run {first.report.run_id}, as docs/old/1" in report.errors[0].message


def test_single_files_are_found_by_their_new_names(job: Job) -> None:
    run(job)
    (job.source / "old" / "1").rename(job.source / "moved")
    (job.source / "old" / "2").unlink()
    run(job)
    report, folder = job.restore(include=["moved"])
    assert report.status == "success"
    assert [path.name for path in folder.rglob("*")] == ["moved"]
    report, folder = job.restore(include=["old/1"])
    assert (report.files.restored, report.exit_code) == (0, 3)
    report, folder = job.restore(exclude=["moved"])
    assert sorted(path.name for path in folder.rglob("*")) == ["0", "3", "old"]


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", ["zip", "aes", "tar.zst", "wrapped"])
@pytest.mark.parametrize("what", ["alone", "with others", "later", "consolidated", "rebuilt"])
def test_owners_of_references_come_back_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, what: str
) -> None:
    """Of files that were given away, and of copies, on a machine with other numbers (case 21)."""
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name=f"u{uid}"))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=f"g{gid}"))
    job = with_files(Job(tmp_path / "job"))
    how = FORMATS.get(kind, {"format": "tar.gz", "password": b"secret"})
    password = how.get("password")
    run(job, "full", **how)
    os.chown(job.source / "old" / "0", 71, 72)
    shutil.copy(job.source / "old" / "1", job.source / "copied")
    os.chown(job.source / "copied", 73, 74)
    if what != "alone":
        (job.source / "more").write_bytes(b"more")
    assert files_in(run(job, **how)) <= {"docs/more"}
    if what in ("later", "consolidated"):
        (job.source / "later").write_bytes(b"later")
        run(job, **how)
    if what == "consolidated":
        report = job.prune(keep_last=1, consolidate=True, password=password)
        assert report.status == "success"
    if what == "rebuilt":
        assert rebuild(job.url, job.store, password=password).status == "success"
    monkeypatch.setattr(owners, "_user_id", lambda name: 1000 + int(name[1:]))
    monkeypatch.setattr(owners, "_group_id", lambda name: 2000 + int(name[1:]))
    for include in ([], ["docs/old/0", "docs/copied"]):
        restored, found = job.restore(owner="name", include=include, password=password)
        assert restored.status == "success", restored
        given, copied = (found / "old" / "0").stat(), (found / "copied").stat()
        assert (given.st_uid, given.st_gid) == (1071, 2072)
        assert (copied.st_uid, copied.st_gid) == (1073, 2074)


@pytest.mark.needs_root
def test_owners_of_references_come_back_by_number_where_no_name_is_known(job: Job) -> None:
    """As where the archive is gone that told of them, and nothing else (case 21)."""
    run(job, "full")
    os.chown(job.source / "old" / "0", 71, 72)
    done = run(job)
    Path(done.report.archive).unlink()
    report, found = job.restore(owner="name", include=["docs/old/0"])
    assert report.exit_code == 0, report
    status = (found / "old" / "0").stat()
    assert (status.st_uid, status.st_gid) == (71, 72)


def test_old_versions_stay_what_they_were(job: Job) -> None:
    trees = []
    for number in range(6):
        names = sorted(job.source.rglob("*[0-9]"))
        names[number % len(names)].rename(job.source / f"moved{number}")
        (job.source / f"new{number}").write_bytes(noise(20_000, 10 + number))
        trees.append(seen(job.source))
        run(job, "full" if number == 3 else "incremental")
    for snapshot, tree in zip(job.snapshots, trees, strict=True):
        assert seen(job.restore(snapshot.run_id)[1]) == tree


def test_an_archive_that_is_referred_to_stays(job: Job) -> None:
    run(job)
    first, *_ = job.archives
    (job.source / "old").rename(job.source / "new")
    run(job)
    expected = seen(job.source)
    report = job.prune(keep_last=1)
    assert report.status == "success"
    assert first in job.archives
    assert seen(job.restore()[1]) == expected
    run(job, "full")
    job.prune(keep_last=1)
    assert first not in job.archives


def test_the_catalog_lists_what_a_reference_is(job: Job) -> None:
    run(job)
    (job.source / "old" / "1").rename(job.source / "moved")
    run(job)
    with job.history() as history:
        newest = history.newest(job.name)
        assert newest is not None
        found = {one.path: one for one in history.versions(newest)}
        one = found[b"docs/moved"]
        assert (one.kind, one.size, one.member) == (FILE, 20_000, b"docs/old/1")
        assert [version.path for version in history.references(newest)] == [b"docs/moved"]
        found_there = members_of_archive(history.database, one.archive_id, lambda *_: True)
        names = [version.path for version in found_there]
        assert names.count(b"docs/moved") == names.count(b"docs/old/1") == 1
        ((_, before),) = history.versions_of(b"docs/old/1")
        assert before.sha256 == one.sha256


def test_a_restore_that_deletes_leaves_what_is_referred_to(job: Job, tmp_path: Path) -> None:
    run(job)
    (job.source / "old" / "1").rename(job.source / "moved")
    run(job)
    target = tmp_path / "target"
    job.restore(target=target)
    (target / "docs" / "surplus").write_bytes(b"goes")
    report, folder = job.restore(target=target, delete=True)
    assert report.status == "success"
    assert seen(folder) == seen(job.source)


def test_one_file_goes_to_a_stream_by_its_new_name(job: Job) -> None:
    run(job)
    (job.source / "old" / "1").rename(job.source / "moved")
    run(job)
    asked = ask("latest", job=job.name, at=None, catalog_url=job.url)
    out = io.BytesIO()
    report = restore_to_stream(asked.shares(job.url), Selector(["moved"]), out)
    assert report.status == "success"
    assert out.getvalue() == noise(20_000, 1)


def test_a_drill_compares_what_references_give_back(job: Job) -> None:
    run(job)
    (job.source / "old").rename(job.source / "new")
    os.utime(job.source / "new" / "2", ns=(5, 5))
    run(job)
    report = drill(job.url, job.name, sample="100%")
    assert (report.status, report.errors) == ("success", ())
    assert report.files >= 4


def test_every_kind_of_catalog_knows_references(
    any_catalog: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch, part=30_000)
    job = with_files(Job(tmp_path / "job", catalog_url=any_catalog))
    (job.source / "large").write_bytes(noise(100_000, 5))
    run(job)
    (job.source / "large").rename(job.source / "also large")
    (job.source / "old" / "1").rename(job.source / os.fsdecode(b"odd \xff\\ name"))
    (job.source / "fresh").write_bytes(noise(30_000, 8))
    assert files_in(run(job)) == {"docs/fresh"}
    (job.source / "fresh").write_bytes(b"can't be read")
    (job.source / "fresher").write_bytes(b"can't be read")

    def read(fd: int, length: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    done = job.run("differential", read=read, dedupe=True)
    assert {one.path for one in done.manifest.references} == {
        "docs/also large", "docs/fresh", "docs/odd \udcff\\ name",
    }  # fmt: skip
    (job.source / "fresh").write_bytes(noise(30_000, 8))
    (job.source / "fresher").unlink()
    _, folder = job.restore()
    expected = {path: one.content for path, one in seen(job.source).items()}
    assert {path: one.content for path, one in seen(folder).items()} == expected


def test_a_prose_file_that_grew_is_stored(job: Job) -> None:
    (job.source / "log").write_bytes(prose(10_000))
    run(job)
    (job.source / "log").write_bytes(prose(20_000))
    assert files_in(run(job)) == {"docs/log"}
