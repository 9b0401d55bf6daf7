"""The walk: what is found, in which order, what is left out, and what goes wrong on the way."""

import errno
import gc
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from pybak.backup.discover import discover
from pybak.backup.markers import CACHE_SIGNATURE
from pybak.backup.rules import Rules
from pybak.backup.sources import resolve_sources
from pybak.entries import FIFO, FILE, FOLDER, LINK, SOCKET, Root, read_entries
from pybak.problems import (
    IO_ERROR,
    SOURCE_MISSING,
    TYPE_CHANGED,
    UNREADABLE,
    VANISHED,
    read_problems,
)
from pybak.staging import PREFIX, WorkFolder


class Walk:
    """One walk and what it wrote."""

    def __init__(self, work, *sources, rules=None, **options):
        self.roots = resolve_sources([os.fsdecode(s) for s in sources]).roots
        self.found = discover(
            self.roots, rules or Rules.build(), work / "entries", work / "problems", **options
        )
        self.entries = list(read_entries(self.found.entries))
        self.problems = list(read_problems(self.found.problems))
        assert self.found.problem_count == len(self.problems)

    @property
    def paths(self):
        return [e.path for e in self.entries]

    @property
    def names(self):
        return [os.fsdecode(self.roots[e.root].member_name(e.path)) for e in self.entries]


@pytest.fixture
def src(tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    return folder


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_text(name)


@pytest.fixture
def plain_user():
    """Be someone whom file modes bind, in a folder of one's own."""
    home = Path(tempfile.mkdtemp())
    if os.geteuid() != 0:
        yield home
    else:
        os.chown(home, 65534, 65534)
        os.setegid(65534)
        os.seteuid(65534)
        try:
            yield home
        finally:
            os.seteuid(0)
            os.setegid(0)
    for folder, _, _ in os.walk(home):
        os.chmod(folder, 0o700)
    shutil.rmtree(home)


def test_parents_come_before_children_in_the_order_of_names(tmp_path, src):
    fill(src, "b/z", "b/a", "a/x/y", "c", "Z", "é")
    names = Walk(tmp_path, src).names
    assert names == [
        "src", "src/Z", "src/c", "src/é", "src/a", "src/a/x", "src/a/x/y", "src/b", "src/b/a",
        "src/b/z",
    ]  # fmt: skip


def test_an_entry_holds_what_lstat_says(tmp_path, src):
    fill(src, "file")
    os.chmod(src / "file", 0o4755)
    os.utime(src / "file", ns=(1, 1_234_567_890_123_456_789))
    (src / "link").symlink_to("nowhere")
    walk = Walk(tmp_path, src)
    for entry in walk.entries:
        info = os.lstat(walk.roots[0].disk_path(entry.path))
        assert (entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode, entry.device) == (
            info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_dev
        )  # fmt: skip
        assert (entry.mode, entry.uid, entry.gid, entry.links) == (
            stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_nlink
        )  # fmt: skip
    assert walk.found.counts == {FOLDER: 1, FILE: 1, LINK: 1}
    assert walk.found.total_bytes == 4


@pytest.mark.needs_tool("find")
def test_it_finds_what_find_finds(tmp_path, src):
    fill(src, "a/b/c", "empty/", "x y", "new\nline", "*[?]", "end ", "dots...")
    os.close(os.open(os.fsencode(src) + b"/caf\xe9", os.O_CREAT))
    (src / "to-folder").symlink_to("a")
    (src / "loop").symlink_to("loop")
    (src / "a/up").symlink_to("..")
    done = subprocess.run(["find", ".", "-print0"], cwd=src, check=True, stdout=subprocess.PIPE)
    wanted = {path[2:] for path in done.stdout.split(b"\0") if path}
    paths = Walk(tmp_path, src).paths
    assert set(paths) == wanted
    assert len(paths) == len(set(paths))


def test_links_are_entries_and_never_followed(tmp_path, src):
    """(case 26)"""
    fill(src, "a/f")
    (src / "up").symlink_to("..")
    (src / "self").symlink_to("self")
    (src / "folder").symlink_to("a")
    walk = Walk(tmp_path, src)
    assert {e.path: e.kind for e in walk.entries if e.kind == LINK} == {
        b"up": LINK, b"self": LINK, b"folder": LINK
    }  # fmt: skip
    assert walk.problems == []


def test_sockets_and_fifos_are_entries(tmp_path, src, monkeypatch):
    """(cases 32, 33)"""
    monkeypatch.chdir(src)
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
    assert Walk(tmp_path, src).found.counts == {FOLDER: 1, FIFO: 1, SOCKET: 1}


def test_a_file_and_a_link_to_a_folder_can_be_roots(tmp_path, src):
    """(case 27)"""
    fill(src, "a/f", "note")
    (src / "link").symlink_to("a")
    assert Walk(tmp_path, src / "note", src / "link").names == ["note", "link", "link/f"]


def test_nested_sources_give_both_names(tmp_path, src):
    fill(src, "a/f")
    assert Walk(tmp_path, src, src / "a").names == ["src", "src/a", "src/a/f", "a", "a/f"]


def test_what_another_root_holds_under_the_same_name_is_left_to_it(tmp_path, src):
    fill(src, "a/f", "b/f")
    found = discover(
        [Root(os.fsencode(src), b""), Root(os.fsencode(src / "a"), b"a")],
        Rules.build(), tmp_path / "entries", tmp_path / "problems",
    )  # fmt: skip
    entries = [(e.root, e.path) for e in read_entries(found.entries)]
    assert entries == [(0, b"b"), (0, b"b/f"), (1, b""), (1, b"f")]
    assert found.excluded == {}


def test_a_name_that_is_listed_twice_is_stored_once(tmp_path, src, monkeypatch):
    """(case 10)"""
    fill(src, "a", "b")
    real = os.scandir

    class Doubled:
        def __init__(self, fd):
            self.items = [x for x in list(real(fd)) for _ in range(2)]

        def __enter__(self):
            return iter(self.items)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Doubled)
    assert Walk(tmp_path, src).paths == [b"", b"a", b"b"]


