"""Removing what the archive does not hold: where it was asked for, and nowhere else (case 85)."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import archives as forge
import pytest
import tars
from backing_up import back_up
from jobs import Job
from restoring import plan, prepare, rehearse, restore, shares, tree

from pybak.catalog.snapshots import add_errors
from pybak.options import RestoreOptions
from pybak.problems import DAMAGED, STORAGE, UNREADABLE
from pybak.restore.extract import extract_batch
from pybak.restore.finish import finish, make_folders
from pybak.restore.plan import Wish
from pybak.restore.run import RestoreRun

MEMBERS = [
    forge.folder(b"docs"),
    forge.file(b"docs/a.txt", b"a"),
    forge.folder(b"docs/sub", mtime_ns=forge.NOON - 10**9),
    forge.file(b"docs/sub/b.txt", b"b"),
    forge.file(b"src/c.py", b"c"),
    forge.link(b"docs/link", b"a.txt"),
    forge.file(b"top", b"t"),
]
OURS = {b"docs", b"docs/a.txt", b"docs/sub", b"docs/sub/b.txt", b"docs/link", b"src", b"src/c.py",
        b"top"}  # fmt: skip


@pytest.fixture
def archive(zip_path: Path) -> bytes:
    return forge.write(zip_path, MEMBERS, with_manifest=True)


def clutter(target: Path) -> None:
    for name in ("docs/old.txt", "docs/old/x/deep.txt", "docs/sub/.hidden", "src/old.tmp",
                 "other/mine", "mine"):  # fmt: skip
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(b"mine")


def foretold(archive: bytes, target: Path, **wish: object) -> int:
    prepared = prepare(
        shares(archive), os.fsencode(target), Wish(deletes=True, **wish), may_write=False
    )
    return rehearse(prepared).outcome.deleted


def test_what_the_archive_does_not_hold_goes(archive: bytes, target: Path) -> None:
    """From folders that it holds, at any depth; what lies beside them stays."""
    clutter(target)
    before = tree(target)
    assert foretold(archive, target) == 6
    assert tree(target) == before
    result = restore(archive, target, deletes=True)
    assert (result.deleted, result.problems) == (6, [])
    assert result.deleted_paths == {
        "docs/old.txt", "docs/old", "docs/old/x", "docs/old/x/deep.txt", "docs/sub/.hidden",
        "src/old.tmp",
    }  # fmt: skip
    assert tree(target).keys() == OURS | {b"other", b"other/mine", b"mine"}
    assert (target / "docs/sub").stat().st_mtime_ns == forge.NOON - 10**9


def test_without_the_wish_all_stays(archive: bytes, target: Path) -> None:
    clutter(target)
    assert restore(archive, target).deleted == 0
    assert (target / "docs/old/x/deep.txt").exists()


@pytest.mark.parametrize(
    ("wish", "gone"),
    [
        ({"include": ["*.txt"]}, {b"docs/old.txt", b"docs/old/x/deep.txt"}),
        ({"include": ["/src/"]}, {b"src/old.tmp"}),
        ({"exclude": ["*.tmp", "old/"]}, {b"docs/old.txt", b"docs/sub/.hidden"}),
        ({"exclude": ["deep.txt"]}, {b"docs/old.txt", b"docs/sub/.hidden", b"src/old.tmp"}),
    ],
)
def test_only_what_the_patterns_cover_goes(
    archive: bytes, target: Path, wish: dict, gone: set
) -> None:
    clutter(target)
    before = tree(target).keys()
    expected = foretold(archive, target, **wish)
    result = restore(archive, target, deletes=True, **wish)
    assert before - tree(target).keys() == gone
    assert result.deleted == expected == len(gone)


def test_links_are_removed_and_never_followed(archive: bytes, target: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "docs").mkdir(parents=True)
    (victim / "precious").write_bytes(b"mine")
    (target / "docs").mkdir(parents=True)
    (target / "docs/way").symlink_to(victim)
    (target / "src").symlink_to(victim)
    result = restore(archive, target, deletes=True)
    assert result.deleted == 1
    assert not (target / "docs/way").is_symlink()
    assert (target / "src").is_symlink()
    assert sorted(path.name for path in victim.iterdir()) == ["docs", "precious"]


@pytest.mark.needs_root
def test_other_file_systems_are_left_alone(archive: bytes, target: Path) -> None:
    mounted = target / "docs/mounted"
    mounted.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mounted]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("can't mount here")
    try:
        (mounted / "mine").write_bytes(b"mine")
        result = restore(archive, target, deletes=True)
        assert result.deleted == 0
        assert "another file system" in result.problems[-1].message
        assert (mounted / "mine").exists()
    finally:
        subprocess.run(["umount", mounted], check=True)


@pytest.mark.needs_root
@pytest.mark.parametrize("place", ["docs/mounted", "docs/sub", "docs/a.txt", "src"])
def test_what_is_mounted_a_second_time_is_left_alone(
    archive: bytes, target: Path, tmp_path: Path, place: str
) -> None:
    """A bind mount has the same device number (case 40)."""
    elsewhere, mounted = tmp_path / "elsewhere", target / place
    for folder in (elsewhere, mounted):
        folder.mkdir(parents=True)
    (elsewhere / "mine").write_bytes(b"mine")
    mount = ["mount", "--bind", elsewhere, mounted]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("can't mount here")
    try:
        assert foretold(archive, target) == 0
        result = restore(archive, target, deletes=True)
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert result.deleted == 0
    assert (elsewhere / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda members: [*members, forge.Forged(b".pybak/manifest.jsonl.gz", b"rubbish")],
        lambda members: [*members, forge.file(b"docs/secret", b"x", flags=1)],
        lambda members: [*members, forge.file(b"../climb", b"x")],
        lambda members: [
            *members[:1],
            forge.Forged(b".pybak/manifest.jsonl.gz", forge.manifest_bytes(members)),
        ],
    ],
)
def test_nothing_goes_when_the_archive_may_hold_more(
    zip_path: Path, target: Path, spoil: object
) -> None:
    """Damage, members that can't be read or are missing: refused, and said so."""
    archive = forge.write(zip_path, spoil(MEMBERS))
    clutter(target)
    result = restore(archive, target, deletes=True)
    assert result.deleted == 0
    assert result.codes[""] == DAMAGED
    assert "nothing was deleted" in next(one.message for one in result.problems if not one.path)
    assert (target / "docs/old.txt").exists()


