"""What a mirror copies, what it leaves alone, and what it keeps of each file."""

from __future__ import annotations

import os
import random
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from attributed import folder_with_attributes, set_acl
from mirroring import (
    LONG_AGO,
    NOBODY,
    assert_mirrored,
    assert_rsync_agrees,
    done,
    errors,
    mirror,
    put,
)
from restoring import as_nobody

from pybak.errors import PlanError
from pybak.mirror import content, run, walk
from pybak.mirror.rows import temporary_name
from pybak.report import PARTIAL, SUCCESS, UNCHANGED
from pybak.workers.pool import HelperPool
from pybak.writing import write_all


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """A small tree of files of several kinds."""
    source = tmp_path / "src"
    put(source / "a.txt", "first")
    put(source / "empty", b"")
    put(source / "sub" / "b.bin", os.urandom(300_000))
    put(source / "sub" / "deep" / "c", "c" * 5000)
    put(source / "sub" / b"not-\xff-utf8".decode("utf-8", "surrogateescape"), "odd")
    (source / "nothing in it").mkdir(mode=0o701)
    (source / "link").symlink_to("a.txt")
    (source / "dangling").symlink_to("/no/such/place")
    os.mkfifo(source / "sub" / "fifo", 0o640)
    (source / "a.txt").chmod(0o751)
    (source / "sub").chmod(0o2750)
    os.utime(source / "link", ns=(LONG_AGO, LONG_AGO + 5), follow_symlinks=False)
    for folder in ("nothing in it", "sub/deep", "sub", "."):
        os.utime(source / folder, ns=(LONG_AGO, LONG_AGO))
    return source


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    return tmp_path / "dst"


def test_a_first_mirror_is_the_same_tree(src: Path, dst: Path) -> None:
    report = mirror(src, dst)
    assert report.status == SUCCESS
    assert done(report) == {"copied": 8}
    assert report.folders_made == 3
    assert report.bytes_copied == report.bytes_found == 305_008
    assert_mirrored(src, dst)
    assert subprocess.run(
        ["diff", "-r", "--no-dereference", src, dst], check=False, capture_output=True
    ).stdout == b"".join(
        b"File %s/sub/fifo is a fifo while file %s/sub/fifo is a fifo\n" % (a, b)
        for a, b in [(os.fsencode(src), os.fsencode(dst))]
    )


@pytest.mark.needs_tool("rsync")
def test_rsync_finds_nothing_left_to_do(src: Path, dst: Path) -> None:
    mirror(src, dst)
    assert_rsync_agrees(src, dst)


def test_a_second_mirror_does_nothing(src: Path, dst: Path) -> None:
    mirror(src, dst)
    inodes = {path: path.lstat().st_ino for path in dst.rglob("*")}
    report = mirror(src, dst)
    assert (report.status, report.bytes_copied) == (UNCHANGED, 0)
    assert done(report) == {"unchanged": 8}
    assert {path: path.lstat().st_ino for path in dst.rglob("*")} == inodes


def test_only_what_changed_is_copied(src: Path, dst: Path) -> None:
    mirror(src, dst)
    before = (dst / "sub" / "b.bin").stat().st_ino
    put(src / "a.txt", "second", mtime_ns=LONG_AGO + 1)
    put(src / "new" / "file")
    (src / "link").unlink()
    (src / "link").symlink_to("empty")
    report = mirror(src, dst)
    assert done(report) == {"copied": 1, "updated": 2, "unchanged": 6}
    assert report.bytes_copied == 7
    assert (dst / "sub" / "b.bin").stat().st_ino == before
    assert_mirrored(src, dst)


def test_a_time_that_differs_by_a_nanosecond_is_a_change(src: Path, dst: Path) -> None:
    mirror(src, dst)
    os.utime(src / "empty", ns=(LONG_AGO, LONG_AGO - 1))
    assert done(mirror(src, dst)) == {"updated": 1, "unchanged": 7}
    assert_mirrored(src, dst)


