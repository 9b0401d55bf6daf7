"""Archives made of our header blocks, in the hands of other programs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attributed import acl_text, attributes_by_getfattr, folder_with_attributes

from pybak.attributes import ACL_ACCESS, ACL_DEFAULT, CAPABILITY, acl_from_text
from pybak.entries import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    FIFO,
    FILE,
    FOLDER,
    HARD_LINK,
    LINK,
)
from pybak.formats.tar_records import (
    END_BLOCKS,
    attributes_that_fit,
    member_header,
    padding,
    sparse_map_block,
)

pytestmark = pytest.mark.needs_tool("tar", "bsdtar", "7zz", "busybox", "getfattr", "getfacl")

NS = 1_000_000_000
NOON = 1_700_000_000 * NS + 123_456_789
PROGRAMS = ["tar", "bsdtar", "7zz", "busybox", "python"]
SNOW = "\N{SNOWMAN}".encode()
CAPABLE = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep


def member(name: bytes, kind: str = FILE, content: bytes = b"", **more: Any) -> bytes:
    facts: dict[str, Any] = {
        "mode": 0o755 if kind == FOLDER else 0o644,
        "uid": os.getuid(),
        "gid": os.getgid(),
        "mtime_ns": NOON,
        "size": len(content),
    }
    return member_header(name, kind, **facts | more) + content + padding(len(content))


def sparse(name: bytes, data_map: list[tuple[int, int]], size: int) -> bytes:
    content = sparse_map_block(data_map, size)
    content += b"".join(bytes([65 + n % 26]) * length for n, (_, length) in enumerate(data_map))
    header = member(name, size=size, data_map=data_map)
    return header + content + padding(len(content))


def unpack(blocks: bytes, folder: Path, program: str, *options: str) -> Path:
    """Unpack an archive; fail if the program has anything to complain about."""
    archive = folder / f"{program}.tar"
    archive.write_bytes(blocks + END_BLOCKS)
    target = folder / program
    target.mkdir()
    commands = {
        "tar": ["tar", "--warning=no-timestamp", "-xpf", archive, "-C", target],
        "bsdtar": ["bsdtar", "-xpf", archive, "-C", target],
        "7zz": ["7zz", "x", "-y", "-bso0", f"-o{target}", archive],
        "busybox": ["busybox", "tar", "-xpf", archive, "-C", target],
        "python": [sys.executable, "-m", "tarfile", "-e", archive, target],
    }
    done = subprocess.run(
        [*commands[program], *options],
        capture_output=True,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return target


def names_below(folder: Path) -> set[bytes]:
    base = os.fsencode(folder)
    return {
        os.path.relpath(os.path.join(root, name), base)
        for root, folders, files in os.walk(base)
        for name in folders + files
    }


NAMES = [
    b"plain",
    b"blanks and (brackets) [*?]",
    b"ends in dots..",
    b"ends in a newline\n",
    SNOW * 80,
    b"\xff\xfe",
    b"\xff" * 101,
    "e\N{COMBINING ACUTE ACCENT}".encode() * 50,
    b"back\\slash",
    b"n" * 100,
    b"n" * 101,
    b"n" * 255,
    b"p" * 99 + b"/" + b"n" * 100,
    b"p" * 100 + b"/" + b"n" * 101,
    b"p" * 155 + b"/" + b"n" * 100,
    b"p" * 156 + b"/" + b"n" * 100,
    b"/".join([b"c" * 50] * 20) + b"/\xe4",
]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mtime_ns", [NOON, NOON - NOON % NS])
def test_names_come_out_as_they_went_in(tmp_path: Path, program: str, mtime_ns: int) -> None:
    """(cases 1-5, 8, 68)"""
    blocks = b"".join(member(name, content=name, mtime_ns=mtime_ns) for name in NAMES)
    target = unpack(blocks, tmp_path, program)
    for name in NAMES:
        path = os.path.join(os.fsencode(target), name)
        with open(path, "rb") as file:
            assert file.read() == name
        precise = program not in ("busybox", "python")
        want = mtime_ns if precise else mtime_ns // NS * NS
        assert abs(os.stat(path).st_mtime_ns - want) < (1 if precise else NS)
    folders = {name.rpartition(b"/")[0] for name in NAMES} - {b""}
    parents = {b"/".join(f.split(b"/")[:n]) for f in folders for n in range(1, 21)}
    assert names_below(target) == set(NAMES) | parents


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_kind_comes_out(tmp_path: Path, program: str) -> None:
    """(cases 4, 14-18, 26, 29, 32)"""
    long = b"l" * 90 + b"/" + b"\xff" * 30
    targets = [b"file", b"../none", b"/absolute", b"\xff\xfe", b"t" * 101, b"\xe4" * 300, SNOW * 40]
    blocks = member(b"folder", FOLDER, mode=0o1750) + member(b"folder/empty", FOLDER, mode=0o700)
    blocks += member(b"f" * 60 + b"/" + b"g" * 60, FOLDER)
    blocks += member(b"file", content=b"content", mode=0o640)
    blocks += member(long, content=b"long")
    blocks += member(b"other name", HARD_LINK, link=b"file", mode=0o640)
    blocks += member(b"short name", HARD_LINK, link=long)
    blocks += member(b"pipe", FIFO, mode=0o600)
    if program == "7zz":  # it refuses links that lead out of the folder
        targets = []
    for number, link in enumerate(targets):
        blocks += member(b"link%d" % number, LINK, link=link, mode=0o777)
    target = os.fsencode(unpack(blocks, tmp_path, program))

    def status(name: bytes) -> os.stat_result:
        return os.lstat(target + b"/" + name)

    assert stat.S_IMODE(status(b"folder/empty").st_mode) == 0o700
    assert stat.S_IMODE(status(b"file").st_mode) == 0o640
    assert stat.S_ISDIR(status(b"f" * 60 + b"/" + b"g" * 60).st_mode)
    if program != "7zz":
        assert stat.S_IMODE(status(b"folder").st_mode) == 0o1750
        assert stat.S_ISFIFO(status(b"pipe").st_mode)
    with open(target + b"/other name", "rb") as file:
        assert file.read() == b"content"
    with open(target + b"/short name", "rb") as file:
        assert file.read() == b"long"
    assert status(b"file").st_ino == status(b"other name").st_ino
    assert status(long).st_ino == status(b"short name").st_ino
    for number, link in enumerate(targets):
        assert os.readlink(target + b"/link%d" % number) == link


@pytest.mark.needs_root
@pytest.mark.parametrize("program", ["tar", "bsdtar", "busybox", "python"])
def test_devices_and_owners_come_out_as_root(tmp_path: Path, program: str) -> None:
    """(cases 16, 21, 33)"""
    ids = [0, 1, 2**21 - 1, 2**21, 2**32 - 2]
    blocks = b"".join(
        member(b"f%d" % uid, uid=uid, gid=uid, user=b"nobody-%d" % uid, mode=0o6755) for uid in ids
    )
    try:
        os.mknod(tmp_path / "probe", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        with_devices = False  # a container may forbid it even to root
    else:
        with_devices = True
        blocks += member(b"null", CHAR_DEVICE, device=(1, 3))
        blocks += member(b"disk", BLOCK_DEVICE, device=(4095, 2**20 - 1))
    target = unpack(blocks, tmp_path, program)
    for uid in ids:
        status = os.lstat(target / f"f{uid}")
        assert (status.st_uid, status.st_gid) == (uid, uid)
        assert stat.S_IMODE(status.st_mode) == 0o6755 or program == "python"
    if with_devices:
        assert os.lstat(target / "null").st_rdev == os.makedev(1, 3)
        assert os.lstat(target / "disk").st_rdev == os.makedev(4095, 2**20 - 1)


TIMES = [0, 1, -NS, -5 * NS, -NS // 2, -(2**31) * NS, 315_532_799 * NS, 2**32 * NS + 7]
BEYOND = [8**11 * NS, 8**11 * NS + 1, 10**12 * NS, 2**55 * NS, 2**63 * NS, -(2**40) * NS]


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_time_stops_a_program(tmp_path: Path, program: str) -> None:
    """Before 1970 and 1980 to the nanosecond; what a file system can't hold, somehow (case 20)."""
    times = TIMES + BEYOND
    blocks = b"".join(member(b"%d" % number, mtime_ns=at) for number, at in enumerate(times))
    options = ["--warning=no-timestamp"] if program == "tar" else []
    target = unpack(blocks, tmp_path, program, *options)
    for number, at in enumerate(TIMES):
        found = os.stat(target / str(number)).st_mtime_ns
        if program == "busybox":  # it does not read extended headers
            assert found == max(0, at // NS * NS)
        elif program == "bsdtar" and at < 0 and at % NS:  # it adds the fraction
            assert abs(found - at) <= NS
        else:
            assert abs(found - at) < (1000 if program == "python" else 1)
    assert len(list(target.iterdir())) == len(times)


SPARSE = {
    "start": ([(40960, 4096)], 45056),
    "middle": ([(0, 4096), (81920, 512)], 82432),
    "end": ([(0, 4096)], 1 << 20),
    "odd end": ([(40960, 4096), (81920, 700)], 82620),
    "only a hole": ([], 1 << 30),
    "no hole": ([(0, 4096)], 4096),
    "many": ([(n * 8192, 4096) for n in range(200)], 200 * 8192),
    "large": ([((9 << 30) - 4096, 4096)], 9 << 30),
}


@pytest.mark.parametrize("program", ["tar", "bsdtar", "python"])
@pytest.mark.parametrize("prefix", [b"", b"a/b/", b"d" * 80 + b"/" + b"e" * 80 + b"/", b"\xff/"])
def test_sparse_files_come_out_sparse(tmp_path: Path, program: str, prefix: bytes) -> None:
    """And what follows them is not shifted (case 35)."""
    if prefix:
        prefix += b"n" * 90
    blocks = b""
    for name, (data_map, size) in SPARSE.items():
        blocks += sparse(prefix + name.encode(), data_map, size)
        blocks += member(b"after " + name.encode(), content=b"whole")
    target = unpack(blocks, tmp_path, program)
    for name, (data_map, size) in SPARSE.items():
        path = os.path.join(os.fsencode(target), prefix + name.encode())
        status = os.stat(path)
        assert status.st_size == size
        stored = sum(length for _, length in data_map)
        assert status.st_blocks * 512 <= 2 * stored + 8192 * max(1, len(data_map))
        with open(path, "rb") as file:
            at = 0
            for number, (offset, length) in enumerate(data_map):
                gap = min(offset - at, 1 << 20)
                file.seek(offset - gap)
                assert file.read(gap) == bytes(gap)
                assert file.read(length) == bytes([65 + number % 26]) * length
                at = offset + length
            assert file.read(1 << 20) == bytes(min(size - at, 1 << 20))
        assert (target / f"after {name}").read_bytes() == b"whole"


def test_gnu_tar_sees_the_same_names_in_a_sparse_archive(tmp_path: Path) -> None:
    """Long ones too (case 35)."""
    names = [b"s", b"d/s", b"x" * 100, b"d/" * 80 + b"y" * 120, b"\xff", b"z" * 99 + b"/\xff" * 99]
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"".join(sparse(name, [], 4096) for name in names) + END_BLOCKS)
    command = ["tar", "--quoting-style=literal", "-tf", archive]
    listed = subprocess.run(command, check=True, capture_output=True).stdout
    assert listed.splitlines() == names
    with tarfile.open(archive, errors="surrogateescape") as opened:
        assert [os.fsencode(name) for name in opened.getnames()] == names


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with folder_with_attributes(tmp_path) as folder:
        yield folder


