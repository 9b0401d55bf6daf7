"""What a mirror must never lose, whatever happens between its comparing, copying and deleting."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mirroring import (
    LONG_AGO,
    assert_mirrored,
    assert_rsync_agrees,
    done,
    errors,
    mirror,
    put,
)

from pybak.errors import Interrupted, PlanError, SourceError, StorageError
from pybak.mirror import content, run, walk
from pybak.mirror.compare import compare_piece
from pybak.mirror.compared import Todo
from pybak.mirror.fidelity import Fidelity
from pybak.mirror.finish import prepare
from pybak.mirror.helping import mirror_hand
from pybak.mirror.plan import MirrorPlan
from pybak.mirror.rows import MirrorJob, read_batch, temporary_name
from pybak.mirror.run import EmptySourceError, MirrorRun
from pybak.mounts import Mounted, Place, place_of, read_mounts
from pybak.options.mirror import MirrorOptions
from pybak.report import FAILED, PARTIAL, SUCCESS, UNCHANGED


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return put(tmp_path / "src" / "kept").parent


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    (tmp_path / "dst").mkdir()
    return tmp_path / "dst"


@pytest.fixture
def mounted() -> Iterator[list[Path]]:
    """Unmounts what a test puts into it."""
    places: list[Path] = []
    yield places
    for place in reversed(places):
        subprocess.run(["umount", place], check=True)


def mount(mounted: list[Path], place: Path, *how: str | Path) -> None:
    if subprocess.run(["mount", *how, place], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    mounted.append(place)


# -- setting metadata in place


def test_a_file_written_after_comparing_is_copied_and_not_only_touched_up(
    src: Path, dst: Path
) -> None:
    """Else its old content would get the new time, and pass for the new one for ever."""
    put(src / "db", "AAAA")
    mirror(src, dst)
    (src / "db").chmod(0o600)
    report = mirror(src, dst, between=lambda _: put(src / "db", "BBBB", mtime_ns=LONG_AGO + 9))
    assert report.status == SUCCESS
    assert (dst / "db").read_text() == "BBBB"
    assert_mirrored(src, dst)


def test_a_copy_written_after_comparing_is_replaced(src: Path, dst: Path) -> None:
    put(src / "db", "AAAA")
    mirror(src, dst)
    (src / "db").chmod(0o600)
    mirror(src, dst, between=lambda _: put(dst / "db", "XXXX", mtime_ns=LONG_AGO))
    assert_mirrored(src, dst)


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_metadata_never_goes_to_what_took_a_copys_place(
    src: Path, dst: Path, tmp_path: Path, kind: str
) -> None:
    def make(path: Path, mode: int) -> Path:
        if kind == "file":
            put(path, "abc")
        else:
            os.mkfifo(path)
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
        path.chmod(mode)
        return path

    make(src / "it", 0o755)
    mirror(src, dst)
    (src / "it").chmod(0o4777)
    outside = make(tmp_path / "outside", 0o600)

    def swap(_plan: object) -> None:
        (dst / "it").unlink()
        os.link(outside, dst / "it")

    mirror(src, dst, between=swap)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600
    assert_mirrored(src, dst)


# -- deleting after what went wrong


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
def test_what_was_moved_is_not_deleted_where_its_new_name_finds_no_room(
    src: Path, dst: Path, mounted: list[Path]
) -> None:
    mount(mounted, dst, "-t", "tmpfs", "-o", "size=2m", "none")
    put(src / "a", os.urandom(1_500_000))
    mirror(src, dst)
    (src / "a").rename(src / "b")
    report = mirror(src, dst, delete=True)
    assert (report.status, errors(report)) == (PARTIAL, {"b": "storage", "": "delete_limit"})
    assert sorted(os.listdir(dst)) == ["a", "kept"]


def test_what_was_moved_is_not_deleted_where_its_new_name_can_not_be_read(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(src / "a", "x")
    mirror(src, dst)
    (src / "a").rename(src / "b")

    def fail(*_: object) -> bytes:
        raise SourceError("Input/output error", "io_error")

    with monkeypatch.context() as broken:
        broken.setattr(content, "_read_small", fail)
        report = mirror(src, dst, delete=True)
    assert errors(report) == {"b": "io_error", "": "delete_limit"}
    assert sorted(os.listdir(dst)) == ["a", "kept"]
    assert mirror(src, dst, delete=True).files.deleted == 1
    assert_mirrored(src, dst)


def test_what_was_moved_is_not_deleted_where_it_can_not_take_a_folders_place(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(src / "a", "x")
    mirror(src, dst)
    (src / "a").rename(src / "b")
    put(dst / "b" / "gives way")

    def fail(*_: object) -> bytes:
        raise SourceError("Input/output error", "io_error")

    monkeypatch.setattr(content, "_read_small", fail)
    report = mirror(src, dst, delete=True)
    assert errors(report) == {"b": "io_error", "": "delete_limit"}
    assert (dst / "a").exists()


def test_nothing_is_deleted_where_a_hard_link_fails(src: Path, dst: Path) -> None:
    """And all else is done; a link's folder that is a file by now ends nothing."""
    put(src / "a")
    (src / "sub").mkdir()
    os.link(src / "a", src / "sub" / "b")
    put(src / "z" / "c")
    put(dst / "old")
    report = mirror(src, dst, delete=True, between=lambda _: put(dst / "sub"))
    assert report.status == PARTIAL
    assert {"sub/b", ""} <= set(errors(report))
    assert (dst / "old").exists()
    assert (dst / "z").stat().st_mtime_ns == (src / "z").stat().st_mtime_ns