def test_metadata_alone_is_set_without_copying(src: Path, dst: Path) -> None:
    mirror(src, dst)
    before = (dst / "sub" / "b.bin").stat().st_ino
    (src / "sub" / "b.bin").chmod(0o400)
    (src / "sub").chmod(0o700)
    report = mirror(src, dst)
    assert (done(report), report.bytes_copied) == ({"metadata": 1, "unchanged": 7}, 0)
    assert (dst / "sub" / "b.bin").stat().st_ino == before
    assert_mirrored(src, dst)
    assert mirror(src, dst).status == UNCHANGED


def test_only_a_folders_looks_changed(src: Path, dst: Path) -> None:
    mirror(src, dst)
    (src / "sub" / "deep").chmod(0o711)
    src.chmod(0o711)
    report = mirror(src, dst)
    assert (report.status, done(report)) == (SUCCESS, {"unchanged": 8})
    assert_mirrored(src, dst)


def test_other_names_of_a_file_keep_their_metadata(src: Path, dst: Path, tmp_path: Path) -> None:
    """As in snapshots that are made of hard links."""
    mirror(src, dst)
    os.link(dst / "a.txt", tmp_path / "yesterday")
    (src / "a.txt").chmod(0o600)
    assert done(mirror(src, dst)) == {"updated": 1, "unchanged": 7}
    assert stat.S_IMODE((tmp_path / "yesterday").stat().st_mode) == 0o751
    assert_mirrored(src, dst)


def test_everything_is_copied_on_request(src: Path, dst: Path) -> None:
    mirror(src, dst)
    before = (dst / "a.txt").stat().st_ino
    assert done(mirror(src, dst, all=True)) == {"updated": 5, "unchanged": 3}
    assert (dst / "a.txt").stat().st_ino != before
    assert_mirrored(src, dst)


def test_content_is_compared_on_request(src: Path, dst: Path) -> None:
    mirror(src, dst)
    put(dst / "a.txt", "fIrst")
    assert mirror(src, dst).status == UNCHANGED
    os.utime(src / "empty", ns=(1, 1))
    report = mirror(src, dst, compare_content=True)
    assert done(report) == {"updated": 1, "metadata": 1, "unchanged": 6}
    assert_mirrored(src, dst)


def test_a_verified_mirror_is_the_same(src: Path, dst: Path) -> None:
    assert mirror(src, dst, verify=True).status == SUCCESS
    assert_mirrored(src, dst)


def test_a_copy_that_is_not_what_was_read_is_not_kept(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(fd: int, data: bytes) -> None:
        write_all(fd, data[:-1] + b"?" if data == b"first" else data)

    monkeypatch.setattr(content, "write_all", damage)
    report = mirror(src, dst, verify=True)
    assert (report.status, errors(report)) == (PARTIAL, {"a.txt": "damaged"})
    assert not (dst / "a.txt").exists()
    assert not list(dst.rglob(".pybak*"))
    monkeypatch.undo()
    assert done(mirror(src, dst)) == {"copied": 1, "unchanged": 7}
    assert_mirrored(src, dst)


@pytest.mark.parametrize("old", ["file", "folder", "full", "link", "fifo"])
@pytest.mark.parametrize("new", ["file", "folder", "link", "fifo"])
def test_whatever_stands_in_a_place_gives_way(tmp_path: Path, old: str, new: str) -> None:
    """A folder that holds something only if deleting is asked for."""
    source, target = tmp_path / "src", tmp_path / "dst"
    outside = put(tmp_path / "outside" / "kept").parent
    for folder, kind in ((source, new), (target, old)):
        folder.mkdir()
        thing = folder / "thing"
        if kind == "file":
            put(thing, "new" if folder == source else "old one")
        elif kind == "link":
            thing.symlink_to(outside)
        elif kind == "fifo":
            os.mkfifo(thing)
        else:
            thing.mkdir()
        if kind == "full":
            put(thing / "inside")
    report = mirror(source, target)
    if old == "full" and new != "folder":
        assert (report.status, errors(report)) == ("failed", {"thing": "storage"})
        assert "--delete" in report.errors[0].message
        report = mirror(source, target, delete=True)
        assert report.files.deleted == 1
    elif old == "full":
        report = mirror(source, target, delete=True, allow_empty=True, max_delete="1")
    assert report.status in (SUCCESS, UNCHANGED)
    assert_mirrored(source, target)
    assert os.listdir(outside) == ["kept"]


def test_a_link_in_the_destination_leads_nowhere(src: Path, dst: Path, tmp_path: Path) -> None:
    """Neither for writing nor for deleting (case 79)."""
    outside = put(tmp_path / "outside" / "b.bin", "mine").parent
    dst.mkdir()
    (dst / "sub").symlink_to(outside)
    (dst / "a.txt").symlink_to(outside / "b.bin")
    assert mirror(src, dst, delete=True).status == SUCCESS
    assert_mirrored(src, dst)
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"b.bin": "mine"}