ACL_OPTIONS = {
    "tar": ["--acls", "--xattrs", "--xattrs-include=*"],
    "bsdtar": ["--acls", "--xattrs"],
}


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_attributes_and_acls_come_out(place: Path, program: str) -> None:
    """(cases 23, 24)"""
    values = {b"user.a": b"1", b"user.empty": b"", b"user.raw": bytes(range(256)), SNOW: b"left"}
    values = {b"user.snow" + SNOW if name == SNOW else name: v for name, v in values.items()}
    access = acl_from_text(b"u::rwx,u:12345:r-x,g::r-x,g:54321:rwx,m::rwx,o::---")
    default = acl_from_text(b"u::rwx,g::r-x,o::---,u:12345:rwx")
    blocks = member(b"file", content=b"x", mode=0o770, attributes=values | {ACL_ACCESS: access})
    blocks += member(
        b"folder", FOLDER, mode=0o770, attributes={ACL_ACCESS: access, ACL_DEFAULT: default}
    )
    blocks += member(b"plain")
    target = unpack(blocks, place, program, *ACL_OPTIONS[program])
    found = {
        os.fsencode(name): os.getxattr(target / "file", name)
        for name in os.listxattr(target / "file")
    }
    assert found.pop(ACL_ACCESS) == access
    assert found == values
    wanted = "user::rwx\nuser:12345:r-x\ngroup::r-x\ngroup:54321:rwx\nmask::rwx\nother::---"
    assert acl_text(target / "file") == wanted
    assert os.getxattr(target / "folder", ACL_DEFAULT) == default
    assert os.getxattr(target / "folder", ACL_ACCESS) == access
    assert attributes_by_getfattr(target / "plain") == ""


