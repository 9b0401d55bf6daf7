"""Restoring over what is there: what is replaced, what stays."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import archives as forge
import pytest
from restoring import KINDS, SECOND, as_nobody, carry_out, expected, foretell, plan, restore, tree

from pybak.errors import StorageError
from pybak.problems import (
    EXISTS,
    STORAGE,
    read_problems,
)
from pybak.restore import obstacles
from pybak.restore.finish import finish


def test_a_file_replaces_a_link_and_not_what_it_points_to(
    zip_path: Path, target: Path, tmp_path: Path
) -> None:
    """And a link replaces a file (case 82)."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"victim")
    target.mkdir()
    (target / "file").symlink_to(victim)
    (target / "link").write_bytes(b"old")
    members = [forge.file(b"file", b"new"), forge.link(b"link", b"file")]
    result = restore(forge.write(zip_path, members), target)
    assert result.problems == []
    assert (target / "file").read_bytes() == b"new"
    assert not (target / "file").is_symlink()
    assert os.readlink(target / "link") == "file"
    assert victim.read_bytes() == b"victim"


def test_folders_in_the_way_of_files(zip_path: Path, target: Path) -> None:
    """An empty one is replaced, one with something in it is an error (case 82)."""
    (target / "empty").mkdir(parents=True)
    (target / "empty-too").mkdir()
    (target / "full").mkdir()
    (target / "full/mine").write_bytes(b"mine")
    members = [
        forge.file(b"empty", b"1"), forge.link(b"empty-too", b"empty"), forge.file(b"full", b"2"),
    ]  # fmt: skip
    archive = forge.write(zip_path, members)
    assert foretell(archive, target) == (2, 0, 1)
    result = restore(archive, target)
    assert result.codes == {"full": STORAGE}
    assert (target / "empty").read_bytes() == b"1"
    assert (target / "empty-too").is_symlink()
    assert (target / "full/mine").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("overwrite", "is_replaced"),
    [("never", False), ("if-newer", True), ("if-changed", True), ("always", True)],
)
def test_files_in_the_way_of_folders(
    zip_path: Path, target: Path, overwrite: str, is_replaced: bool
) -> None:
    """Replaced where the mode allows it, else refused with all that lies below (case 82)."""
    target.mkdir()
    (target / "d").write_bytes(b"mine")
    os.utime(target / "d", (5, 5))
    archive = forge.write(zip_path, [forge.folder(b"d"), forge.file(b"d/f", b"x")])
    assert foretell(archive, target, overwrite=overwrite) == (is_replaced, 0, not is_replaced)
    result = restore(archive, target, overwrite=overwrite)
    if is_replaced:
        assert (target / "d/f").read_bytes() == b"x"
        assert result.problems == []
    else:
        assert (target / "d").read_bytes() == b"mine"
        assert result.codes == {"d": EXISTS, "d/f": STORAGE}


def test_a_read_only_file_is_replaced(zip_path: Path, open_dir: Path) -> None:
    """By someone without special rights, too (case 82)."""
    archive = forge.write(open_dir / "a.zip", [forge.file(b"f", b"new", 0o400)])

    def work() -> None:
        target = open_dir / "t"
        target.mkdir()
        (target / "f").write_bytes(b"old!")
        (target / "f").chmod(0o444)
        assert restore(archive, target).problems == []
        assert (target / "f").read_bytes() == b"new"

    as_nobody(work)


