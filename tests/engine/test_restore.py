"""Restoring: what is written, what is refused, and that nothing ever lands outside."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import archives as forge
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pybak.errors import ArchiveError, Interrupted, NotFoundError, PlanError, PyBakError
from pybak.formats import zip_records as zr
from pybak.formats.zip_reader import ONE_SHOT, Limits
from pybak.options import RestoreOptions
from pybak.problems import (
    DAMAGED,
    EXISTS,
    NO_MATCH,
    STORAGE,
    UNREADABLE,
    UNSUPPORTED,
    Problem,
    read_problems,
)
from pybak.restore import plan as plan_module
from pybak.restore import run as run_module
from pybak.restore.extract import extract_batch
from pybak.restore.finish import close_up, finish, make_folders
from pybak.restore.folders import Folders
from pybak.restore.items import Item, read_batch
from pybak.restore.outcome import Outcome
from pybak.restore.plan import RestorePlan, plan_restore, prepare
from pybak.restore.rehearse import rehearse
from pybak.restore.run import RestoreRun
from pybak.staging import WorkFolder
from pybak.verify.check import plan_verify

BIG = bytes(range(256)) * 4096 * 3
SECOND = 1_000_000_000


def killed_half_way(batch: Path) -> None:
    """Have a process die in the middle of the first member of `batch`."""
    child = os.fork()
    if child == 0:
        extract_batch(batch, progress=lambda _files, size, _name: os._exit(9) if size else None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


class Result:
    """The parts of a restore put together."""

    def __init__(self, plan: RestorePlan, parts: list, folder_problems: Iterable[Problem]) -> None:
        self.plan = plan
        self.restored = sum(part.restored for part in parts)
        self.skipped = plan.skipped + sum(part.skipped for part in parts)
        self.failed = plan.failed + sum(part.failed for part in parts)
        self.problems = [*plan.problems, *folder_problems]
        for part in parts:
            self.problems += read_problems(part.problems_file)

    @property
    def codes(self) -> dict[str, str]:
        return {problem.path: problem.code for problem in self.problems}


def restore(archive: bytes, target: Path, **options: object) -> Result:
    with tempfile.TemporaryDirectory() as work:
        options.setdefault("tasks", 3)
        plan = plan_restore(archive, os.fsencode(target), work_dir=Path(work), **options)
        assert len(plan.batches) <= options["tasks"]
        made = make_folders(plan)
        parts = [extract_batch(batch) for batch in plan.batches]
        parts.append(finish(plan))
        result = Result(plan, parts, made.problems)
    assert result.restored + result.skipped + result.failed == plan.total
    names = [name for _, _, files in os.walk(target) for name in files]
    assert not [name for name in names if name.startswith(".pybak-")]
    return result


def foretell(archive: bytes, target: Path, **options: object) -> tuple[int, int, int]:
    prepared = prepare(archive, os.fsencode(target), may_write=False, **options)
    outcome = rehearse(prepared).outcome
    assert (
        outcome.restored + outcome.skipped + outcome.failed + prepared.failed + (prepared.skipped)
        == prepared.total
    )
    return outcome.restored, outcome.skipped + prepared.skipped, outcome.failed + prepared.failed


def tree(root: Path) -> dict[bytes, tuple]:
    """Everything below `root`, by a walk of its own: kind and mode, time, content."""
    top = os.fsencode(root)
    found = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as opened:
                    content = opened.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            found[os.path.relpath(path, top)] = (status.st_mode, status.st_mtime_ns, content)
    return found


def expected(members: Iterable[forge.Forged]) -> dict[bytes, tuple]:
    return {
        member.name.rstrip(b"/"): (
            member.mode,
            member.mtime_ns,
            None if member.name.endswith(b"/") else member.data,
        )
        for member in members
    }


@pytest.fixture
def zip_path(tmp_path: Path) -> Path:
    return tmp_path / "a.zip"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def as_nobody(work: Callable[[], None]) -> None:
    """Run `work` in a process without any rights; raise what it raised."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that anyone may use, the way to it included."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o777)
    yield path
    subprocess.run(["chmod", "-R", "u+rwX", path], check=False)
    shutil.rmtree(path)


KINDS = [
    forge.folder(b"s", 0o755, mtime_ns=forge.NOON - 7),
    forge.folder(b"s/empty", 0o711),
    forge.file(b"s/zero"),
    forge.file(b"s/big", BIG, 0o600, deflate=True),
    forge.file(b"s/big-stored", BIG),
    forge.file(b"s/text", b"hello " * 500, 0o644, deflate=True, mtime_ns=-(10**18) + 1),
    forge.file(b"s/later", b"x", mtime_ns=9_000_000_000 * SECOND + 42),
    forge.file(b"s/sticky", b"x", 0o1755),
    forge.folder(b"s/readonly", 0o555),
    forge.file(b"s/readonly/child", b"kept", 0o444),
    forge.folder(b"s/readonly/sub", 0o500),
    forge.file(b"s/readonly/sub/child", b"kept too"),
    forge.link(b"s/relative", b"zero"),
    forge.link(b"s/absolute", b"/etc/passwd"),
    forge.link(b"s/dangling", b"no/where", mtime_ns=5 * SECOND + 3),
    forge.link(b"s/loop", b"loop"),
    forge.link(b"s/to-folder", b"empty"),
    forge.link(b"s/raw", b"\xff\xfe"),
]