def test_paths_longer_than_the_system_allows_are_walked(tmp_path, src):
    """(case 8)"""
    name = "d" * 255
    fd = os.open(src, os.O_RDONLY)
    for _ in range(20):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f" * 255, os.O_CREAT, dir_fd=fd))
    os.close(fd)
    walk = Walk(tmp_path, src)
    assert walk.problems == []
    assert len(walk.paths[-1]) == 21 * 256 - 1
    assert walk.paths[-1].endswith(b"/" + b"f" * 255)


def test_a_tree_deeper_than_any_stack_is_walked(tmp_path, src):
    """(case 8)"""
    fd = os.open(src, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    walk = Walk(tmp_path, src)
    assert (len(walk.entries), walk.problems) == (2501, [])
    subprocess.run(["rm", "-rf", src], check=True)


def test_a_closed_folder_is_named_and_its_siblings_are_found(tmp_path, plain_user):
    """(cases 43, 54)"""
    fill(plain_user, "src/a/f", "src/closed/f", "src/z/f", "out/")
    os.chmod(plain_user / "src/closed", 0)
    walk = Walk(plain_user / "out", plain_user / "src")
    assert walk.names == [
        "src", "src/a", "src/a/f", "src/closed", "src/z", "src/z/f"
    ]  # fmt: skip
    assert [(p.path, p.code) for p in walk.problems] == [
        (str(plain_user / "src/closed"), UNREADABLE)
    ]


def test_a_folder_that_lists_but_does_not_open_names_what_it_holds(plain_user):
    """(case 54)"""
    fill(plain_user, "src/half/f", "src/half/g", "src/z", "out/")
    os.chmod(plain_user / "src/half", 0o400)
    walk = Walk(plain_user / "out", plain_user / "src")
    assert walk.names == ["src", "src/z", "src/half"]
    assert [(p.path[-6:], p.code) for p in walk.problems] == [
        ("half/f", UNREADABLE), ("half/g", UNREADABLE)
    ]  # fmt: skip


def test_a_source_below_a_folder_that_only_lets_through_works(plain_user):
    """(case 54)"""
    fill(plain_user, "gate/src/f", "out/")
    os.chmod(plain_user / "gate", 0o100)
    walk = Walk(plain_user / "out", plain_user / "gate/src")
    assert (walk.names, walk.problems) == (["src", "src/f"], [])


def before_listing(monkeypatch, number, act):
    """Call `act` when the walk is about to open its folder `number`, counted from 1."""
    from pybak.backup import discover as module

    real, count = module.open_folder, [0]

    def opened(*args):
        count[0] += 1
        if count[0] == number:
            act()
        return real(*args)

    monkeypatch.setattr(module, "open_folder", opened)


def test_a_folder_that_vanishes_is_counted(tmp_path, src, monkeypatch):
    """(case 45)"""
    fill(src, "a/f", "b/f")
    before_listing(monkeypatch, 2, lambda: shutil.rmtree(src / "a"))
    walk = Walk(tmp_path, src)
    assert walk.names == ["src", "src/b", "src/b/f"]
    assert [(p.path, p.code) for p in walk.problems] == [(str(src / "a"), VANISHED)]


def test_a_folder_that_says_not_to_be_there_and_is_counts_as_unread(tmp_path, src, monkeypatch):
    """As an automatic mount does whose server is away."""
    fill(src, "a/f", "b/f")

    def refuse():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    before_listing(monkeypatch, 2, refuse)
    walk = Walk(tmp_path, src)
    assert walk.names == ["src", "src/a", "src/b", "src/b/f"]
    assert [(p.path, p.code) for p in walk.problems] == [(str(src / "a"), IO_ERROR)]


def test_a_file_that_vanishes_is_counted(tmp_path, src, monkeypatch):
    """(case 44)"""
    fill(src, "a", "b")
    real = os.scandir

    class Late:
        def __init__(self, fd):
            self.items = list(real(fd))
            (src / "a").unlink()

        def __enter__(self):
            return iter(self.items)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Late)
    walk = Walk(tmp_path, src)
    assert walk.names == ["src", "src/b"]
    assert [(p.path, p.code) for p in walk.problems] == [(str(src / "a"), VANISHED)]