@pytest.mark.needs_root
def test_a_target_that_can_not_be_written_is_told_at_once(open_dir: Path) -> None:
    """Only where nothing could be restored; a dry run is content with it."""
    members = [forge.folder(b"d"), forge.file(b"d/f", b"x"), forge.file(b"g", b"y")]
    archive = forge.write(open_dir / "a.zip", members, with_manifest=True)
    target = open_dir / "t"
    target.mkdir(mode=0o755)
    assert restore(archive, open_dir / "other").problems == []

    def refused() -> None:
        assert foretell(archive, target) == (2, 0, 0)
        message = r"t: can't be written \(permission denied\); name a folder you can write$"
        with pytest.raises(StorageError, match=message):
            restore(archive, target)

    as_nobody(refused)
    assert list(target.iterdir()) == []
    (target / "d").mkdir()
    os.chown(target / "d", 65534, 65534)

    def in_part() -> None:
        result = restore(archive, target)
        assert result.counts == (1, 0, 1)
        assert result.codes == {"g": STORAGE}

    as_nobody(in_part)
    assert restore(archive, target).counts == (1, 1, 0)

    def again() -> None:
        assert restore(archive, target).counts == (0, 2, 0)
        assert restore(archive, target, overwrite="never").counts == (0, 2, 0)
        assert restore(archive, target, include=["nothing-like-it"]).counts == (0, 0, 0)

    as_nobody(again)


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
def test_a_read_only_file_system_is_told_at_once(zip_path: Path, target: Path) -> None:
    archive = forge.write(zip_path, [forge.file(b"f")])
    target.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", target], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StorageError, match=r"written \(read-only file system\); name"):
            restore(archive, target)
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.needs_root
@pytest.mark.parametrize("overwrite", ["always", "if-newer", "never"])
@pytest.mark.parametrize("mode", [0o000, 0o100, 0o200, 0o300, 0o500])
def test_folders_that_refuse_their_owner_are_written_into_again(
    open_dir: Path, mode: int, overwrite: str
) -> None:
    """Also in each other; their modes and times are right in the end (cases 35, 95)."""
    members = [
        forge.folder(b"d", mode), forge.folder(b"d/sub", mode, mtime_ns=5 * SECOND),
        forge.file(b"d/f", b"x"), forge.file(b"d/sub/f", b"y"),
    ]  # fmt: skip
    first = forge.write(open_dir / "a.zip", members, with_manifest=True)
    members.append(forge.file(b"d/sub/new"))
    second = forge.write(open_dir / "b.zip", members, with_manifest=True)
    target = open_dir / "t"

    def work() -> None:
        assert restore(first, target).problems == []
        result = restore(second, target, overwrite=overwrite)
        assert result.failed == 0, result.problems
        assert stat.S_IMODE((target / "d").stat().st_mode) == mode
        assert restore(second, target, overwrite="always").counts == (3, 0, 0)

    as_nobody(work)
    assert tree(target) == expected(members)


@pytest.mark.needs_root
def test_the_last_step_may_be_done_twice(open_dir: Path) -> None:
    """A folder that refuses its owner by then is completed all the same (case 95)."""
    members = [forge.folder(b"d", 0o300), forge.file(b"d/f", b"x")]
    archive = forge.write(open_dir / "a.zip", members, with_manifest=True)
    target = open_dir / "t"
    (open_dir / "work").mkdir(mode=0o777)
    (open_dir / "work").chmod(0o777)

    def work() -> None:
        made = plan(archive, target, open_dir / "work")
        assert carry_out(made).problems == []
        os.utime(target / "d", ns=(0, 0))
        assert list(read_problems(finish(made).problems_file)) == []

    as_nobody(work)
    assert tree(target) == expected(members)


OLDER, SAME, NEWER = forge.NOON - SECOND * 5, forge.NOON, forge.NOON + SECOND * 5


@pytest.mark.parametrize(
    ("overwrite", "mtime_ns", "data", "is_replaced"),
    [
        ("never", OLDER, b"old", False),
        ("never", SAME, b"longer", False),
        ("if-newer", OLDER, b"old", True),
        ("if-newer", SAME, b"longer", False),
        ("if-newer", NEWER, b"old", False),
        ("if-changed", OLDER, b"old", True),
        ("if-changed", NEWER, b"old", True),
        ("if-changed", SAME, b"old", False),
        ("if-changed", SAME, b"longer", True),
        ("if-changed", SAME + 1, b"old", True),
        ("always", SAME, b"old", True),
        ("always", NEWER, b"old", True),
    ],
)
def test_overwrite_modes(
    zip_path: Path, target: Path, overwrite: str, mtime_ns: int, data: bytes, is_replaced: bool
) -> None:
    """Each mode does what it says, and says what it left (case 83)."""
    target.mkdir()
    (target / "f").write_bytes(data)
    os.utime(target / "f", ns=(mtime_ns, mtime_ns))
    inode = (target / "f").stat().st_ino
    archive = forge.write(zip_path, [forge.file(b"f", b"new")], with_manifest=True)
    assert foretell(archive, target, overwrite=overwrite) == (is_replaced, not is_replaced, 0)
    result = restore(archive, target, overwrite=overwrite)
    assert (result.restored, result.skipped) == (is_replaced, not is_replaced)
    assert (target / "f").read_bytes() == (b"new" if is_replaced else data)
    if not is_replaced:
        assert result.codes == {"f": EXISTS}
        assert (target / "f").stat().st_ino == inode


