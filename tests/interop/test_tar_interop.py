"""Our tar archives in the hands of other programs: all that they keep comes back."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attributed import acl_text, attributes_by_getfattr, folder_with_attributes, set_acl
from backing_up import (
    MANIFEST,
    TARS,
    back_up,
    judge_outcome,
    noise,
    prose,
    run_tool,
    shrink,
    unpacked,
)
from commands import tool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from walker import walk

pytestmark = pytest.mark.needs_tool("tar", "bsdtar", "gzip", "bzip2", "zstd")
PART = 120_000
# Hard links come last in our archives, in folders that GNU tar believes to be finished by then.
GNU = [
    "--delay-directory-restore",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--numeric-owner",
    "--exclude=.pybak",
]
BSD = ["--xattrs", "--acls", "--numeric-owner", "--exclude", ".pybak"]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch, part=PART)


def extract(program: str, archive: Path, target: Path) -> Path:
    """Unpack as root does, with everything; give the folder that `archive` holds."""
    target.mkdir()
    if program == "tar":
        run_tool("tar", "-xpf", archive, "-C", target, *GNU)
    elif program == "bsdtar":
        run_tool("bsdtar", "-xpf", archive, "-C", target, *BSD)
    elif program == "bsdtar from a pipe":
        with archive.open("rb") as pipe:
            subprocess.run(
                [tool("bsdtar"), "-xpf", "-", "-C", target, *BSD], stdin=pipe, check=True,
                capture_output=True, env=os.environ | {"LC_ALL": "C.UTF-8"},
            )  # fmt: skip
    else:
        plain = unpacked(archive.read_bytes(), archive.name[archive.name.index("tar") :])
        with tarfile.open(fileobj=io.BytesIO(plain), errors="surrogateescape") as opened:
            members = [one for one in opened.getmembers() if one.name != MANIFEST]
            more: dict[str, Any] = (
                {"filter": "fully_trusted"} if sys.version_info >= (3, 12) else {}
            )
            opened.extractall(target, members, numeric_owner=True, **more)
    return target


PROGRAMS = ["tar", "bsdtar", "bsdtar from a pipe", "python"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that keeps everything."""
    with folder_with_attributes(tmp_path) as folder:
        yield folder