@pytest.mark.parametrize("number", [2, 3])
def test_a_folder_that_becomes_a_link_is_not_followed(tmp_path, src, monkeypatch, number):
    """(case 49) At its own place, or at the place of the folder above it."""
    fill(src, "a/b/f", "c")
    fill(tmp_path, "secret/b/stolen")

    def swap():
        shutil.rmtree(src / "a")
        (src / "a").symlink_to(tmp_path / "secret")

    before_listing(monkeypatch, number, swap)
    walk = Walk(tmp_path, src)
    assert not [name for name in walk.names if "stolen" in name]
    assert [p.code for p in walk.problems] == [TYPE_CHANGED]


def test_a_folder_that_another_one_replaced_is_walked(tmp_path, src, monkeypatch):
    fill(src, "a/old")

    def swap():
        os.rename(src / "a", tmp_path / "elsewhere")
        fill(src, "a/new")

    before_listing(monkeypatch, 2, swap)
    walk = Walk(tmp_path, src)
    assert (walk.names, walk.problems) == (["src", "src/a", "src/a/new"], [])


def test_a_root_that_is_gone_by_now_is_missing(tmp_path, src):
    """(case 56)"""
    fill(src, "a/f")
    gone = Root(os.fsencode(tmp_path / "gone"), b"gone")
    found = discover(
        [gone, Root(os.fsencode(src), b"src")], Rules.build(), tmp_path / "e", tmp_path / "p"
    )
    assert [p.code for p in read_problems(found.problems)] == [SOURCE_MISSING]
    assert found.counts == {FOLDER: 2, FILE: 1}


def test_what_was_listed_before_a_disk_error_is_kept(tmp_path, src, monkeypatch):
    """(case 43)"""
    fill(src, "a", "b", "c")
    real = os.scandir

    class Failing:
        def __init__(self, fd):
            self.items = iter([next(real(fd))])

        def __enter__(self):
            yield from self.items
            raise OSError(5, "Input/output error")

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Failing)
    walk = Walk(tmp_path, src)
    assert len(walk.entries) == 2
    assert [(p.path, p.code) for p in walk.problems] == [(str(src), IO_ERROR)]


def test_no_descriptor_stays_open(tmp_path, src):
    fill(src, "a/b/c/f", "a/CACHEDIR.TAG", "b/.nobackup", "c/.pybakignore")
    gc.collect()  # what other tests left open
    before = len(os.listdir("/dev/fd"))
    Walk(tmp_path, src)
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.skipif(not hasattr(os, "O_NOATIME"), reason="only Linux has O_NOATIME")
def test_access_times_of_folders_stay(tmp_path, src):
    """(case 19)"""
    fill(src, "a/f")
    os.utime(src / "a", ns=(1, 2))
    Walk(tmp_path, src)
    assert os.stat(src / "a").st_atime_ns == 1


def test_excluded_folders_are_not_walked_and_count_as_one(tmp_path, src, monkeypatch):
    """(case 42)"""
    fill(src, "cache/a", "cache/b", "x/cache/c", "keep/f")
    opened = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *a, **k: opened.append(path) or real(path, *a, **k)
    )
    walk = Walk(tmp_path, src, rules=Rules.build(exclude=["**/cache/"]))
    assert walk.names == ["src", "src/keep", "src/keep/f", "src/x"]
    assert walk.found.excluded == {"pattern **/cache/": 2}
    assert not [path for path in opened if os.fsencode(path).endswith(b"cache")]