def test_a_folder_that_becomes_a_link_meanwhile_is_not_entered(
    src: Path, dst: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    mirror(src, dst)
    put(src / "sub" / "deep" / "more")

    def swap(_plan: object) -> None:
        (dst / "sub" / "deep").rename(tmp_path / "elsewhere")
        (dst / "sub" / "deep").symlink_to(outside)

    report = mirror(src, dst, between=swap)
    assert report.status == "partial"
    assert errors(report)["sub/deep/more"] == "storage"
    assert not list(outside.iterdir())


def test_hard_links_are_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "dst"
    put(source / "one", "same")
    (source / "sub").mkdir()
    os.link(source / "one", source / "sub" / "two")
    os.link(source / "one", source / "three")
    assert done(mirror(source, target)) == {"copied": 3}
    assert_mirrored(source, target)
    assert (target / "one").stat().st_nlink == 3
    assert mirror(source, target).status == UNCHANGED
    # Another content; a name that goes, one that comes, and one that is a file of its own now.
    (source / "three").unlink()
    put(source / "one", "other", mtime_ns=LONG_AGO + 7)
    os.link(source / "one", source / "four")
    (source / "sub" / "two").unlink()
    put(source / "sub" / "two", "own")
    mirror(source, target, delete=True)
    assert_mirrored(source, target)
    assert mirror(source, target).status == UNCHANGED


def test_names_of_one_file_become_one_in_an_old_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "dst"
    put(source / "one", "same")
    put(target / "one", "same")
    put(target / "two", "same")
    os.link(source / "one", source / "two")
    assert done(mirror(source, target)) == {"updated": 1, "unchanged": 1}
    assert_mirrored(source, target)


def test_a_linked_file_whose_first_name_fails_is_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "dst"
    put(source / "one", "same")
    for name in ("two", "three"):
        os.link(source / "one", source / name)
    put(target / "one" / "in the way")
    report = mirror(source, target)
    assert errors(report) == {"one": "storage"}
    assert (target / "two").read_text() == "same"
    assert (target / "two").stat().st_ino == (target / "three").stat().st_ino


def test_sparse_files_stay_sparse(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "dst"
    source.mkdir()
    for name, size in (("tail", 50 << 20), ("all", 20 << 20), ("small", 100 << 10)):
        with (source / name).open("wb") as file:
            if name != "all":
                file.seek(64 << 10)
                file.write(b"data" * 1024)
            file.truncate(size)
    mirror(source, target)
    assert_mirrored(source, target)
    for name in ("tail", "all", "small"):
        assert (target / name).stat().st_blocks <= (source / name).stat().st_blocks


@pytest.mark.parametrize("way", ["copy_file_range", "sendfile", "read"])
@pytest.mark.parametrize("size", [1, content._SMALL, content._SMALL + 1, content._PIECE + 12_345])
def test_every_way_of_copying_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, size: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    if way != "copy_file_range":
        monkeypatch.setattr(os, "copy_file_range", refuse)
    if way == "read":
        monkeypatch.setattr(os, "sendfile", refuse)
    source = tmp_path / "src"
    put(source / "file", random.Random(1).randbytes(size))
    assert mirror(source, tmp_path / "dst").bytes_copied == size
    assert_mirrored(source, tmp_path / "dst")


@pytest.mark.needs_tool("setfacl")
def test_attributes_and_acls_are_kept(tmp_path: Path) -> None:
    with folder_with_attributes(tmp_path) as place:
        source, target = place / "src", place / "dst"
        put(source / "sub" / "file")
        os.setxattr(source / "sub" / "file", "user.color", b"blue")
        os.setxattr(source / "sub", "user.color", b"red")
        set_acl(source / "sub" / "file", "u:12345:rw")
        set_acl(source / "sub", "u:12345:rwx", default=True)
        target.mkdir()
        set_acl(target, "g:54321:rwx", default=True)  # what is made in it must not inherit it
        mirror(source, target)
        assert_mirrored(source, target)
        assert mirror(source, target).status == UNCHANGED
        os.removexattr(source / "sub" / "file", "user.color")
        os.setxattr(source / "sub" / "file", "user.size", b"L")
        report = mirror(source, target)
        assert done(report) == {"metadata": 1}
        assert_mirrored(source, target)


@pytest.mark.needs_tool("setfacl")
def test_a_default_acl_without_names_takes_nothing_from_modes(tmp_path: Path) -> None:
    """Files get no ACL from it, only fewer permissions."""
    with folder_with_attributes(tmp_path) as place:
        source, target = place / "src", place / "dst"
        for number in range(16):
            path = source / ("sub" if number % 2 else "") / f"file{number}"
            put(path).chmod(0o644 if number % 3 else 0o666)
        (target / "sub").mkdir(parents=True)
        set_acl(target / "sub", "u::rwx", "g::r-x", "o::---", default=True)
        mirror(source, target)
        assert_mirrored(source, target)
        assert mirror(source, target).status == UNCHANGED


@pytest.mark.needs_root
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_of_one_folder_get_their_own_owners_and_modes(tmp_path: Path, umask: int) -> None:
    """Also where a file gets another group by itself, and where few permissions are given."""
    source, target = tmp_path / "src", tmp_path / "dst"
    for folder in ("plain", "shared"):
        (target / folder).mkdir(parents=True)
        for number in range(48):
            path = put(source / folder / f"file{number:02d}", str(number))
            os.chown(path, *((0, 0), (0, 7), (NOBODY, 7), (NOBODY, 0))[number % 4])
            path.chmod((0o644, 0o400, 0o4755, 0o2750, 0o777, 0o1600)[number % 6])
    os.chown(target / "shared", 0, 7)
    (target / "shared").chmod(0o2755)
    before = os.umask(umask)
    try:
        assert mirror(source, target).status == SUCCESS
    finally:
        os.umask(before)
    assert_mirrored(source, target)
    assert mirror(source, target).status == UNCHANGED


@pytest.mark.needs_root
def test_nobody_sees_more_of_an_unfinished_file_than_of_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its group may be another one until it has its own."""
    source = tmp_path / "src"
    for number in range(12):
        path = put(source / f"file{number:02d}")
        os.chown(path, NOBODY if number % 3 else 0, 7 if number % 2 else 0)
        path.chmod(0o644 if number % 4 else 0o640)
    seen: set[int] = set()
    real = content.Copying.copy

    def copying(self: content.Copying, here: int, there: int, *rest: object) -> bool:
        one, other = os.fstat(here), os.fstat(there)
        is_owned = (one.st_uid, one.st_gid) == (other.st_uid, other.st_gid)
        allowed = one.st_mode if is_owned else 0o600
        assert not other.st_mode & 0o777 & ~allowed
        seen.add(other.st_mode & 0o777)
        return real(self, here, there, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(content.Copying, "copy", copying)
    before = os.umask(0o022)
    try:
        assert mirror(source, tmp_path / "dst").status == SUCCESS
    finally:
        os.umask(before)
    assert seen == {0o600, 0o640, 0o644}
    assert_mirrored(source, tmp_path / "dst")


def test_a_link_that_got_another_target_of_the_same_length_and_time_is_replaced(
    src: Path, dst: Path
) -> None:
    (src / "link").unlink(missing_ok=True)
    (src / "link").symlink_to("target-1")
    os.utime(src / "link", ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
    mirror(src, dst)
    (src / "link").unlink()
    (src / "link").symlink_to("target-2")
    os.utime(src / "link", ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
    assert done(mirror(src, dst)) == {"updated": 1, "unchanged": 7}
    assert_mirrored(src, dst)


@pytest.mark.needs_root
def test_owners_devices_and_capabilities_are_kept_by_root(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "dst"
    put(source / "program")
    os.chown(source / "program", 1234, 5678)
    (source / "program").chmod(0o6755)
    put(source / "capable")
    os.setxattr(
        source / "capable", "security.capability", bytes.fromhex("0100000200040000" + "00" * 12)
    )
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (source / "link").symlink_to("x")
    os.lchown(source / "link", 77, 88)
    mirror(source, target)
    assert_mirrored(source, target)
    assert mirror(source, target).status == UNCHANGED
    os.chown(source / "program", 1, 1)
    (source / "program").chmod(0o6755)
    assert done(mirror(source, target)) == {"metadata": 1, "unchanged": 3}
    assert_mirrored(source, target)


@pytest.mark.needs_root
def test_owners_are_left_alone_on_request(tmp_path: Path) -> None:
    """And with them set-id bits that were meant for somebody else."""
    source, target = tmp_path / "src", tmp_path / "dst"
    put(source / "program")
    os.chown(source / "program", 1234, 1234)
    (source / "program").chmod(0o4755)
    mirror(source, target, owner="none")
    status = (target / "program").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o755)
    assert mirror(source, target, owner="none").status == UNCHANGED


def test_a_socket_is_skipped_and_told(src: Path, dst: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(src / "socket"))
        report = mirror(src, dst)
    assert (report.status, report.files.skipped) == (SUCCESS, 1)
    assert [problem.path for problem in report.skipped] == ["socket"]


def test_a_single_file_goes_into_the_folder(src: Path, dst: Path) -> None:
    put(dst / "other", "stays")
    assert done(mirror(src / "a.txt", dst)) == {"copied": 1}
    assert sorted(os.listdir(dst)) == ["a.txt", "other"]
    assert (dst / "a.txt").stat().st_mtime_ns == LONG_AGO
    assert mirror(src / "a.txt", dst).status == UNCHANGED


def test_a_single_file_is_neither_a_link_nor_deleted_for(src: Path, dst: Path) -> None:
    with pytest.raises(PlanError, match="--delete is for folders"):
        mirror(src / "a.txt", dst, delete=True)
    with pytest.raises(PlanError, match=r"is a link to a file; name .*/src/a\.txt"):
        mirror(src / "link", dst)


def test_patterns_choose(src: Path, dst: Path) -> None:
    report = mirror(src, dst, exclude=["*.bin", "/sub/deep/"])
    assert report.files.excluded == 2
    assert not (dst / "sub" / "b.bin").exists()
    assert not (dst / "sub" / "deep").exists()
    assert (dst / "sub" / "fifo").exists()
    other = dst.parent / "other"
    report = mirror(src, other, include=["c"])
    assert [str(path.relative_to(other)) for path in sorted(other.rglob("*"))] == [
        "sub", "sub/deep", "sub/deep/c",
    ]  # fmt: skip
    assert (other / "sub").stat().st_mode == (src / "sub").stat().st_mode
    assert mirror(src, other, include=["c"]).status == UNCHANGED
    assert errors(mirror(src, other, include=["c", "nothing like it"])) == {
        "nothing like it": "no_match"
    }


def test_a_dry_run_tells_and_does_nothing(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(dst / "extra")
    put(dst / "a.txt", "old")
    (dst / temporary_name("0" * 16, "1" * 12).decode()).touch()
    before = {path: path.lstat() for path in (dst, *dst.rglob("*"))}
    monkeypatch.setattr(run, "_LIVE_SECONDS", 0)
    report = mirror(src, dst, delete=True, dry_run=True)
    assert {path: path.lstat() for path in (dst, *dst.rglob("*"))} == before
    assert done(report) == {"copied": 7, "updated": 1, "deleted": 1}
    assert ("replace", "a.txt") in report.would
    assert ("make", "sub/deep/") in report.would
    assert report.deleted_paths == ("extra",)
    assert "nothing was changed" in report.to_text()
    real = mirror(src, dst, delete=True)
    assert done(real) == done(report)
    assert real.folders_made == report.folders_made
    assert real.bytes_copied == report.bytes_copied


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_many_pieces_and_helpers_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, ahead: bool
) -> None:
    monkeypatch.setattr(walk, "_FIRST_PIECE", 20)
    monkeypatch.setattr(walk, "_FIRST_AHEAD", 20)
    monkeypatch.setattr(walk, "_PIECE", 10)
    source, target = tmp_path / "src", tmp_path / "dst"
    choose = random.Random(workers)
    for number in range(300):
        folder = source.joinpath(*(choose.choice("abcd") for _ in range(choose.randrange(5))))
        put(folder / f"f{number}", str(number) * choose.randrange(900))
    os.link(next(source.rglob("f7")), source / "linked")
    asked: list[str] = []
    call = HelperPool.call

    def counted(self: HelperPool, function: str, argument: bytes) -> bytes:
        answer = call(self, function, argument)
        asked.append(function.rpartition(":")[2])
        return answer

    monkeypatch.setattr(HelperPool, "call", counted)
    report = mirror(source, target, workers=workers, cluster="helpers", ahead=ahead)
    assert set(asked) == ({"compare_order", "copy_order"} if workers > 1 else {"copy_order"})
    assert done(report) == {"copied": 301}
    assert_mirrored(source, target)
    for path in choose.sample([p for p in source.rglob("f*") if p.is_file()], 40):
        path.unlink()
    put(source / "a" / "late")
    report = mirror(source, target, workers=workers, cluster="helpers", delete=True)
    assert report.files.deleted == 40
    assert_mirrored(source, target)
    assert mirror(source, target, workers=workers, delete=True).status == UNCHANGED


def test_a_path_longer_than_the_systems_limit_is_copied(tmp_path: Path) -> None:
    """Deeper than 4096 bytes."""
    source, target = tmp_path / "src", tmp_path / "dst"
    source.mkdir()
    fd = os.open(source, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=fd)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    assert done(mirror(source, target)) == {"copied": 1}
    assert mirror(source, target).status == UNCHANGED
    found = subprocess.run(["find", target, "-name", "file"], check=True, capture_output=True)
    assert len(found.stdout) > 5000
    subprocess.run(["rm", "-rf", source, target], check=True)


@pytest.mark.needs_root
def test_an_ordinary_user_mirrors_what_nobody_may_write(open_dir: Path) -> None:
    """Read-only files and folders, the second time too; unreadable ones are named (case 35)."""
    source, target = open_dir / "src", open_dir / "dst"
    put(source / "ro" / "file", "1")
    put(source / "ro" / "sub" / "file", "1")
    put(source / "secret", "2")
    put(source / "closed" / "x")
    subprocess.run(["chown", "-R", str(NOBODY), source], check=True)
    (source / "ro" / "file").chmod(0o400)
    (source / "ro" / "sub").chmod(0o555)
    (source / "ro").chmod(0o555)
    for name in ("secret", "closed"):
        os.chown(source / name, 0, 0)
        (source / name).chmod(0)

    def first() -> None:
        report = mirror(source, target)
        assert errors(report) == {"secret": "unreadable", "closed": "unreadable"}, report
        assert done(report) == {"copied": 2, "failed": 1}

    def second() -> None:
        blocked = mirror(source, target, delete=True)
        assert errors(blocked)[""] == "delete_limit", blocked
        assert (target / "ro" / "sub" / "file").exists()
        (source / "ro" / "file").chmod(0o600)
        put(source / "ro" / "file", "333")
        (source / "ro" / "file").chmod(0o400)
        report = mirror(source, target, delete=True, exclude=["/secret", "/closed"])
        assert done(report)["updated"] == 1, report
        assert done(report)["deleted"] == 1, report

    as_nobody(first)
    assert (target / "ro").stat().st_mode & 0o777 == 0o555
    (source / "ro" / "sub" / "file").unlink()
    (source / "ro" / "file").unlink()
    put(source / "ro" / "file", "22")
    os.chown(source / "ro" / "file", NOBODY, NOBODY)
    (source / "ro" / "file").chmod(0o400)
    os.utime(source / "ro", ns=(LONG_AGO, LONG_AGO))
    as_nobody(second)
    assert (target / "ro" / "file").read_text() == "333"
    assert (target / "ro").stat().st_mode & 0o777 == 0o555
    assert (target / "ro").stat().st_mtime_ns == LONG_AGO
    assert not (target / "ro" / "sub" / "file").exists()