@pytest.mark.parametrize("order", [list, lambda members: list(reversed(members))])
def test_everything_comes_back_as_it_was(zip_path: Path, target: Path, order: Callable) -> None:
    """Whatever the order in the archive (cases 4, 14, 15, 17, 18, 19, 20, 26, 28)."""
    archive = forge.write(zip_path, order(KINDS), with_manifest=True)
    result = restore(archive, target)
    assert tree(target) == expected(KINDS)
    assert (result.problems, result.failed) == ([], 0)
    assert result.restored == sum(not member.name.endswith(b"/") for member in KINDS)


def test_the_same_tree_as_unzip_makes(zip_path: Path, target: Path, tmp_path: Path) -> None:
    members = [member for member in KINDS if 0 <= member.mtime_ns < 2**31 * SECOND]
    archive = forge.write(zip_path, members, with_manifest=True)
    restore(archive, target)
    judge = tmp_path / "judge"
    subprocess.run(["unzip", "-q", zip_path, "-x", ".pybak/*", "-d", judge], check=True)
    ours, theirs = tree(target), tree(judge)
    assert ours.keys() == theirs.keys()
    for name, (mode, mtime_ns, content) in theirs.items():
        assert (ours[name][0] & ~stat.S_ISVTX, ours[name][2]) == (mode, content)
        if not stat.S_ISLNK(mode):
            assert ours[name][1] // SECOND == mtime_ns // SECOND


def test_without_a_manifest_times_and_modes_come_from_the_zip(zip_path: Path, target: Path) -> None:
    members = [forge.file(b"d/a", b"x", 0o640), forge.file(b"d/c", b"x", extra=b"")]
    restore(forge.write(zip_path, members), target)
    assert (target / "d/a").stat().st_mtime_ns == forge.NOON // SECOND * SECOND
    assert abs((target / "d/c").stat().st_mtime_ns - forge.NOON) < 2 * SECOND
    assert stat.S_IMODE((target / "d/a").stat().st_mode) == 0o640


def test_members_without_a_mode_get_the_usual_one(zip_path: Path, target: Path) -> None:
    members = [forge.Forged(b"a", b"x", mode=0), forge.Forged(b"d/", mode=0)]
    archive = forge.write(zip_path, members)
    before = os.umask(0o027)
    try:
        restore(archive, target)
    finally:
        os.umask(before)
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o750


NAMES = [
    b"a b (c) [d] *?{}.txt", b"dots...", b"blank ", b" blank", b"new\nline", b"tab\t\x1b[31m",
    b"\xff\xfe raw", "日本語 Ünï עברית".encode(), "e\u0301".encode(), "\u00e9".encode(),
    b"n" * 255, b"-rf", b"back\\slash", b"c:x", b"~", b"%s",
]  # fmt: skip


def test_odd_names_survive(zip_path: Path, target: Path) -> None:
    """Byte for byte (cases 1, 2, 3, 5, 8)."""
    members = [forge.file(name, name) for name in NAMES]
    result = restore(forge.write(zip_path, members, with_manifest=True), target)
    assert tree(target) == expected(members)
    assert result.problems == []