def test_a_full_folder_in_the_place_of_a_file_is_emptied(archive: bytes, target: Path) -> None:
    """An error without the wish (case 82)."""
    for name in ("docs/a.txt/x/y", "top/z"):
        (target / name).parent.mkdir(parents=True)
        (target / name).write_bytes(b"mine")
    assert restore(archive, target).codes == {"docs/a.txt": STORAGE, "top": STORAGE}
    assert foretold(archive, target) == 3
    result = restore(archive, target, deletes=True)
    assert (result.deleted, result.failed) == (3, 0)
    assert (target / "docs/a.txt").read_bytes() == b"a"
    assert (target / "top").read_bytes() == b"t"


def test_the_archive_itself_and_what_cannot_be_deleted_stay(target: Path) -> None:
    (target / "docs").mkdir(parents=True)
    archive = forge.write(target / "docs/backup.zip", MEMBERS, with_manifest=True)
    result = restore(archive, target, deletes=True)
    assert (result.deleted, result.problems) == (0, [])
    assert (target / "docs/backup.zip").exists()


def test_a_request_to_stop_is_heard(archive: bytes, target: Path, tmp_path: Path) -> None:
    """(case 95)"""
    clutter(target)
    work = tmp_path / "work"
    work.mkdir()
    made = plan(archive, target, work, deletes=True)
    make_folders(made)
    finish(made, should_stop=lambda: True)
    assert (target / "docs/old.txt").exists()