@pytest.fixture
def src(place: Path) -> Path:
    """Give a tree with every kind of thing that a tar archive keeps."""
    folder = place / "src"
    (folder / "deep/er/empty").mkdir(parents=True)
    for name, data in {
        "empty": b"", "one": b"1", "text": prose(100_000), "noise": noise(100_000),
        "large text": prose(300_000), "deep/er/noise": noise(300_000, 1),
        "(brackets) [and] *?": b"x", "n" * 255: b"long", "deep/" + "m" * 250: b"longer",
        "\N{LATIN SMALL LETTER U WITH DIAERESIS} \N{SNOWMAN} \N{CJK UNIFIED IDEOGRAPH-4E2D}": b"u",
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    with (folder / "sparse").open("wb") as file:
        file.truncate(500_000)
        for at in (0, 200_000, 499_000):
            file.seek(at)
            file.write(b"data")
    (folder / "link").symlink_to("one")
    (folder / "deep/dangling").symlink_to("../no/such/" + "x" * 150)
    (folder / "round").symlink_to("round")
    (folder / "to folder").symlink_to("deep")
    os.mkfifo(folder / "fifo", 0o620)
    os.link(folder / "one", folder / "deep/er/one too")
    os.link(folder / "large text", folder / "deep/large too")
    os.link(folder / "link", folder / "deep/link too", follow_symlinks=False)
    for number, (name, mode) in enumerate(
        {"one": 0o4755, "text": 0o2640, "noise": 0o444, "sparse": 0o6711, "deep/er": 0o1777,
         "deep": 0o500, "deep/er/empty": 0o2555}.items()
    ):  # fmt: skip
        os.chmod(folder / name, mode)
        os.utime(folder / name, ns=(0, 1_500_000_000_123_456_789 + number))
    os.utime(folder / "link", ns=(0, 1_400_000_000_987_654_321), follow_symlinks=False)
    return folder


def without_exact_times(tree: dict[bytes, Any]) -> dict[bytes, Any]:
    """Forget what Python's tarfile can't keep: it reckons in floats, and has no attributes."""
    return {
        path: one._replace(
            mtime_ns=None if stat.S_ISLNK(one.kind) else (one.mtime_ns + 500_000) // 10**6
        )
        for path, one in tree.items()
    }


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_tree_comes_back_by_any_program(src: Path, place: Path, program: str, kind: str) -> None:
    """Contents, holes, modes, times in ns, links of all kinds, FIFOs.

    (cases 1, 14-19, 26, 28, 29, 31, 32, 35, 68, 69)
    """
    done = back_up(src, to=place / "out", format=kind)
    judge_outcome(done)
    assert (done.errors, done.skipped, done.report.lost) == ({}, {}, {})
    wanted = {path: one for path, one in walk(place).items() if path.startswith(b"src")}
    found = walk(extract(program, done.path, place / "u"))
    if program == "python":
        wanted, found = without_exact_times(wanted), without_exact_times(found)
    assert found == wanted
    assert (place / "u/src/sparse").stat().st_blocks * 512 < 100_000


@pytest.mark.needs_root
@pytest.mark.needs_tool("setcap", "getcap", "getfattr", "setfacl", "getfacl")
@pytest.mark.parametrize("program", PROGRAMS[:3])
@pytest.mark.parametrize("size", [100, 300_000])
def test_attributes_acls_and_capabilities_come_back(place: Path, program: str, size: int) -> None:
    """Also those of folders and links, with names and values of any bytes (cases 23, 24)."""
    src = place / "src"
    (src / "folder").mkdir(parents=True)
    for name in ("plain", "noted", "shared", "capable", "all"):
        (src / name).write_bytes(prose(size))
    (src / "link").symlink_to("plain")
    for name in ("noted", "all", "folder"):
        os.setxattr(src / name, "user.text", b"text")
        os.setxattr(src / name, "user.bytes", bytes(range(256)) + b"\n=\n7 a=b\n")
        os.setxattr(src / name, "user.empty", b"")
        os.setxattr(src / name, "trusted.secret", b"root only")
    os.setxattr(src / "link", "trusted.of-link", b"link", follow_symlinks=False)
    for name in ("shared", "all", "folder"):
        set_acl(src / name, "u:12345:rw", "u:daemon:r", "g:99999:rx", "m::rw")
    set_acl(src / "folder", "u:54321:rwx", "o::-", default=True)
    for name in ("capable", "all"):
        run_tool("setcap", "cap_net_raw,cap_chown+ep", src / name)
    done = back_up(src, to=place / "out", format="tar.gz")
    judge_outcome(done)
    assert (done.errors, done.skipped) == ({}, {})
    found = extract(program, done.path, place / "u") / "src"
    for name in ("plain", "noted", "shared", "capable", "all", "folder", "link"):
        if name != "link":
            assert acl_text(found / name) == acl_text(src / name)
        if name == "link" and program != "tar":
            continue  # libarchive sets no attributes of links
        assert attributes_by_getfattr(found / name) == attributes_by_getfattr(src / name)
    assert run_tool("getcap", found / "all").endswith("cap_chown,cap_net_raw=ep\n")


@pytest.mark.needs_root
@pytest.mark.parametrize("program", PROGRAMS[:3])
def test_owners_and_devices_come_back(place: Path, program: str) -> None:
    """(cases 21, 28, 33)"""
    src = place / "src"
    src.mkdir()
    os.mknod(src / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(src / "disk", 0o640 | stat.S_IFBLK, os.makedev(253, 1000))
    (src / "link").symlink_to("/etc/passwd")
    (src / "file").write_bytes(b"x")
    for name, uid, gid in (
        ("file", 12_345, 4_000_000_000), ("link", 3_000_000, 7), ("null", 1, 2), ("disk", 0, 6),
    ):  # fmt: skip
        os.chown(src / name, uid, gid, follow_symlinks=False)
    before = os.lstat("/etc/passwd")
    done = back_up(src, to=place / "out", format="tar")
    judge_outcome(done)
    wanted = {path: one for path, one in walk(place).items() if path.startswith(b"src")}
    assert walk(extract(program, done.path, place / "u")) == wanted
    assert os.lstat("/etc/passwd").st_uid == before.st_uid


NAMES = [
    b"line\nend", b"tab\there", b"trail. ", b"glob*?[a]", b"latin \xe9", b"\xff\xfe", b"bell\x07",
    b"back\\slash", b"~", b"#", b"$HOME", b"quote'\"", b"-rf", b"--help", b" ", b"\xcc\x88alone",
    b"a\xcc\x88 decomposed", b"\xc3\xa4 composed", b"\xe2\x80\xae reversed", b"x=y", b"7 path=z",
    b"n" * 255, b"\xe9" * 255, b"\xe2\x98\x83" * 85,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    "folder", [b"", b"f" * 90, b"\xff" * 60, b"f" * 200 + b"/" + b"\xfe" * 200]
)
def test_names_and_targets_of_any_bytes_come_back(
    tmp_path: Path, program: str, folder: bytes
) -> None:
    """Short, long, composed or not, UTF-8 or not, in folders whose names are (cases 1-5, 8)."""
    top = os.fsencode(tmp_path) + b"/src"
    for name in NAMES:
        path = os.path.join(top, folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
        os.symlink(name, os.path.join(os.path.dirname(path), b"link %d" % NAMES.index(name)))
        os.utime(path, (0, 10**9))
    done = back_up(top, to=tmp_path / "out", format="tar")
    judge_outcome(done, ["tar"])
    found = walk(extract(program, done.path, tmp_path / "u") / "src")
    wanted = walk(tmp_path / "src")
    if program != "tar":
        assert without_exact_times(found) == without_exact_times(wanted)
    else:
        assert found == wanted


TIMES = [-(10**18) - 1, -(10**9), -500_000_000, -1, 0, 1, 999_999_999, 10**18 + 1,
         (2**31) * 10**9, (2**33) * 10**9, (2**33) * 10**9 + 5, 10**19]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "time_ns"),
    [(program, time_ns) for program in PROGRAMS[:2] for time_ns in TIMES
     # libarchive takes the fraction of a negative time for a positive one.
     if program == "tar" or time_ns >= 0 or time_ns % 10**9 == 0],
)  # fmt: skip
def test_times_of_any_age_come_back(tmp_path: Path, program: str, time_ns: int) -> None:
    """Before 1970, behind 2242, and to the nanosecond (cases 19, 20)."""
    path = tmp_path / "f"
    path.write_bytes(b"f")
    path.chmod(0o600)
    os.utime(path, ns=(0, time_ns))
    if path.stat().st_mtime_ns != time_ns:
        pytest.skip("this file system can't hold that time")
    done = back_up(path, to=tmp_path / "out", format="tar")
    judge_outcome(done)
    assert (extract(program, done.path, tmp_path / "u") / "f").stat().st_mtime_ns == time_ns
    assert done.records["f"].mtime_ns == time_ns


@pytest.mark.parametrize("kind", ["tar", "tar.zst"])
def test_times_no_file_system_here_holds_are_no_reason_to_stop(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Year 12345, and before year 0 (case 20)."""
    from pybak.backup import packing

    real = packing.member_meta
    for seconds in (-(10**11), 3 * 10**11, 2**62):

        def odd(*args: Any, seconds: int = seconds) -> Any:
            import msgspec

            return msgspec.structs.replace(real(*args), mtime_ns=seconds * 10**9)

        monkeypatch.setattr("pybak.backup.pack_tar.member_meta", odd)
        monkeypatch.setattr(packing.BatchPacker, "open_small", lambda *_: None)
        (tmp_path / "f").write_bytes(b"f")
        done = back_up(tmp_path / "f", to=tmp_path / "out", format=kind)
        judge_outcome(done)
        assert done.contents == {"f": b"f"}


def test_a_source_that_is_a_link_is_followed_and_links_below_it_are_not(tmp_path: Path) -> None:
    """(cases 26, 27)"""
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "real/sub/f").write_bytes(b"f")
    (tmp_path / "real/again").symlink_to("sub")
    (tmp_path / "source").symlink_to("real")
    done = back_up(tmp_path / "source", to=tmp_path / "out", format="tar")
    judge_outcome(done)
    (top,) = {name.split("/")[0] for name in done.contents}
    assert done.contents[f"{top}/again"] == b"sub"
    assert f"{top}/again/f" not in done.contents


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_many_members_in_one_folder(tmp_path: Path, kind: str) -> None:
    """(case 37)"""
    src = tmp_path / "src"
    src.mkdir()
    for number in range(11_000):
        (src / str(number)).touch()
    done = back_up(src, to=tmp_path / "out", format=kind)
    judge_outcome(done)
    assert done.report.files.new == 11_000
    listed = run_tool("tar", "-tf", done.path).splitlines()
    assert len(listed) == len(set(listed)) == 11_002


@pytest.mark.full
def test_a_member_of_more_than_8_gib_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a small one behind it (case 36). The holes are read as zeros here."""
    monkeypatch.undo()
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("pybak.backup.parts.may_have_holes", lambda _: False)
    src = tmp_path / "src"
    src.mkdir()
    with (src / "big").open("wb") as file:
        file.truncate((8 << 30) + 1)
    (src / "z").write_bytes(b"behind")
    done = back_up(src, to=tmp_path / "out", format="tar.zst")
    assert f" {(8 << 30) + 1} " in run_tool("tar", "-tvf", done.path)
    assert run_tool("tar", "-xOf", done.path, "src/z") == "behind"
    assert run_tool("bsdtar", "-xOf", done.path, "src/z") == "behind"


CONTENTS = st.builds(
    lambda size, seed, packs: (prose if packs else noise)(size, seed),
    st.one_of(
        st.sampled_from([0, 1, 511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049, 4999, 5000, 5001,
                         9_999, 10_000, 10_001, 20_000, 30_001]),
        st.integers(0, 12_000),
    ),
    st.integers(0, 5),
    st.booleans(),
)  # fmt: skip
NAME = st.one_of(
    st.binary(min_size=1, max_size=30),
    st.text(min_size=1, max_size=60).map(lambda text: text.encode("utf-8", "ignore")[:255]),
    st.sampled_from([b"n" * 99, b"n" * 100, b"n" * 101, b"\xfe" * 101, b"n" * 255]),
).filter(lambda name: name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name)
TIME = st.integers(0, 2**33 * 10**9) | st.integers(-(2**31), 0).map(lambda at: at * 10**9)
FILES = st.dictionaries(
    NAME,
    st.tuples(
        CONTENTS, st.integers(0, 0o7777), TIME,
        st.sampled_from([b"", b"d", b"d" * 120, b"\xff/" + b"e" * 150]),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@pytest.mark.needs_root
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    files=FILES,
    kind=st.sampled_from(TARS),
    level=st.sampled_from([1, 3, 6]),
    program=st.sampled_from(PROGRAMS),
)
def test_what_is_written_is_read_back_by_others(
    files: dict[bytes, Any], kind: str, level: int, program: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Any names, contents at the borders of blocks, pieces and parts, modes and times."""
    folder = tmp_path_factory.mktemp("round")
    for name, (data, mode, time_ns, where) in files.items():
        path = os.path.join(os.fsencode(folder), b"src", where, name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                file.write(data)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
        os.chmod(path, mode)
        os.utime(path, ns=(0, time_ns))
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, part=10_000, whole=5_000, piece=2_048)
        done = back_up(folder / "src", to=folder / "out", format=kind, level=level, chunk_size=2)
    judge_outcome(done, ["tar"])
    assert done.errors == {}
    wanted = {path: one for path, one in walk(folder).items() if path.startswith(b"src")}
    found = walk(extract(program, done.path, folder / "u"))
    if program == "python":
        wanted, found = without_exact_times(wanted), without_exact_times(found)
    assert found == wanted