def test_a_path_longer_than_path_max_is_restored(zip_path: Path, target: Path) -> None:
    """Folder by folder, so its length does not matter (case 8)."""
    depth = 40
    name = b"/".join([b"d" * 200] * depth) + b"/file"
    result = restore(forge.write(zip_path, [forge.file(name, b"deep")]), target)
    assert (result.restored, result.problems) == (1, [])
    fd = os.open(target, os.O_RDONLY)
    for _ in range(depth):
        below = os.open(b"d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    assert os.listdir(fd) == ["file"]
    os.close(fd)
    subprocess.run(["rm", "-rf", target], check=True)


def test_a_name_too_long_for_the_disk_is_one_problem(zip_path: Path, target: Path) -> None:
    members = [forge.file(b"n" * 256, b"x"), forge.file(b"ok", b"x")]
    result = restore(forge.write(zip_path, members), target)
    assert result.codes == {"n" * 256: STORAGE}
    assert (target / "ok").read_bytes() == b"x"


def test_few_open_folders_are_enough(tmp_path: Path) -> None:
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    (tmp_path / "x/y").mkdir(parents=True)
    with Folders(os.fsencode(tmp_path), capacity=2) as folders:
        before = len(os.listdir("/dev/fd"))
        for path in (b"a/b/c/d", b"x/y", b"a/b", b"", b"a/b/c/d", b"x", b"a/b/c"):
            fd = folders.fd(path)
            assert os.path.samestat(os.fstat(fd), (tmp_path / os.fsdecode(path)).stat())
            assert len(os.listdir("/dev/fd")) <= before + 2
        with pytest.raises(FileNotFoundError):
            folders.fd(b"a/missing/c")


CLIMBING = [
    b"../out", b"a/../../out", b"..", b"a/..", b"..\\out", b"a\\..\\..\\out", b"/../out",
    b"./../out", b"a/b/../../../out", b"nul\0byte",
]  # fmt: skip


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("kind", [forge.file, forge.link])
def test_a_member_that_climbs_out_is_refused(
    zip_path: Path, target: Path, name: bytes, kind: Callable[..., forge.Forged]
) -> None:
    """Nothing outside changes, the rest is restored (case 77)."""
    members = [kind(name, b"evil"), forge.file(b"good", b"good")]
    before = tree(zip_path.parent)
    archive = forge.write(zip_path, members)
    result = restore(archive, target)
    assert result.codes == {os.fsdecode(name): DAMAGED}
    assert tree(target).keys() == {b"good"}
    after = tree(zip_path.parent)
    assert after.keys() - before.keys() == {b"a.zip", b"target", b"target/good"}


def test_a_climbing_name_from_dos_is_refused(zip_path: Path, target: Path) -> None:
    """`C:..\\x` is no way out (case 77)."""
    archive = forge.write(zip_path, [forge.file(b"C:..\\out", b"x", flags=0)], made_by=0)
    assert restore(archive, target).failed == 1
    assert tree(target) == {}


def test_absolute_and_untidy_names_are_made_relative(zip_path: Path, target: Path) -> None:
    """A leading slash, `.` and empty components (case 78)."""
    members = [forge.file(b"/etc/a", b"1"), forge.file(b"./b", b"2"), forge.file(b"c//d", b"3")]
    result = restore(forge.write(zip_path, members), target)
    files = {name: entry[2] for name, entry in tree(target).items() if entry[2] is not None}
    assert files == {b"etc/a": b"1", b"b": b"2", b"c/d": b"3"}
    assert result.problems == []


@pytest.mark.parametrize("order", [list, lambda members: list(reversed(members))])
def test_no_file_goes_through_a_link_of_the_archive(
    zip_path: Path, target: Path, tmp_path: Path, order: Callable
) -> None:
    """The victim stays as it is (case 79)."""
    victim = tmp_path / "victim"
    victim.mkdir()
    members = [forge.link(b"way", os.fsencode(victim)), forge.file(b"way/evil", b"evil")]
    result = restore(forge.write(zip_path, order(members)), target)
    assert list(victim.iterdir()) == []
    assert result.codes == {"way": DAMAGED}
    assert (target / "way/evil").read_bytes() == b"evil"
    assert not (target / "way").is_symlink()


@pytest.mark.parametrize("overwrite", ["never", "if-newer", "if-changed", "always"])
def test_a_link_in_the_target_is_no_folder(
    zip_path: Path, target: Path, tmp_path: Path, overwrite: str
) -> None:
    """What lies below is refused by name, the victim untouched (cases 79, 82)."""
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    os.utime(victim, (1, 1))
    target.mkdir()
    (target / "way").symlink_to(victim)
    members = [
        forge.folder(b"way", 0o777),
        forge.file(b"way/evil", b"x"),
        forge.file(b"way/deep/er", b"x"),
        forge.file(b"ok", b"x"),
    ]
    archive = forge.write(zip_path, members)
    assert foretell(archive, target, overwrite=overwrite) == (1, 0, 2)
    result = restore(archive, target, overwrite=overwrite)
    assert {"way", "way/evil", "way/deep/er"} <= result.codes.keys()
    assert set(result.codes.values()) == {STORAGE}
    assert (result.restored, result.failed) == (1, 2)
    assert list(victim.iterdir()) == []
    assert (stat.S_IMODE(victim.stat().st_mode), victim.stat().st_mtime) == (0o700, 1)


def test_a_link_swapped_in_after_the_folders_were_made_is_not_followed(
    zip_path: Path, target: Path, tmp_path: Path
) -> None:
    """Also between the steps (case 79)."""
    victim = tmp_path / "victim"
    victim.mkdir()
    archive = forge.write(zip_path, [forge.folder(b"d", 0o700), forge.file(b"d/f", b"x")])
    work = tmp_path / "work"
    work.mkdir()
    plan = plan_restore(archive, os.fsencode(target), work_dir=work, tasks=1)
    make_folders(plan)
    (target / "d").rmdir()
    (target / "d").symlink_to(victim)
    outcome = extract_batch(plan.batches[0])
    finish(plan)
    assert (outcome.restored, outcome.failed) == (0, 1)
    assert list(victim.iterdir()) == []
    assert stat.S_IMODE(victim.stat().st_mode) != 0o700


def test_replacing_a_file_leaves_its_other_names_alone(zip_path: Path, target: Path) -> None:
    """A hard link's inode is not written to (cases 81, 82)."""
    target.mkdir()
    (target / "other").write_bytes(b"old")
    (target / "file").hardlink_to(target / "other")
    restore(forge.write(zip_path, [forge.file(b"file", b"new")]), target, overwrite="always")
    assert (target / "file").read_bytes() == b"new"
    assert (target / "other").read_bytes() == b"old"


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


def test_folders_that_were_there_keep_their_looks_under_never(zip_path: Path, target: Path) -> None:
    (target / "d").mkdir(parents=True)
    (target / "d").chmod(0o700)
    archive = forge.write(zip_path, [forge.folder(b"d", 0o755), forge.file(b"d/f", b"x")])
    restore(archive, target, overwrite="never")
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o700
    restore(archive, target)
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o755


class TestOwners:
    """Ownership and the bits that depend on it."""

    def test_root_restores_owners_and_set_id_bits(self, zip_path: Path, target: Path) -> None:
        """Numbers, also those nobody has here (cases 16, 21)."""
        if os.geteuid() != 0:
            pytest.skip("needs root")
        members = [
            forge.folder(b"d", 0o2775, uid=1234, gid=4321),
            forge.file(b"d/suid", b"x", 0o4755, uid=77_777, gid=88_888),
            forge.file(b"d/sgid", b"x", 0o2711, uid=0, gid=5),
            forge.link(b"d/link", b"suid", uid=1234, gid=4321),
        ]
        for how in (True, False):
            shutil.rmtree(target, ignore_errors=True)
            restore(forge.write(zip_path, members, with_manifest=how), target)
            for member in members:
                status = (target / os.fsdecode(member.name)).lstat()
                if how or not member.name.endswith(b"/"):
                    assert (status.st_uid, status.st_gid) == (member.uid, member.gid)
                    assert status.st_mode == member.mode

    def test_without_an_owner_root_drops_set_id_bits(self, zip_path: Path, target: Path) -> None:
        """A stranger's setuid program must not become root's (case 16)."""
        forged = forge.build([forge.file(b"p", b"x", 0o6755)])
        owner = zr.owner_extra(0, 0)
        zip_path.write_bytes(forged.replace(owner[:2], b"\x99\x99", 1))
        restore(os.fsencode(zip_path), target)
        assert stat.S_IMODE((target / "p").stat().st_mode) == 0o755

    def test_an_owner_that_means_nobody_is_no_owner(self, zip_path: Path, target: Path) -> None:
        members = [forge.file(b"p", b"x", 0o4755, uid=0xFFFFFFFF, gid=0)]
        restore(forge.write(zip_path, members, with_manifest=True), target)
        mode = stat.S_IMODE((target / "p").stat().st_mode)
        assert mode == 0o755

    def test_others_get_the_contents_and_their_own_set_id_bits_only(self, open_dir: Path) -> None:
        """Owners are left alone, without a word (cases 16, 22)."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to become someone else")
        members = [
            forge.file(b"root", b"x", 0o6755, uid=0, gid=0),
            forge.file(b"mine", b"x", 0o6755, uid=65534, gid=65534),
            forge.folder(b"d", 0o555),
            forge.file(b"d/f", b"x"),
        ]
        archive = forge.write(open_dir / "a.zip", members, with_manifest=True)

        def work() -> None:
            target = open_dir / "t"
            for _ in range(2):  # also over what is there, through a folder of mode 0555
                result = restore(archive, target, overwrite="always")
                assert (result.restored, result.problems) == (3, [])
                assert stat.S_IMODE((target / "root").stat().st_mode) == 0o755
                assert stat.S_IMODE((target / "mine").stat().st_mode) == 0o6755
                assert stat.S_IMODE((target / "d").stat().st_mode) == 0o555

        as_nobody(work)

    def test_a_folder_that_refuses_us_concerns_its_members_only(self, open_dir: Path) -> None:
        """Named, counted, and the rest is restored (case 91)."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to become someone else")
        (open_dir / "t/closed").mkdir(parents=True)
        (open_dir / "t").chmod(0o777)
        (open_dir / "t/closed").chmod(0o755)
        members = [forge.file(b"closed/a", b"x"), forge.file(b"b", b"x"), forge.file(b"d/c", b"x")]
        archive = forge.write(open_dir / "a.zip", members)

        def work() -> None:
            result = restore(archive, open_dir / "t")
            assert result.codes == {"closed/a": STORAGE}
            assert "Permission denied" in result.problems[0].message
            assert (result.restored, result.failed) == (2, 1)

        as_nobody(work)