def test_tar_archives_do_the_same(tmp_path: Path, target: Path) -> None:
    members = [tars.folder(b"d"), tars.file(b"d/a", b"x"), tars.hard_link(b"d/b", b"d/a")]
    archive = tars.write(tmp_path / "a", tars.build(members, "tar.zst"))
    (target / "d").mkdir(parents=True)
    (target / "d/old").write_bytes(b"x")
    assert restore(archive, target, deletes=True).deleted == 1
    assert tree(target).keys() == {b"d", b"d/a", b"d/b"}


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_report_names_what_goes(zip_path: Path, target: Path, *, dry_run: bool) -> None:
    """Also what stands in a folder where a file goes."""
    forge.write(zip_path, MEMBERS, with_manifest=True)
    (target / "docs/a.txt").mkdir(parents=True)
    (target / "docs/a.txt/inner").write_bytes(b"mine")
    (target / "docs/old").write_bytes(b"mine")
    (target / "top").mkdir()
    (target / "top/inner").write_bytes(b"mine")
    options = RestoreOptions(delete=True, overwrite="always", dry_run=dry_run)
    with RestoreRun(zip_path, str(target), options) as run:
        if dry_run:
            report = run.rehearse()
        else:
            made = run.plan()
            folders = make_folders(made)
            outcomes = [extract_batch(batch) for batch in made.batches]
            report = run.report(made, folders, [*outcomes, finish(made)])
    assert report.errors == ()
    assert report.deleted_paths == ("docs/a.txt/inner", "docs/old", "top/inner")
    assert report.deleted == 3


class TestPartialBackups:
    """What a backup could not read is not in the archive, and is not to go for that."""

    @staticmethod
    def read(fd: int, length: int, at: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("locked"):
            raise OSError(errno.EIO, "Input/output error")
        return os.pread(fd, length, at)

    def test_an_archive_deletes_nothing(self, tmp_path: Path) -> None:
        for kind in ("zip", "tar.gz"):
            place = tmp_path / kind
            src = place / "src"
            src.mkdir(parents=True)
            (src / "good").write_text("good")
            (src / "locked").write_text("precious")
            made = back_up(src, to=place / "out", format=kind, read=self.read)
            assert made.report.status == "partial"
            result = restore(os.fsencode(made.path), place, deletes=True)
            assert result.deleted == 0
            assert result.codes[""] == UNREADABLE
            assert (src / "locked").read_text() == "precious"

    def test_a_snapshot_deletes_nothing_until_one_is_whole(self, tmp_path: Path) -> None:
        job = Job(tmp_path)
        (job.source / "good").write_text("good")
        (job.source / "locked").write_text("precious")
        job.run(read=self.read)
        report, _ = job.restore(target=tmp_path, delete=True, overwrite="always")
        assert (report.status, report.deleted_paths) == ("partial", ())
        assert (job.source / "locked").read_text() == "precious"
        job.run()
        (job.source / "new").touch()
        report, _ = job.restore(target=tmp_path, delete=True, overwrite="always")
        assert (report.status, report.deleted_paths) == ("success", ("docs/new",))

    def test_a_snapshot_that_lacks_nothing_but_a_copy_is_whole(self, tmp_path: Path) -> None:
        job = Job(tmp_path)
        (job.source / "good").write_text("good")
        made = job.run()
        with job.history() as history, history.database.transaction() as connection:
            connection.exec_driver_sql("UPDATE run SET status = 'partial'")
            assert made.report.run_id is not None
            add_errors(connection, made.report.run_id, [("/away/x.zip", "storage", "disk full")])
        (job.source / "new").touch()
        report, _ = job.restore(target=tmp_path, delete=True, overwrite="always")
        assert (report.status, report.deleted_paths) == ("success", ("docs/new",))