@pytest.mark.parametrize("pattern", ["**", "*", "src", "/src", "src/", "/**"])
def test_a_root_itself_is_never_excluded(tmp_path, src, pattern):
    """(case 42)"""
    fill(src, "f", "a/f")
    assert Walk(tmp_path, src, rules=Rules.build(exclude=[pattern])).names[0] == "src"


def test_earlier_archives_are_left_out_and_counted(tmp_path, src):
    (src / "old.zip").write_bytes(b"1")
    (src / "older.zip").write_bytes(b"2")
    (src / "kept").write_bytes(b"3")
    own = [(src / name).stat() for name in ("old.zip", "older.zip")]
    rules = replace(Rules.build(), earlier=frozenset((i.st_dev, i.st_ino) for i in own))
    walk = Walk(tmp_path, src, rules=rules)
    assert walk.found.excluded == {"earlier archive of this job": 2}
    assert walk.found.counts == {FILE: 1, FOLDER: 1}


def test_the_run_s_own_outputs_are_left_out_without_a_word(tmp_path, src):
    fill(src, "staging/part", "archive.zip", "a")
    own = [os.stat(src / name) for name in ("staging", "archive.zip")]
    rules = Rules.build(left_out=[(info.st_dev, info.st_ino) for info in own])
    walk = Walk(tmp_path, src, rules=rules)
    assert walk.names == ["src", "src/a"]
    assert (walk.found.excluded, walk.problems) == ({}, [])


def test_marked_folders_keep_themselves_and_the_marker(tmp_path, src):
    """(case 39)"""
    fill(src, "no/.nobackup", "no/a", "no/b/c", "tag/x/y", "bad/f", "alone/.nobackup", "link/f")
    (src / "tag/CACHEDIR.TAG").write_bytes(CACHE_SIGNATURE + b"\n# by a test\n")
    (src / "bad/CACHEDIR.TAG").write_bytes(CACHE_SIGNATURE[:-1] + b"x")
    (src / "link/CACHEDIR.TAG").symlink_to("../tag/CACHEDIR.TAG")
    walk = Walk(tmp_path, src)
    assert walk.names == [
        "src", "src/alone", "src/alone/.nobackup", "src/bad", "src/bad/CACHEDIR.TAG", "src/bad/f",
        "src/link", "src/link/CACHEDIR.TAG", "src/link/f", "src/no", "src/no/.nobackup",
        "src/tag", "src/tag/CACHEDIR.TAG",
    ]  # fmt: skip
    assert walk.found.excluded == {".nobackup": 1, "CACHEDIR.TAG": 1}


def test_markers_can_be_switched_off(tmp_path, src):
    """(case 39)"""
    fill(src, "no/.nobackup", "no/a", ".pybakignore")
    (src / ".pybakignore").write_text("*")
    assert len(Walk(tmp_path, src, rules=Rules.build(use_markers=False)).entries) == 5


def test_a_root_that_is_marked_was_named_and_is_walked(tmp_path, src):
    fill(src, ".nobackup", "a")
    assert Walk(tmp_path, src).names == ["src", "src/.nobackup", "src/a"]


def test_nested_ignore_files_and_negation(tmp_path, src):
    """(case 41)"""
    fill(src, "a.log", "keep.log", "x/b.log", "x/keep.log", "x/deep/keep.log", "only/a", "only/b")
    (src / ".pybakignore").write_text("*.log\n!keep.log\n")
    (src / "x/.pybakignore").write_text("keep.log\n!/b.log\n!/deep/keep.log\n")
    (src / "only/.pybakignore").write_text("# all but b\n*\n!b\n")
    walk = Walk(tmp_path, src)
    assert walk.names == [
        "src", "src/.pybakignore", "src/keep.log", "src/only", "src/only/b", "src/x",
        "src/x/.pybakignore", "src/x/b.log", "src/x/deep", "src/x/deep/keep.log",
    ]  # fmt: skip
    assert walk.found.excluded == {
        "pattern *.log (.pybakignore)": 1,
        "pattern keep.log (.pybakignore)": 1,
        "pattern * (.pybakignore)": 2,
    }


def test_an_option_beats_an_ignore_file(tmp_path, src):
    fill(src, "a.log", "b.log", "c/")
    (src / ".pybakignore").write_text("*.log\n!c/\n")
    walk = Walk(tmp_path, src, rules=Rules.build(exclude=["!a.log", "c/"]))
    assert walk.names == ["src", "src/.pybakignore", "src/a.log"]
    assert walk.found.excluded == {"pattern *.log (.pybakignore)": 1, "pattern c/": 1}