def test_nothing_is_deleted_where_what_was_to_be_copied_vanished(src: Path, dst: Path) -> None:
    """As when the source is emptied or unmounted in the middle."""
    for number in range(30):
        put(src / f"new{number}")
        put(dst / f"old{number}")
    put(dst / "kept")

    def empty(_plan: object) -> None:
        for path in src.iterdir():
            path.unlink()

    report = mirror(src, dst, delete=True, max_delete="100%", between=empty)
    assert (report.status, report.files.deleted) == (PARTIAL, 0)
    assert errors(report) == {"": "delete_limit"}
    assert len(os.listdir(dst)) == 31


def test_a_run_whose_files_all_vanished_is_no_success(src: Path, dst: Path) -> None:
    report = mirror(src, dst, between=lambda _: (src / "kept").unlink())
    assert (report.status, done(report)) == (FAILED, {"skipped": 1})


# -- mounts


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
def test_nothing_goes_from_a_mount_whose_folder_is_in_the_source(
    src: Path, dst: Path, mounted: list[Path]
) -> None:
    put(src / "extra" / "sub" / "a")
    (dst / "extra").mkdir()
    mount(mounted, dst / "extra", "-t", "tmpfs", "none")
    put(dst / "extra" / "precious")
    put(dst / "extra" / "sub" / "precious")
    put(dst / "old")
    report = mirror(src, dst, delete=True)
    assert report.deleted_paths == ("old",)
    assert (dst / "extra" / "precious").exists()
    assert (dst / "extra" / "sub" / "precious").exists()
    assert [one.path for one in report.skipped] == ["extra", "extra/sub"]


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
@pytest.mark.parametrize("what", ["src", "src/x", "."])
def test_a_destination_into_which_the_source_is_mounted_is_refused(
    src: Path, tmp_path: Path, mounted: list[Path], what: str
) -> None:
    """At once: what it would delete there, the source would lose."""
    (src / "x").mkdir()
    target = tmp_path / "a dst"
    (target / "x").mkdir(parents=True)
    mount(mounted, target / "x", "--bind", tmp_path / what)
    with pytest.raises(PlanError, match="is mounted from the source"):
        mirror(src, target, delete=True)
    with pytest.raises(PlanError, match=r"is mounted from the source|outside"):
        mirror(src, target / "x", delete=True)