def test_damaged_members_are_named_and_leave_no_file(zip_path: Path, target: Path) -> None:
    """By CRC or by SHA-256, small or large; what was there stays (case 91)."""
    target.mkdir()
    (target / "crc").write_bytes(b"mine")
    members = [
        forge.file(b"crc", b"x" * 100, crc=1),
        forge.file(b"crc-big", BIG, crc=1, deflate=True),
        forge.file(b"sha", b"y" * 100, sha256="0" * 64),
        forge.file(b"sha-big", BIG, sha256="0" * 64),
        forge.file(b"cut", b"z" * 100, stored=forge.raw_deflate(b"z" * 100)[:-2], method=8),
        forge.link(b"link", b"somewhere", crc=1),
        forge.file(b"good", b"good"),
    ]
    result = restore(forge.write(zip_path, members, with_manifest=True), target)
    bad = {"crc", "crc-big", "sha", "sha-big", "cut", "link"}
    assert result.codes == dict.fromkeys(bad, DAMAGED)
    assert (result.restored, result.failed) == (1, 6)
    assert all("a.zip" in problem.message for problem in result.problems)
    files = {name: entry[2] for name, entry in tree(target).items()}
    assert files == {b"crc": b"mine", b"good": b"good"}


def test_members_that_the_manifest_lists_and_the_archive_lacks_are_named(
    zip_path: Path, target: Path
) -> None:
    lost = forge.file(b"lost", b"x")
    kept = forge.file(b"kept", b"x")
    manifest = forge.Forged(b".pybak/manifest.jsonl.gz", forge.manifest_bytes([lost, kept]))
    result = restore(forge.write(zip_path, [kept, manifest]), target)
    assert result.codes == {"lost": DAMAGED}
    assert (result.restored, result.failed) == (1, 1)
    assert tree(target).keys() == {b"kept"}


def test_with_a_damaged_manifest_the_files_still_come_back(zip_path: Path, target: Path) -> None:
    manifest = forge.Forged(b".pybak/manifest.jsonl.gz", b"rubbish")
    result = restore(forge.write(zip_path, [forge.file(b"f", b"x"), manifest]), target)
    assert result.codes == {".pybak/manifest.jsonl.gz": DAMAGED}
    assert "by CRC-32 only" in result.problems[0].message
    assert tree(target).keys() == {b"f"}