@pytest.mark.parametrize(("extra", "off_ns"), [(None, SECOND - 1), (b"", 2 * SECOND - 1)])
def test_times_are_compared_as_exactly_as_the_archive_knows_them(
    zip_path: Path, target: Path, extra: bytes | None, off_ns: int
) -> None:
    """Whole seconds without a manifest, two seconds with DOS times alone (case 83)."""
    archive = forge.write(zip_path, [forge.file(b"f", b"abc", extra=extra)])
    restore(archive, target)
    base = (target / "f").stat().st_mtime_ns
    os.utime(target / "f", ns=(base + off_ns, base + off_ns))
    assert restore(archive, target).skipped == 1
    os.utime(target / "f", ns=(base + off_ns + 1, base + off_ns + 1))
    assert restore(archive, target).restored == 1


def test_restoring_again_touches_nothing(zip_path: Path, target: Path) -> None:
    archive = forge.write(zip_path, KINDS, with_manifest=True)
    restore(archive, target)
    before = {path: path.lstat().st_ino for path in target.rglob("*")}
    result = restore(archive, target)
    assert (result.restored, result.failed) == (0, 0)
    assert set(result.codes.values()) == {EXISTS}
    assert {path: path.lstat().st_ino for path in target.rglob("*")} == before
    assert tree(target) == expected(KINDS)


def test_an_interrupted_restore_is_continued(zip_path: Path, target: Path) -> None:
    """Good files keep inode and ctime, bad and missing ones are done again (case 87)."""
    archive = forge.write(zip_path, KINDS, with_manifest=True)
    restore(archive, target)
    (target / "s/text").write_bytes(b"hel")
    (target / "s/zero").unlink()
    (target / "s/relative").unlink()
    before = {
        path: (path.lstat().st_ino, path.lstat().st_ctime_ns)
        for path in target.rglob("*")
        if not path.is_dir() and path.name != "text"
    }
    result = restore(archive, target)
    assert result.restored == 3
    assert tree(target) == expected(KINDS)
    for path, state in before.items():
        assert (path.lstat().st_ino, path.lstat().st_ctime_ns) == state


def test_folders_that_were_there_keep_their_looks_under_never(zip_path: Path, target: Path) -> None:
    (target / "d").mkdir(parents=True)
    (target / "d").chmod(0o700)
    archive = forge.write(zip_path, [forge.folder(b"d", 0o755), forge.file(b"d/f", b"x")])
    restore(archive, target, overwrite="never")
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o700
    restore(archive, target)
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o755


@pytest.mark.parametrize("is_there", [False, True])
def test_a_dry_run_writes_nothing_and_counts_the_same(
    zip_path: Path, target: Path, is_there: bool
) -> None:
    """Not even the target, and no access time (case 86)."""
    members = [*KINDS, forge.file(b"../evil", b"x"), forge.Forged(b"p", b"", stat.S_IFIFO)]
    archive = forge.write(zip_path, members, with_manifest=True)
    if is_there:
        restore(archive, target)
        (target / "s/text").write_bytes(b"changed")
        (target / "s/relative").unlink()
    before = tree(zip_path.parent)
    foretold = foretell(archive, target)
    assert tree(zip_path.parent) == before
    result = restore(archive, target)
    assert foretold == (result.restored, result.skipped, result.failed)


class TestCase:
    """Names that differ by case only (case 9)."""

    MEMBERS = (
        forge.file(b"d/File", b"1"), forge.file(b"d/file", b"2"), forge.file(b"D/other", b"3"),
        forge.file(b"plain", b"4"),
    )  # fmt: skip

    def test_they_are_told_apart_where_the_disk_can(self, zip_path: Path, target: Path) -> None:
        archive = forge.write(zip_path, self.MEMBERS)
        if obstacles.ignores_case(os.fsencode(zip_path.parent), may_write=True):
            pytest.skip("the file system ignores case")
        assert restore(archive, target).problems == []
        assert (target / "d/File").read_bytes() == b"1"
        assert (target / "d/file").read_bytes() == b"2"

    def test_they_are_named_and_not_merged_where_it_cannot(
        self, zip_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(obstacles, "ignores_case", lambda *_, **__: True)
        result = restore(forge.write(zip_path, self.MEMBERS), target)
        assert result.codes == {"d/file": STORAGE, "d": STORAGE}
        assert "differs only by case from d/File" in result.problems[0].message
        assert (target / "d/File").read_bytes() == b"1"