def test_two_mounts_that_only_seem_to_be_one_are_no_obstacle(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two exports of one network server, which have one device and are both its root."""
    mounts = [Mounted(os.fsencode(side), Place(b"0:50", b"/")) for side in (src, dst)]
    monkeypatch.setattr("pybak.mirror.sides.read_mounts", lambda: mounts)
    assert mirror(src, dst).status == SUCCESS


def test_a_mounts_place_is_told_by_the_longest_path_above(tmp_path: Path) -> None:
    listed = tmp_path / "mountinfo"
    listed.write_bytes(
        b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        b"2 1 8:2 / /mnt rw - ext4 /dev/sdb1 rw\n"
        b"3 1 8:1 /home/me /mnt/a\\040b rw shared:1 - ext4 /dev/sda1 rw\n"
    )
    mounts = read_mounts(listed)
    assert place_of(b"/mnt/a b/c", mounts) == Place(b"8:1", b"/home/me/c")
    assert place_of(b"/mnt/a", mounts) == Place(b"8:2", b"/a")
    assert place_of(b"/", mounts) == Place(b"8:1", b"/")
    assert Place(b"8:1", b"/home/me").below(Place(b"8:1", b"/home")) == b"me"
    assert Place(b"8:1", b"/home").below(Place(b"8:1", b"/home/me")) is None
    assert Place(b"8:1", b"/home/me2").below(Place(b"8:1", b"/home/me")) is None
    assert Place(b"8:1", b"/home").below(Place(b"8:2", b"/home")) is None
    assert read_mounts(tmp_path / "missing") == []


# -- source and destination that are swapped


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("which", ["src", "dst"])
def test_another_folder_in_the_place_of_a_side_is_not_used(
    src: Path, dst: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, which: str
) -> None:
    outside = put(tmp_path / "outside" / "secret").parent

    def swap(*_: object) -> None:
        (tmp_path / which).rename(tmp_path / "gone")
        (tmp_path / which).symlink_to(outside)

    def prepared(work_dir: Path, plan: MirrorPlan) -> None:
        prepare(work_dir, plan)
        swap()

    if when == "after":
        monkeypatch.setattr(run, "prepare", prepared)
    with pytest.raises(StorageError):
        mirror(src, dst, delete=True, between=swap if when == "before" else lambda _: None)
    assert os.listdir(outside) == ["secret"]
    assert os.listdir(dst if which == "src" else tmp_path / "gone") == []


# -- hard links


def test_a_name_is_not_linked_to_an_old_copy(src: Path, dst: Path) -> None:
    put(src / "log", "new content")
    os.link(src / "log", src / "log.1")
    os.link(src / "log", src / "log.2")
    put(dst / "log", "OLD", mtime_ns=5)
    report = mirror(src, dst, between=lambda _: (src / "log").unlink())
    assert [one.path for one in report.skipped] == ["log"]
    assert (dst / "log.1").read_text() == "new content"
    assert (dst / "log.1").stat().st_ino == (dst / "log.2").stat().st_ino
    assert (dst / "log").read_text() == "OLD"


# -- power failures


def test_data_of_a_sparse_file_is_on_the_disk_before_it_has_its_name(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is written first: without the data it would look right after a power failure."""
    with (src / "sparse").open("wb") as file:
        file.write(b"data" * 5000)
        file.truncate(8 << 20)
    put(src / "plain", os.urandom(300_000))
    if (src / "sparse").stat().st_blocks * 512 >= 8 << 20:
        pytest.skip("no holes here")
    synced: list[tuple[int, int, bool]] = []

    def sync(fd: int) -> None:
        size, start = os.fstat(fd).st_size, os.pread(fd, 4, 0)
        synced.append((size, len(start.strip(b"\0")), (dst / "sparse").exists()))

    monkeypatch.setattr(content.os, "fdatasync", sync)
    assert mirror(src, dst).status == SUCCESS
    assert synced == [(8 << 20, 4, False)]


# -- what may be deleted


@pytest.mark.parametrize("inside", ["lost+found", "sub/deep"])
def test_a_source_without_files_is_taken_for_one_that_is_not_mounted(
    tmp_path: Path, dst: Path, inside: str
) -> None:
    source = tmp_path / "empty"
    (source / inside).mkdir(parents=True)
    for number in range(18):
        put(dst / f"vm{number}.img")
    with pytest.raises(EmptySourceError, match="see that it is mounted") as failed:
        mirror(source, dst, delete=True, max_delete="100%")
    assert (failed.value.code, int(failed.value.exit_code)) == ("source_missing", 1)
    assert len(os.listdir(dst)) == 18
    assert mirror(source, dst, delete=True, allow_empty=True).files.deleted == 18


def test_not_even_a_few_go_where_nothing_would_remain(src: Path, dst: Path) -> None:
    """As with the wrong source; a number that was given counts."""
    for number in range(5):
        put(dst / f"other{number}")
    report = mirror(src, dst, delete=True)
    assert (errors(report), report.files.deleted) == ({"": "delete_limit"}, 0)
    (dst / "kept").unlink()
    assert mirror(src, dst, delete=True, max_delete="5").files.deleted == 5


def test_a_new_file_that_got_the_inode_of_a_deleted_one_stays(src: Path, dst: Path) -> None:
    put(dst / "kept")
    put(dst / "old", "x")
    put(dst / "linked")
    os.link(dst / "linked", dst / "linked too")

    def replace(_plan: object) -> None:
        # The same inode, as if it had been freed and given to the next file.
        (dst / "old").write_text("y")
        os.utime(dst / "old", ns=(LONG_AGO, LONG_AGO))

    report = mirror(src, dst, delete=True, between=replace)
    assert errors(report) == {"old": "storage"}
    assert (dst / "old").read_text() == "y"
    assert set(report.deleted_paths) == {"linked", "linked too"}


def test_on_a_disk_without_lasting_inodes_type_size_and_time_count(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "fidelity_of", lambda _path: Fidelity(keeps_inodes=False))
    for name in ("kept", "same", "other"):
        put(dst / name, "x")
    (dst / "folder").mkdir()

    def replace(_plan: object) -> None:
        for name, text in (("same", "x"), ("other", "longer")):
            put(dst / "new", text)
            (dst / "new").rename(dst / name)

    report = mirror(src, dst, delete=True, between=replace)
    assert errors(report) == {"other": "storage"}
    assert set(report.deleted_paths) == {"same", "folder"}


def test_its_own_folders_and_those_of_a_file_system_are_neither_copied_nor_deleted(
    src: Path, dst: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(src, dst)
    put(dst / "lost+found" / "#1234")
    for side, name in ((dst, "work"), (src, "home")):
        (side / name).mkdir()
    put(src / "home" / "catalog.db")
    monkeypatch.setenv("PYBAK_HOME", str(src / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(dst / "work"))
    put(dst / "old")
    report = mirror(src, dst, delete=True)
    assert (report.status, report.deleted_paths) == (SUCCESS, ("old",))
    assert sorted(os.listdir(dst)) == ["kept", "lost+found", "work"]
    (dst / "home").mkdir()
    monkeypatch.setenv("PYBAK_HOME", str(put(dst / "own" / "catalog.db").parent))
    monkeypatch.setattr("tempfile.tempdir", str(src / "home"))
    assert mirror(src, dst, delete=True, max_delete="100%").status == SUCCESS
    assert (dst / "own" / "catalog.db").exists()
    assert not list((dst / "home").glob(".pybak*"))


@pytest.mark.parametrize(
    "name", [".pybak-mirror-notes.tmp", temporary_name("0" * 16, "0" * 11).decode()]
)
def test_names_that_only_look_like_unfinished_files_are_the_users(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(run, "_LIVE_SECONDS", 0)
    put(src / name, "mine")
    put(src / temporary_name("0" * 16, "1" * 12).decode() / "in a folder")
    put(dst / "sub" / name, "mine")
    mirror(src, dst)
    assert (dst / name).read_text() == (dst / "sub" / name).read_text() == "mine"
    assert (dst / temporary_name("0" * 16, "1" * 12).decode() / "in a folder").exists()


# -- attributes


def test_attributes_are_compared_where_a_copy_got_further_names(
    src: Path, dst: Path, tmp_path: Path
) -> None:
    """As by a snapshot of hard links, which changes the copy's inode later than the source's."""
    try:
        os.setxattr(src / "kept", "user.k", b"1")
    except OSError:
        pytest.skip("no attributes here")
    mirror(src, dst)
    os.setxattr(src / "kept", "user.k", b"2")
    time.sleep(2.1)
    os.link(dst / "kept", tmp_path / "snapshot")
    assert done(mirror(src, dst)) == {"updated": 1}
    assert os.getxattr(dst / "kept", "user.k") == b"2"
    assert os.getxattr(tmp_path / "snapshot", "user.k") == b"1"


def test_an_attribute_that_can_not_be_set_makes_the_run_partial(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        os.setxattr(src / "kept", "user.k", b"1")
    except OSError:
        pytest.skip("no extended attributes here")
    failed = [(b"user.k", OSError(28, "No space left on device"))]
    monkeypatch.setattr("pybak.looks.set_attributes", lambda *_args, **_named: failed)
    report = mirror(src, dst)
    assert report.status == PARTIAL
    assert errors(report)["kept"] == "storage"
    assert done(report) == {"copied": 1}


@pytest.mark.needs_tool("setfacl")
def test_a_fifo_does_not_keep_what_it_inherits(src: Path, dst: Path) -> None:
    """From the default ACL of the copy's folder."""
    os.mkfifo(src / "fifo", 0o640)
    done = subprocess.run(["setfacl", "-d", "-m", "u:65534:rwx", dst], check=False)
    if done.returncode:
        pytest.skip("no ACLs here")
    mirror(src, dst)
    assert "system.posix_acl_access" not in os.listxattr(dst / "fifo")
    assert_mirrored(src, dst)


@pytest.mark.needs_tool("setfacl")
def test_no_file_keeps_what_it_inherits(src: Path, dst: Path) -> None:
    """From the default ACL of its folder, whatever files in other folders are made with."""
    for name in ("a/one", "a/two", "b/one", "b/two", "c/one", "c/two"):
        put(src / name).chmod(0o640)
    for name in ("a", "b", "c"):
        (dst / name).mkdir()
    done = subprocess.run(["setfacl", "-d", "-m", "u:65534:rwx", dst / "b"], check=False)
    if done.returncode:
        pytest.skip("no ACLs here")
    mirror(src, dst)
    assert_mirrored(src, dst)
    assert_rsync_agrees(src, dst)


# -- file systems, depths, being stopped, being asked again


@pytest.mark.needs_root
@pytest.mark.needs_tool("mkfs.ext4")
@pytest.mark.filterwarnings("ignore")
def test_on_a_disk_that_keeps_whole_seconds_a_second_mirror_does_nothing(
    src: Path, tmp_path: Path, mounted: list[Path]
) -> None:
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["truncate", "-s", "8M", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", image], check=True, capture_output=True)
    mount(mounted, disk, "-o", "loop", image)
    os.link(src / "kept", src / "linked")
    assert done(mirror(src, disk / "copy")) == {"copied": 2}
    assert (disk / "copy" / "kept").stat().st_nlink == 2
    assert mirror(src, disk / "copy", dry_run=True).status == UNCHANGED
    assert mirror(src, disk / "copy").status == UNCHANGED


def test_a_tree_deeper_than_pythons_stack_is_copied(src: Path, dst: Path) -> None:
    path = "/".join("d" * 1200)
    subprocess.run(["mkdir", "-p", src / path], check=True)
    put(src / path / "file")
    assert done(mirror(src, dst)) == {"copied": 2}
    assert (dst / path / "file").exists()
    subprocess.run(["rm", "-rf", src, dst], check=True)


@pytest.mark.needs_root
def test_a_source_that_can_not_be_listed_is_no_mirror_at_all(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, inode = os.scandir, src.stat().st_ino

    def scandir(path: int) -> object:
        if isinstance(path, int) and os.fstat(path).st_ino == inode:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("pybak.mirror.compare.os.scandir", scandir)
    with pytest.raises(StorageError, match=r"src: can't be listed: permission denied"):
        mirror(src, dst)


def test_comparing_contents_stops_in_the_middle_of_a_file(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "_ASK_EVERY", 0)
    for side in (src, dst):
        put(side / "kept", b"x" * (8 << 20))
    asked: list[int] = []
    with MirrorRun(str(src), str(dst), MirrorOptions(compare_content=True)) as it:

        def progress(files: int, _size: int) -> None:
            asked.append(files)
            if len(asked) == 4:
                it.request_cancel()

        with pytest.raises(Interrupted):
            it.compare(progress)
    assert len(asked) == 4


def test_an_order_that_is_done_again_gives_its_own_rows(src: Path, dst: Path) -> None:
    """As after a helper that died in the middle of it."""
    for number in range(5):
        put(src / f"file{number}")
    with MirrorRun(str(src), str(dst), MirrorOptions()) as it:
        it.compare()
        job, out = MirrorJob.load(it.staging), it.staging / "rows-x"
        compare_piece(job, [Todo(b"", "new")], out, most=10)
        put(src / "another")
        again = compare_piece(job, [Todo(b"", "new")], out, most=10)
        rows = [row.path for batch in again.batches for row in read_batch(batch)]
    assert sorted(rows) == [b"another", *(b"file%d" % n for n in range(5)), b"kept"]


def test_what_a_dead_helper_left_is_gone_when_its_hand_was_done_again(src: Path, dst: Path) -> None:
    with MirrorRun(str(src), str(dst), MirrorOptions()) as it:
        plan = it.compare()
        it.prepare(plan)
        token = MirrorJob.load(it.staging).token
        put(dst / temporary_name(token, "0" * 12).decode(), "half")
        outcomes = [mirror_hand(it.staging, "0000", hand) for hand in plan.hands]
        it.report(plan, [*outcomes, it.finish(plan, outcomes)])
    assert os.listdir(dst) == ["kept"]


def test_a_run_that_deleted_and_then_failed_did_something(src: Path, dst: Path) -> None:
    put(dst / "kept" / "blocks")
    put(dst / "kept" / "gives way")
    put(dst / "old")
    report = mirror(src, dst, delete=True, exclude=["blocks"])
    assert (report.status, report.deleted_paths) == (PARTIAL, ("kept/gives way",))
    assert (report.errors[-1].code, report.message) == ("delete_limit", None)
    assert report.errors[-1].message.startswith("nothing else was deleted: ")