def test_gnu_tar_takes_attribute_names_that_need_a_code(place: Path) -> None:
    """(case 23)"""
    values = {b"user.a=b": b"1", b"user.100%": b"2", b"user.%3D": b"3", b"user.\xff": b"4"}
    blocks = member(b"file", attributes=values)
    target = unpack(blocks, place, "tar", *ACL_OPTIONS["tar"])
    names = os.listxattr(target / "file")
    assert {os.fsencode(name): os.getxattr(target / "file", name) for name in names} == values


@pytest.mark.needs_root
@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_capabilities_come_out_as_root(place: Path, program: str) -> None:
    """(case 23)"""
    blocks = member(b"ping", mode=0o755, attributes={CAPABILITY: CAPABLE})
    target = unpack(blocks, place, program, *ACL_OPTIONS[program])
    assert os.getxattr(target / "ping", CAPABILITY) == CAPABLE


@pytest.mark.parametrize("program", PROGRAMS)
def test_as_many_attributes_as_fit_stop_no_program(tmp_path: Path, program: str) -> None:
    """(case 23)"""
    values, left_out = attributes_that_fit({b"user.%d" % n: bytes(65_000) for n in range(30)})
    assert left_out
    blocks = member(b"\xff" * 2 + b"/" + b"n" * 200, attributes=values, content=b"x")
    blocks += member(b"after", content=b"whole")
    options = ["--no-xattrs"] if program == "bsdtar" else []  # no file system holds them all
    target = unpack(blocks, tmp_path, program, *options)
    assert (target / "after").read_bytes() == b"whole"


@pytest.mark.parametrize("program", ["bsdtar", "7zz", "busybox", "tar"])
def test_a_member_of_over_8_gib_is_listed_with_its_size(tmp_path: Path, program: str) -> None:
    """Its content is a hole in the archive file (case 36)."""
    size = (9 << 30) + 1
    archive = tmp_path / "large.tar"
    with archive.open("wb") as out:
        header = member_header(
            b"large", FILE, mode=0o644, uid=2**31, gid=2**31, mtime_ns=NOON, size=size
        )
        out.write(header)
        out.seek(len(header) + size + -size % 512)
        out.write(member(b"after", content=b"whole") + END_BLOCKS)
    commands: dict[str, list[str]] = {
        "tar": ["tar", "-tvf"],
        "bsdtar": ["bsdtar", "-tvf"],
        "busybox": ["busybox", "tar", "-tvf"],
        "7zz": ["7zz", "l", "-ba"],
    }
    done = subprocess.run([*commands[program], archive], check=True, capture_output=True, text=True)
    assert f" {size} " in done.stdout
    assert "after" in done.stdout