def test_of_two_members_of_one_name_the_last_wins(zip_path: Path, target: Path) -> None:
    members = [forge.file(b"f", b"first"), forge.file(b"./f", b"last")]
    result = restore(forge.write(zip_path, members), target)
    assert (target / "f").read_bytes() == b"last"
    assert result.codes == {"f": UNSUPPORTED}
    assert (result.restored, result.skipped, result.failed) == (1, 1, 0)


def test_overlapping_members_are_not_restored(zip_path: Path, target: Path) -> None:
    members = [
        forge.file(b"one", b"x" * 100),
        forge.file(b"two", b"x" * 100, offset=0, with_local=False),
        forge.file(b"good", b"good"),
    ]
    result = restore(forge.write(zip_path, members), target)
    assert result.codes == {"one": DAMAGED, "two": DAMAGED}
    assert tree(target).keys() == {b"good"}


def test_kinds_that_are_neither_file_folder_nor_link_are_skipped(
    zip_path: Path, target: Path
) -> None:
    members = [
        forge.Forged(b"fifo", b"", stat.S_IFIFO | 0o644),
        forge.Forged(b"device", b"", stat.S_IFBLK | 0o644),
    ]
    result = restore(forge.write(zip_path, members), target)
    assert result.codes == {"fifo": UNSUPPORTED, "device": UNSUPPORTED}
    assert (result.skipped, result.failed) == (2, 0)
    assert tree(target) == {}


def test_encrypted_members_are_named_and_a_wholly_encrypted_archive_is_refused(
    zip_path: Path, target: Path
) -> None:
    secret = forge.file(b"secret", b"x" * 20, flags=1)
    result = restore(forge.write(zip_path, [secret, forge.file(b"open", b"x")]), target)
    assert result.codes == {"secret": UNREADABLE}
    with pytest.raises(ArchiveError, match="is encrypted; this version can't open it"):
        restore(forge.write(zip_path, [secret]), target)