@pytest.mark.parametrize("absolute", [True, False])
def test_an_ignore_file_that_is_a_link_is_followed(tmp_path, src, absolute):
    """(case 41)"""
    fill(src, "x/a.tmp", "x/b")
    (tmp_path / "patterns").write_text("*.tmp\n")
    target = tmp_path / "patterns" if absolute else Path("../../patterns")
    (src / "x/.pybakignore").symlink_to(target)
    assert Walk(tmp_path, src).names == ["src", "src/x", "src/x/.pybakignore", "src/x/b"]


@pytest.mark.parametrize("kind", ["loop", "broken", "folder", "fifo", "bad pattern"])
def test_an_ignore_file_that_can_not_be_read_is_a_problem(tmp_path, src, kind):
    """(case 41)"""
    fill(src, "x/a")
    path = src / "x/.pybakignore"
    match kind:
        case "loop":
            path.symlink_to(".pybakignore")
        case "broken":
            path.symlink_to("nowhere")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path.write_text("a\n[abc\n")
    walk = Walk(tmp_path, src)
    assert "src/x/a" in walk.names
    assert [(p.path, p.code) for p in walk.problems] == [(str(path), UNREADABLE)]
    if kind == "bad pattern":
        assert ".pybakignore:2: the pattern '[abc'" in walk.problems[0].message


def test_a_bad_pattern_directly_in_a_source_is_told_with_its_path(tmp_path, src):
    """(case 41)"""
    fill(src, "a")
    (src / ".pybakignore").write_text("[abc\n")
    (problem,) = Walk(tmp_path, src).problems
    assert f"{src}/.pybakignore:1: the pattern '[abc'" in problem.message


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
def test_a_mount_point_is_kept_empty_on_one_file_system(tmp_path, src):
    """(case 40)"""
    fill(src, "mnt/", "a")
    if subprocess.run(["mount", "-t", "tmpfs", "none", src / "mnt"], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        fill(src, "mnt/inside", "mnt/deep/f")
        one = Walk(tmp_path, src, rules=Rules.build(one_file_system=True))
        every = Walk(tmp_path, src)
    finally:
        subprocess.run(["umount", src / "mnt"], check=True)
    assert sorted(one.names) == ["src", "src/a", "src/mnt"]
    assert one.found.excluded == {"other file system": 1}
    assert "src/mnt/deep/f" in every.names


def test_another_device_is_kept_empty_on_one_file_system(tmp_path, src, monkeypatch):
    """(case 40) Without a mount: the root's device is told wrong."""
    fill(src, "mnt/f", "a")
    real = os.lstat

    def elsewhere(path):
        info = real(path)
        return os.stat_result((*info[:2], info.st_dev + 1, *info[3:]), info.__reduce__()[1][1])

    monkeypatch.setattr(os, "lstat", elsewhere)
    walk = Walk(tmp_path, src, rules=Rules.build(one_file_system=True))
    assert walk.names == ["src", "src/a", "src/mnt"]
    assert walk.found.excluded == {"other file system": 1}


def test_progress_is_told_and_can_end_the_walk(tmp_path, src):
    fill(src, "a/f", "b/g")
    seen = []
    Walk(tmp_path, src, on_progress=lambda *now: seen.append(now))
    assert seen == [(1, 0), (3, 3), (5, 6)]

    def stop(_entries, _bytes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Walk(tmp_path, src, on_progress=stop)


def test_two_walks_write_the_same(tmp_path, src):
    fill(src, *(f"{a}/{b}" for a in "xyz" for b in "abc"))
    Walk(tmp_path, src)
    first = (tmp_path / "entries").read_bytes()
    Walk(tmp_path, src)
    assert (tmp_path / "entries").read_bytes() == first


def test_unfinished_work_of_other_runs_is_left_out(src, tmp_path):
    """What another job encrypts lies there in clear; a folder that is only called so is taken."""
    work = WorkFolder.create(src, "run")
    work.subfolder("segments").joinpath("0").write_text("secret")
    fill(src, f"{PREFIX}mine/file", "file")
    walk = Walk(tmp_path, src)
    assert sorted(walk.names) == [
        "src", f"src/{PREFIX}mine", f"src/{PREFIX}mine/file", "src/file",
    ]  # fmt: skip
    assert walk.found.excluded == {"unfinished work of a run": 1}
    work.remove()