class TestCase:
    """Names that differ by case only (case 9)."""

    MEMBERS = (
        forge.file(b"d/File", b"1"), forge.file(b"d/file", b"2"), forge.file(b"D/other", b"3"),
        forge.file(b"plain", b"4"),
    )  # fmt: skip

    def test_they_are_told_apart_where_the_disk_can(self, zip_path: Path, target: Path) -> None:
        archive = forge.write(zip_path, self.MEMBERS)
        if plan_module.ignores_case(os.fsencode(zip_path.parent), may_write=True):
            pytest.skip("the file system ignores case")
        assert restore(archive, target).problems == []
        assert (target / "d/File").read_bytes() == b"1"
        assert (target / "d/file").read_bytes() == b"2"

    def test_they_are_named_and_not_merged_where_it_cannot(
        self, zip_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plan_module, "ignores_case", lambda *_, **__: True)
        result = restore(forge.write(zip_path, self.MEMBERS), target)
        assert result.codes == {"d/file": STORAGE, "d": STORAGE}
        assert "differs only by case from d/File" in result.problems[0].message
        assert (target / "d/File").read_bytes() == b"1"

    def test_probing_leaves_nothing_behind(self, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        expect = os.path.exists(str(tmp_path).upper())
        for may_write in (True, False):
            assert plan_module.ignores_case(os.fsencode(empty), may_write=may_write) == expect
        assert list(empty.iterdir()) == []


class TestSelection:
    """Include and exclude (case 89)."""

    MEMBERS = (
        forge.folder(b"docs", 0o700),
        forge.file(b"docs/a.txt", b"a"), forge.file(b"docs/b.tmp", b"b"),
        forge.folder(b"docs/sub", 0o711), forge.file(b"docs/sub/c.txt", b"c"),
        forge.file(b"src/d.txt", b"d"), forge.file(b"src/[x]*.txt", b"e"),
    )  # fmt: skip

    @pytest.mark.parametrize(
        ("include", "exclude", "files"),
        [
            (["*.txt"], [], {"docs/a.txt", "docs/sub/c.txt", "src/d.txt", "src/[x]*.txt"}),
            (["/docs/"], ["*.tmp"], {"docs/a.txt", "docs/sub/c.txt"}),
            ([], ["/docs/"], {"src/d.txt", "src/[x]*.txt"}),
            (["*.txt", "!c.txt"], ["/src/"], {"docs/a.txt"}),
            (["src/\\[x\\]\\*.txt"], [], {"src/[x]*.txt"}),
        ],
    )
    def test_what_is_included_and_not_excluded_is_kept(
        self, zip_path: Path, target: Path, include: list, exclude: list, files: set
    ) -> None:
        archive = forge.write(zip_path, self.MEMBERS, with_manifest=True)
        result = restore(archive, target, include=include, exclude=exclude)
        found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
        assert found == files
        assert result.problems == []
        assert result.restored == len(files)

    def test_implied_parents_keep_the_usual_mode_and_time(
        self, zip_path: Path, target: Path
    ) -> None:
        """Only members that were asked for get their metadata (case 90)."""
        archive = forge.write(zip_path, self.MEMBERS, with_manifest=True)
        before = os.umask(0o022)
        try:
            restore(archive, target, include=["c.txt"])
        finally:
            os.umask(before)
        status = (target / "docs/sub").stat()
        assert stat.S_IMODE(status.st_mode) == 0o755
        assert abs(status.st_mtime - time.time()) < 60

    def test_an_include_that_matches_nothing_is_told(self, zip_path: Path, target: Path) -> None:
        archive = forge.write(zip_path, self.MEMBERS)
        result = restore(archive, target, include=["*.txt", "nowhere/"], exclude=["/src/"])
        assert result.codes == {"nowhere/": NO_MATCH}
        assert result.restored == 2

    def test_a_bad_pattern_is_refused_by_name(self, zip_path: Path, target: Path) -> None:
        archive = forge.write(zip_path, self.MEMBERS)
        with pytest.raises(PlanError, match="'!' is no pattern"):
            restore(archive, target, include=["!"])


class TestTargets:
    """Where a restore may go (case 88)."""

    def test_a_file_is_no_target(self, zip_path: Path, tmp_path: Path) -> None:
        archive = forge.write(zip_path, [forge.file(b"f", b"x")])
        (tmp_path / "file").write_bytes(b"mine")
        for name in ("file", "file/below", "file/below/that"):
            with pytest.raises(PlanError, match="is a file; name a folder"):
                restore(archive, tmp_path / name)
        assert (tmp_path / "file").read_bytes() == b"mine"

    def test_missing_folders_on_the_way_are_made(self, zip_path: Path, tmp_path: Path) -> None:
        archive = forge.write(zip_path, [forge.file(b"f", b"x")])
        restore(archive, tmp_path / "a/b/c")
        assert (tmp_path / "a/b/c/f").read_bytes() == b"x"

    def test_the_target_may_be_reached_by_a_link(self, zip_path: Path, tmp_path: Path) -> None:
        """Links in the target's own path were chosen by who named it (case 27)."""
        archive = forge.write(zip_path, [forge.file(b"f", b"x")])
        (tmp_path / "real").mkdir()
        (tmp_path / "way").symlink_to("real")
        restore(archive, tmp_path / "way")
        assert (tmp_path / "real/f").read_bytes() == b"x"

    def test_the_archive_is_not_replaced_by_its_own_member(self, zip_path: Path) -> None:
        members = [forge.file(b"a.zip", b"x"), forge.file(b"b", b"x")]
        archive = forge.write(zip_path, members)
        whole = zip_path.read_bytes()
        result = restore(archive, zip_path.parent, overwrite="always")
        assert result.codes == {"a.zip": STORAGE}
        assert zip_path.read_bytes() == whole
        assert (zip_path.parent / "b").read_bytes() == b"x"

    def test_a_missing_archive_is_not_found(self, tmp_path: Path, target: Path) -> None:
        with pytest.raises(NotFoundError):
            restore(os.fsencode(tmp_path / "none.zip"), target)
        assert not target.exists()

    def test_an_archive_that_changes_meanwhile_is_refused(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        archive = forge.write(zip_path, [forge.file(b"f", b"x")])
        plan = plan_restore(archive, os.fsencode(target), work_dir=tmp_path, tasks=1)
        make_folders(plan)
        forge.write(zip_path, [forge.file(b"ff", b"x")])
        with pytest.raises(ArchiveError, match="changed while it was restored"):
            extract_batch(plan.batches[0])


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


def test_the_plan_reads_well(zip_path: Path, target: Path) -> None:
    archive = forge.write(zip_path, KINDS, with_manifest=True)
    summary = prepare(archive, os.fsencode(target)).summary()
    assert "a.zip to " in summary
    assert "8 files" in summary
    assert "6 links, 4 folders" in summary


class TestBatches:
    """How the work is shared out."""

    def test_batches_hold_everything_once_and_get_smaller(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        members = [forge.file(b"d%d/f%d" % (i % 40, i), b"x" * (i % 7) * 100) for i in range(2000)]
        members.append(forge.file(b"huge", BIG * 40, deflate=True))
        archive = forge.write(zip_path, members)
        plan = plan_restore(archive, os.fsencode(target), work_dir=tmp_path, tasks=8)
        batches = [list(read_batch(path, Item)[1]) for path in plan.batches]
        assert sorted(item.path for batch in batches for item in batch) == sorted(
            member.name for member in members
        )
        assert len(batches) == 8
        assert [item.path for item in batches[0]] == [b"huge"]
        assert len(batches[1]) > 3 * len(batches[-1])
        for batch in batches:  # a folder's members lie together
            folders = [item.path.rpartition(b"/")[0] for item in batch]
            changes = sum(a != b for a, b in itertools.pairwise(folders))
            assert changes <= len(set(folders))

    @pytest.mark.parametrize("tasks", [1, 2, 5])
    def test_few_members_make_few_batches(
        self, zip_path: Path, target: Path, tmp_path: Path, tasks: int
    ) -> None:
        archive = forge.write(zip_path, [forge.file(b"%d" % i, b"x") for i in range(2)])
        plan = plan_restore(archive, os.fsencode(target), work_dir=tmp_path, tasks=tasks)
        assert 1 <= len(plan.batches) <= min(tasks, 2)

    def test_an_empty_archive_makes_none(self, zip_path: Path, target: Path) -> None:
        for with_manifest in (False, True):
            result = restore(forge.write(zip_path, [], with_manifest=with_manifest), target)
            assert (result.plan.batches, result.problems, result.plan.total) == ((), [], 0)

    def test_a_batch_done_twice_leaves_the_same(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        archive = forge.write(zip_path, KINDS, with_manifest=True)
        plan = plan_restore(
            archive, os.fsencode(target), work_dir=tmp_path, tasks=1, overwrite="always"
        )
        make_folders(plan)
        for _ in range(2):
            assert extract_batch(plan.batches[0]).failed == 0
        finish(plan)
        assert tree(target) == expected(KINDS)

    def test_two_workers_at_one_batch_do_not_meet(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        """A scheduler gives a batch away again though its first worker lives."""
        data = bytes(range(256)) * 40_000
        archive = forge.write(zip_path, [forge.file(b"big", data)], with_manifest=True)
        plan = plan_restore(
            archive, os.fsencode(target), work_dir=tmp_path, tasks=1, overwrite="always"
        )
        make_folders(plan)
        is_half_done, may_go_on = threading.Event(), threading.Event()
        later: list[Outcome] = []

        def wait_half_way(_files: int, size: int, _name: bytes) -> None:
            if size and not is_half_done.is_set():
                is_half_done.set()
                may_go_on.wait(10)

        second = threading.Thread(
            target=lambda: later.append(extract_batch(plan.batches[0], progress=wait_half_way))
        )

        def start_the_second(_files: int, size: int, _name: bytes) -> None:
            if size and not second.ident:
                second.start()
                assert is_half_done.wait(10)

        first = extract_batch(plan.batches[0], progress=start_the_second)
        assert (target / "big").read_bytes() == data
        may_go_on.set()
        second.join(10)
        assert (target / "big").read_bytes() == data
        assert (first.failed, later[0].failed) == (0, 0)
        assert first.problems_file != later[0].problems_file
        assert [path.name for path in target.iterdir()] == ["big"]

    @pytest.mark.parametrize("end", [finish, close_up])
    def test_what_a_killed_worker_left_is_removed_at_the_end(
        self, zip_path: Path, target: Path, tmp_path: Path, end: Callable
    ) -> None:
        """From the target itself and from folders below; other files stay."""
        members = [forge.file(b"top", BIG), forge.file(b"a/b/low", BIG)]
        archive = forge.write(zip_path, members)
        plan = plan_restore(archive, os.fsencode(target), work_dir=tmp_path, tasks=10)
        make_folders(plan)
        (target / "a/.pybak-mine").write_bytes(b"mine")
        for batch in plan.batches:
            killed_half_way(batch)
        assert len(list(target.rglob(".pybak-*.tmp"))) == 2
        end(plan)
        assert [path.name for path in target.rglob(".pybak-*")] == [".pybak-mine"]

    def test_a_request_to_stop_is_heard_within_a_member(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        members = [forge.file(b"a", b"x"), forge.file(b"big", bytes(ONE_SHOT * 400), deflate=True)]
        archive = forge.write(zip_path, members)
        plan = plan_restore(archive, os.fsencode(target), work_dir=tmp_path, tasks=1)
        make_folders(plan)
        asked = 0

        def should_stop() -> bool:
            nonlocal asked
            asked += 1
            return asked > 1

        outcome = extract_batch(plan.batches[0], should_stop=should_stop)
        assert outcome.stopped
        assert list(target.glob("*")) in ([], [target / "a"])
        assert outcome.restored + outcome.failed < 2

    def test_progress_ends_with_the_counts(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        archive = forge.write(zip_path, [forge.file(b"a", b"xyz"), forge.file(b"b", b"12")])
        plan = plan_restore(archive, os.fsencode(target), work_dir=tmp_path, tasks=1)
        make_folders(plan)
        seen: list[tuple[int, int, bytes]] = []
        outcome = extract_batch(plan.batches[0], progress=lambda *now: seen.append(now))
        assert seen[-1] == (2, 5, b"")
        assert outcome.size == 5


class TestRuns:
    """A restore as the flow drives it."""

    MEMBERS = (
        forge.folder(b"d", 0o555),
        forge.file(b"d/f", b"x"),
        forge.link(b"d/l", b"f"),
        forge.folder(b"d/sub", 0o500),
        forge.file(b"d/sub/f", b"x"),
    )

    @pytest.fixture(autouse=True)
    def scratch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "scratch"
        path.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(path))
        return path

    def run(self, zip_path: Path, target: Path | str, **options: object) -> RestoreRun:
        return RestoreRun(zip_path, str(target), RestoreOptions(**options))

    def test_folders_get_their_modes_back_when_it_is_stopped(
        self, zip_path: Path, target: Path
    ) -> None:
        """Those that were there and were opened for the restore (case 95)."""
        forge.write(zip_path, self.MEMBERS, with_manifest=True)
        (target / "d/sub").mkdir(parents=True)
        (target / "d/sub").chmod(0o511)
        (target / "d").chmod(0o577)

        def begin_and_stop() -> None:
            with self.run(zip_path, target, overwrite="always") as run:
                make_folders(run.plan())
                assert (target / "d/sub").stat().st_mode & 0o700 == 0o700
                run.request_cancel()
                run.check_cancelled()

        with pytest.raises(Interrupted):
            begin_and_stop()
        assert stat.S_IMODE((target / "d").stat().st_mode) == 0o577
        assert stat.S_IMODE((target / "d/sub").stat().st_mode) == 0o511

    def test_trouble_after_the_end_changes_no_modes(self, zip_path: Path, target: Path) -> None:
        forge.write(zip_path, self.MEMBERS, with_manifest=True)
        (target / "d").mkdir(parents=True)
        (target / "d").chmod(0o511)

        def restore_and_stumble() -> None:
            with self.run(zip_path, target, overwrite="always") as run:
                plan = run.plan()
                make_folders(plan)
                for batch in plan.batches:
                    extract_batch(batch)
                finish(plan)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            restore_and_stumble()
        assert tree(target) == expected(self.MEMBERS)

    def test_the_last_step_hears_a_request_to_stop(self, zip_path: Path, target: Path) -> None:
        """No link is made, and what is not whole is not reported as such (case 95)."""
        forge.write(zip_path, self.MEMBERS, with_manifest=True)
        with self.run(zip_path, target) as run:
            plan = run.plan()
            made = make_folders(plan)
            outcome = finish(plan, should_stop=lambda: True)
            assert outcome.stopped
            assert not (target / "d/l").is_symlink()
            assert stat.S_IMODE((target / "d").stat().st_mode) == 0o700
            with pytest.raises(Interrupted):
                run.report(plan, made, [outcome])

    def test_its_work_folder_goes_and_so_does_a_killed_runs(
        self, zip_path: Path, target: Path, scratch: Path
    ) -> None:
        dead, alive = (WorkFolder.create(scratch, name) for name in ("dead", "alive"))
        os.close(dead._lock_fd)
        forge.write(zip_path, self.MEMBERS)
        with self.run(zip_path, target) as run:
            assert set(scratch.iterdir()) == {alive.path, run.staging}
            run.plan()
        assert list(scratch.iterdir()) == [alive.path]
        alive.remove()

    def test_the_home_of_an_unknown_user_is_no_target(self, zip_path: Path, scratch: Path) -> None:
        """(case 88)"""
        with pytest.raises(PlanError, match="~no-such-user/x"):
            self.run(zip_path, "~no-such-user/x")
        assert list(scratch.iterdir()) == []

    def test_a_dry_run_knows_a_bomb_as_the_restore_does(
        self, zip_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_module, "Limits", partial(Limits, free_size=1000))
        forge.write(zip_path, [forge.file(b"f", bytes(400_000), deflate=True)])
        with self.run(zip_path, target, max_ratio=2.0) as run, pytest.raises(ArchiveError):
            run.rehearse()
        with self.run(zip_path, target, max_ratio=1000.0) as run:
            assert run.rehearse().files.restored == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"size":1,', f'"size":{2**64},'),
        ('"size":1,', '"size":-1,'),
        ('"mode":420,', f'"mode":{2**64},'),
        ('"mode":420,', '"mode":-1,'),
        ('"path":', f'"parts":[[{2**64},1,"00"]],"path":'),
        ('"path":', '"parts":[[1,-1,"00"]],"path":'),
        ('"path":', '"parts":[[1,1,"\\ud800"]],"path":'),
        ('"sha256":"', '"sha256":"\\ud800'),
        ('"path":', '"link":"\\ud800","path":'),
    ],
)
def test_a_manifest_with_impossible_values_is_damaged(
    zip_path: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str,
    new: str,
) -> None:  # fmt: skip
    """Files come back by CRC-32; restore and verify say what is wrong (case 64)."""
    record_line = forge.manifest.record_line

    def forged_line(*args: Any, **more: Any) -> str:
        line = record_line(*args, **more)
        assert old in line
        return line.replace(old, new, 1)

    monkeypatch.setattr(forge.manifest, "record_line", forged_line)
    archive = forge.write(zip_path, [forge.file(b"f", b"x")], with_manifest=True)
    result = restore(archive, target)
    assert result.codes == {".pybak/manifest.jsonl.gz": DAMAGED}
    assert (target / "f").read_bytes() == b"x"
    plan = plan_verify(archive, work_dir=tmp_path, tasks=1)
    assert [problem.code for problem in plan.problems] == [DAMAGED]


@pytest.mark.needs_root
def test_a_full_disk_is_told_for_each_member_and_leaves_no_pieces(tmp_path: Path) -> None:
    """What fits is there and whole (cases 91, 96)."""
    target = tmp_path / "small"
    target.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", target]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("can't mount here")
    try:
        data = os.urandom(300_000)
        members = [forge.file(b"f%02d" % i, data) for i in range(20)]
        result = restore(forge.write(tmp_path / "a.zip", members), target)
        assert 0 < result.restored < 10
        assert result.failed == 20 - result.restored
        assert set(result.codes.values()) == {STORAGE}
        assert len(list(target.iterdir())) == result.restored
        assert all(path.read_bytes() == data for path in target.iterdir())
    finally:
        subprocess.run(["umount", target], check=True)


WHOLE = forge.build(
    [
        forge.folder(b"d"), forge.file(b"d/f", b"abc" * 50, deflate=True),
        forge.link(b"d/l", b"/etc"), forge.file(b"x", b"y" * 30),
    ],
    with_manifest=True,
)  # fmt: skip
positions = st.integers(0, len(WHOLE) - 1)


@settings(
    max_examples=120, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(positions, st.integers(1, 255)), min_size=1, max_size=3))
def test_damaged_archives_restore_safely_or_not_at_all(
    tmp_path: Path, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(WHOLE)
    for at, bits in flips:
        data[at] ^= bits
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        base = Path(folder)
        (base / "a.zip").write_bytes(data)
        try:
            result = restore(os.fsencode(base / "a.zip"), base / "t")
        except PyBakError:
            result = None
        assert {path.name for path in base.iterdir()} <= {"a.zip", "t"}
        if result:
            right = {b"abc" * 50, b"y" * 30}
            contents = [
                p.read_bytes() for p in base.rglob("*") if p.is_file() and p.name != "a.zip"
            ]
            manifest = [c for c in contents if c[:2] == b"\x1f\x8b"]  # its name was what was hit
            assert {c for c in contents if c not in manifest} <= right
