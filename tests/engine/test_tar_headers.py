"""Headers of tar archives: every dialect, as other programs write it, and as nobody should."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import tars

from pybak.entries import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    FIFO,
    FILE,
    FOLDER,
    HARD_LINK,
    LINK,
    UNKNOWN,
)
from pybak.errors import ArchiveError
from pybak.formats.tar_attributes import attribute
from pybak.formats.tar_fields import is_header
from pybak.formats.tar_headers import MAX_EXTENDED, Entry, HeaderReader, says_only
from pybak.formats.tar_sparse import MAX_RUNS

NOON = 1_700_000_000


class Stream:
    """Bytes to be read as a stream."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    @property
    def at(self) -> int:
        return self._file.tell()

    def read(self, length: int) -> bytes:
        return self._file.read(length)

    def unread(self, data: bytes) -> None:
        self._file.seek(-len(data), os.SEEK_CUR)

    def seek(self, at: int) -> None:
        self._file.seek(at)


def entries(data: bytes) -> list[Entry]:
    stream, reader = Stream(data), HeaderReader()
    found = []
    while entry := reader.next(stream, stream.at):
        assert stream.at == entry.data
        found.append(entry)
        stream.seek(entry.end)
    return found


def only(data: bytes) -> Entry:
    (entry,) = entries(data)
    return entry


def block(
    name: bytes = b"x",
    flag: bytes = b"0",
    size: bytes = b"0",
    *,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    mode: bytes = b"644",
    mtime: bytes = b"14524770400",
    link: bytes = b"",
    uid: bytes = b"1750",
    tail: bytes = b"",
) -> bytes:
    """Give a header block; `tail` replaces what starts at byte 345."""
    out = bytearray(512)
    for at, value in (
        (0, name), (100, mode), (108, uid), (116, b"144"), (124, size), (136, mtime),
        (148, b" " * 8), (156, flag), (157, link), (257, magic), (345, tail or prefix),
    ):  # fmt: skip
        out[at : at + len(value)] = value
    out[148:156] = b"%06o\0 " % sum(out)
    return bytes(out)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while length != (longer := len(key) + len(value) + 3 + len(b"%d" % length)):
        length = longer
    return b"%d %b=%b\n" % (length, key, value)


def extended(*records: tuple[bytes, bytes], flag: bytes = b"x", body: bytes = b"") -> bytes:
    body = body or b"".join(record(*one) for one in records)
    return block(b"pax", flag, b"%o" % len(body)) + body + bytes(-len(body) % 512)


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        (b"0", FILE), (b"\0", FILE), (b"7", FILE), (b"1", HARD_LINK), (b"2", LINK),
        (b"3", CHAR_DEVICE), (b"4", BLOCK_DEVICE), (b"5", FOLDER), (b"6", FIFO), (b"D", FOLDER),
    ],
)  # fmt: skip
def test_every_type_has_its_kind(flag: bytes, kind: str) -> None:
    entry = only(block(b"x", flag, link=b"y"))
    assert (entry.kind, entry.name, entry.fault) == (kind, b"x", "")
    assert entry.link == (b"y" if kind in (LINK, HARD_LINK) else None)
    assert (entry.mode, entry.uid, entry.gid) == (0o644, 1000, 100)
    assert (entry.mtime_ns, entry.precision) == (NOON * 10**9, 10**9)


@pytest.mark.parametrize("flag", [b"M", b"N", b"A", b"Q"])
def test_an_unknown_type_is_a_fault_and_its_content_is_passed_over(flag: bytes) -> None:
    first, second = entries(block(b"x", flag, b"5") + b"hello" + bytes(507) + block(b"y"))
    assert first.kind == UNKNOWN
    assert first.fault.startswith("is ")
    assert second.name == b"y"


def test_v7_headers_have_no_magic_and_folders_a_slash() -> None:
    folder, file = entries(block(b"d/", b"\0", magic=b"") + block(b"d/f", b"\0", magic=b""))
    assert (folder.kind, folder.name) == (FOLDER, b"d")
    assert (file.kind, file.name, file.user) == (FILE, b"d/f", b"")


def test_names_come_from_all_places_there_are() -> None:
    long = b"n" * 300
    assert only(block(b"f", prefix=b"a/b")).name == b"a/b/f"
    assert only(block(b"f", prefix=b"a/b", magic=b"ustar  \0")).name == b"f"
    assert only(block(b"n" * 100)).name == b"n" * 100
    assert only(extended((b"path", long)) + block()).name == long
    gnu = block(b"././@LongLink", b"L", b"%o" % 301) + (long + b"\0").ljust(512, b"\0")
    target = block(b"././@LongLink", b"K", b"%o" % 301) + (long + b"\0").ljust(512, b"\0")
    entry = only(target + gnu + block(b"cut", b"2", link=b"cut"))
    assert (entry.name, entry.link) == (long, long)
    entry = only(gnu + extended((b"mtime", b"1.5")) + block())
    assert (entry.name, entry.mtime_ns) == (long, 1_500_000_000)
    assert only(extended((b"linkpath", long)) + block(flag=b"2")).link == long
    assert only(block(b"\xff\xfe/", b"5")).name == b"\xff\xfe"


def test_the_short_prefix_of_star_is_respected() -> None:
    tail = b"a/b".ljust(131, b"\0") + b"14524770400 14524770400 "
    assert only(block(b"f", tail=tail.ljust(163, b"\0") + b"tar\0")).name == b"a/b/f"


@pytest.mark.parametrize(
    ("text", "mtime_ns"),
    [
        (b"1.5", 1_500_000_000), (b"-1.25", -1_250_000_000), (b"-0.5", -500_000_000),
        (b"12345678901.1234567899", 12345678901_123456789), (b"7", 7_000_000_000),
        (b"1.", 1_000_000_000),
    ],
)  # fmt: skip
def test_times_are_exact_before_1970_too(text: bytes, mtime_ns: int) -> None:
    """(cases 19, 20)"""
    entry = only(extended((b"mtime", text)) + block())
    assert (entry.mtime_ns, entry.precision) == (mtime_ns, 1)


@pytest.mark.parametrize("text", [b"soon", b"9" * 20, b"9" * 5000, b"1e9", b""])
def test_a_time_that_is_none_leaves_the_header_s(text: bytes) -> None:
    assert only(extended((b"mtime", text)) + block()).precision == 10**9


def test_base_256_numbers_are_read_and_may_be_negative() -> None:
    """(case 36)"""
    size = b"\x80" + (9 << 30).to_bytes(11)
    entry = only(block(size=size, mtime=b"\xff" * 12, uid=b"\x80" + (1 << 31).to_bytes(7)))
    assert (entry.size, entry.mtime_ns, entry.uid) == (9 << 30, -(10**9), 1 << 31)
    assert only(extended((b"size", b"9000000000"), (b"uid", b"-7")) + block()).uid == -7
    assert only(extended((b"size", b"9000000000")) + block()).size == 9_000_000_000


@pytest.mark.parametrize(
    "size", [b"9", b"1x", b"\xff" * 12, b"\x80" + b"\x80" + bytes(10), b"\x80" + b"\xff" * 11]
)
def test_an_impossible_size_stops_the_reading(size: bytes) -> None:
    with pytest.raises(ArchiveError, match="impossible size"):
        entries(block(size=size))


def test_sums_of_signed_bytes_are_taken_as_well() -> None:
    made = bytearray(block(b"\xe9t\xe9"))
    assert is_header(bytes(made))
    made[148:156] = b" " * 8
    signed = sum(byte - 256 * (byte > 127) for byte in made)
    made[148:156] = b"%06o\0 " % signed
    assert is_header(bytes(made))
    made[148:156] = b"%06o\0 " % (signed + 1)
    assert not is_header(bytes(made))


def test_global_headers_hold_until_they_are_changed() -> None:
    data = (
        extended((b"mtime", b"5"), (b"comment", b"c"), flag=b"g") + block(b"a")
        + extended((b"mtime", b"6")) + block(b"b") + extended((b"mtime", b""), flag=b"g")
        + block(b"c")
    )  # fmt: skip
    assert [(one.name, one.mtime_ns // 10**9) for one in entries(data)][:2] == [
        (b"a", 5), (b"b", 6),
    ]  # fmt: skip
    assert entries(data)[2].precision == 10**9


def test_content_behind_a_hard_link_is_passed_over_only_if_it_is_there() -> None:
    next_one = block(b"next")
    without = entries(block(b"h", b"1", b"5", link=b"x") + next_one)
    with_content = entries(block(b"h", b"1", b"5", link=b"x") + b"hello" + bytes(507) + next_one)
    assert [one.name for one in without] == [one.name for one in with_content] == [b"h", b"next"]
    assert without[0].size == 0


def test_devices_have_their_numbers() -> None:
    made = bytearray(block(b"tty", b"3"))
    made[329:345] = b"0000004\x000000101\0"
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    assert only(bytes(made)).device == (4, 65)


def test_attributes_are_kept_as_the_headers_have_them() -> None:
    """(cases 23, 24)"""
    records = [
        (b"SCHILY.xattr.user.a%3Db", b"1\n\x00="), (b"LIBARCHIVE.xattr.user.%c3%a4", b"AAEC/w"),
        (b"SCHILY.acl.access", b"user::rw-,user:1001:r--,group::r--,mask::r--,other::---"),
        (b"comment", b"no"),
    ]  # fmt: skip
    entry = only(extended(*records) + block())
    found = dict(attribute(key, value) for key, value in entry.records.items())
    assert found[b"user.a=b"] == b"1\n\x00="
    assert found["user.ä".encode()] == bytes([0, 1, 2, 255])
    assert found[b"system.posix_acl_access"][:4] == b"\x02\0\0\0"
    assert len(found) == 3
    with pytest.raises(ArchiveError):
        attribute(b"SCHILY.acl.access", b"nonsense")
    with pytest.raises(ArchiveError):
        attribute(b"LIBARCHIVE.xattr.user.x", b"A")


@pytest.mark.parametrize(
    "body",
    [b"x", b"5 a=b", b"99 a=b\n", b"0 a=b\n", b"7 path\n", b"9" * 40 + b" a=b\n", b"-9 a=bcd\n"],
)
def test_a_damaged_extended_header_is_a_fault_of_its_member(body: bytes) -> None:
    entry = only(extended(body=body) + block(b"name"))
    assert (entry.name, entry.fault) == (b"name", "has a damaged extended header")


def test_an_extended_header_of_any_claimed_size_costs_little() -> None:
    big = MAX_EXTENDED + 512
    data = block(b"pax", b"x", b"%o" % big) + bytes(big) + block(b"name")
    assert "more than is read" in only(data).fault
    with pytest.raises(ArchiveError, match="is cut short"):
        entries(block(b"pax", b"x", b"%o" % (200 << 20)) + bytes(4096))
    with pytest.raises(ArchiveError, match="more than is read"):
        entries(block(b"pax", b"L", b"77777777777") + bytes(4096))


@pytest.mark.parametrize("data", [b"\xff" * 512, b"text" * 128, block()[:500] + b"\1" * 12])
def test_what_is_no_header_stops_the_reading(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="no header"):
        entries(block(b"first") + data)


def test_a_stream_that_ends_in_headers_says_so() -> None:
    whole = extended((b"path", b"n" * 700)) + block()
    for length in range(1, len(whole), 37):
        with pytest.raises(ArchiveError, match=r"cut short|in the middle of"):
            entries(whole[:length])
    with pytest.raises(ArchiveError, match="in the middle of a member's headers"):
        entries(extended((b"path", b"y")) + bytes(1024))


# -- sparse files

RUNS = [(0, 512), (4096, 1024), (100_000, 100)]
SPARSE_SIZE = 200_000


def old_gnu(runs: list[tuple[int, int]], size: int = SPARSE_SIZE) -> bytes:
    fields = [b"%011o\0%011o\0" % run for run in runs]
    stored = sum(length for _, length in runs)
    made = bytearray(block(b"s", b"S", b"%o" % stored, magic=b"ustar  \0"))
    made[386:482] = b"".join(fields[:4]).ljust(96, b"\0")
    made[482] = len(fields) > 4
    made[483:495] = b"%011o\0" % size
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    for at in range(4, len(fields), 21):
        more = b"".join(fields[at : at + 21]).ljust(504, b"\0")
        made += more + bytes([len(fields) > at + 21]) + bytes(7)
    return bytes(made)


def pax_0_0(runs: list[tuple[int, int]], size: int = SPARSE_SIZE) -> bytes:
    records = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", b"%d" % len(runs))]
    for offset, length in runs:
        records += [(b"GNU.sparse.offset", b"%d" % offset)]
        records += [(b"GNU.sparse.numbytes", b"%d" % length)]
    return extended(*records) + block(b"s", b"0", b"%o" % sum(length for _, length in runs))


def pax_0_1(runs: list[tuple[int, int]], size: int = SPARSE_SIZE) -> bytes:
    records = [
        (b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.map", b",".join(b"%d,%d" % run for run in runs)),
    ]  # fmt: skip
    return extended(*records) + block(b"no", b"0", b"%o" % sum(length for _, length in runs))


def pax_1_0(runs: list[tuple[int, int]], size: int = SPARSE_SIZE) -> bytes:
    text = b"%d\n" % len(runs) + b"".join(b"%d\n%d\n" % run for run in runs)
    text += bytes(-len(text) % 512)
    records = [
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", b"%d" % size),
    ]  # fmt: skip
    stored = len(text) + sum(length for _, length in runs)
    return extended(*records) + block(b"no", b"0", b"%o" % stored) + text


FORMS = [old_gnu, pax_0_0, pax_0_1, pax_1_0]
Form = Callable[..., bytes]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 30, 200])
def test_the_map_of_a_sparse_file_is_read_in_all_four_forms(form: Form, count: int) -> None:
    """(case 35)"""
    runs = [(number * 1000, 100) for number in range(count)]
    head = form(runs)
    content = bytes(100 * count)
    data = head + content + bytes(-len(content) % 512) + block(b"next")
    entry, following = entries(data)
    assert (entry.name, entry.kind, entry.size, entry.fault) == (b"s", FILE, SPARSE_SIZE, "")
    assert entry.data_map == runs
    assert entry.stored_size == 100 * count
    assert entry.data == len(head)
    assert following.name == b"next"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "runs",
    [
        [(0, 200), (100, 100)], [(5000, 100), (0, 100)], [(SPARSE_SIZE, 512)],
        [(SPARSE_SIZE - 5, 512)], [(1 << 62, 1)],
    ],
)  # fmt: skip
def test_an_impossible_map_is_a_fault_and_what_follows_is_found(
    form: Form, runs: list[tuple[int, int]]
) -> None:
    content = bytes(sum(length for _, length in runs))
    data = form(runs) + content + bytes(-len(content) % 512) + block(b"next")
    entry, following = entries(data)
    assert "impossible map" in entry.fault
    assert following.name == b"next"


def test_maps_are_bounded() -> None:
    count = b"%d\n" % (MAX_RUNS + 1)
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"5")]
    endless = extended(*records) + block(b"s", b"0", b"77777777") + count.ljust(512, b"0")
    assert "impossible map" in HeaderReader().next(Stream(endless), 0).fault  # type: ignore[union-attr]
    lines = extended(*records) + block(b"s", b"0", b"77777777") + b"1" * 1024
    assert "impossible map" in HeaderReader().next(Stream(lines), 0).fault  # type: ignore[union-attr]


@pytest.mark.needs_tool("tar")
@pytest.mark.parametrize(
    "how",
    [
        ["--format=gnu"], ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"], ["--format=posix", "--sparse-version=1.0"],
    ],
)  # fmt: skip
def test_sparse_files_of_gnu_tar_are_understood(tmp_path: Path, how: list[str]) -> None:
    """(case 35)"""
    with (tmp_path / "s").open("wb") as out:
        out.truncate(10 << 20)
        for at in (0, 1 << 20, 5 << 20):
            out.seek(at)
            out.write(b"data%d" % at)
    (tmp_path / "t").write_bytes(b"after")
    subprocess.run(["tar", "-C", tmp_path, *how, "-Scf", tmp_path / "a.tar", "s", "t"], check=True)
    data = (tmp_path / "a.tar").read_bytes()
    sparse, after = entries(data)
    assert sparse.data_map
    at, found = sparse.data, bytearray(10 << 20)
    for offset, length in sparse.data_map:
        found[offset : offset + length] = data[at : at + length]
        at += length
    assert bytes(found) == (tmp_path / "s").read_bytes()
    assert data[after.data : after.data + after.size] == b"after"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_writes_is_read_as_tarfile_reads_it(form: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for number, kind in enumerate(
            (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)
        ):
            info = tarfile.TarInfo(f"folder/{'n' * 90}/{'m' * 60}{number}")
            info.type, info.mode, info.mtime = kind, 0o4755, NOON
            info.uid, info.gid, info.uname, info.gname = 5, 6, "u", "g"
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = "t" * 100
            if kind == tarfile.REGTYPE:
                info.size = 700
            archive.addfile(info, io.BytesIO(bytes(700)))
    found = entries(out.getvalue())
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        judged = archive.getmembers()
    assert [
        (one.name.decode(), one.size, one.mode, one.mtime_ns // 10**9, one.uid, one.gid, one.user,
         one.data, (one.link or b"").decode())
        for one in found
    ] == [
        (one.name, one.size, one.mode, one.mtime, one.uid, one.gid, one.uname.encode(),
         one.offset_data, one.linkname)
        for one in judged
    ]  # fmt: skip


def test_our_own_headers_come_back(tmp_path: Path) -> None:
    items = [
        tars.file(b"\xff" * 200, b"x", mtime_ns=-1),
        tars.file("ü".encode() * 200, attributes={b"user.x": b"\0\n"}),
        tars.file(b"s", b"y" * 512, data_map=((1024, 512),), real_size=1 << 40),
        tars.link(b"l", b"\xfe" * 300),
        tars.hard_link(b"h", b"s"),
        tars.folder(b"d"),
    ]
    found = entries(tars.tar(items))
    assert [(one.name, one.kind, one.size, one.mtime_ns) for one in found] == [
        (item.name, item.kind, item.size, item.mtime_ns) for item in items
    ]
    assert found[1].records == {b"SCHILY.xattr.user.x": b"\0\n"}
    assert (found[2].data_map, found[2].stored_size) == ([(1024, 512)], 512)
    assert (found[3].link, found[4].link) == (b"\xfe" * 300, b"s")


@pytest.mark.parametrize("item", [
    tars.file(b"a" * 100, b"x" * 700), tars.file(b"a", mtime_ns=NOON * 10**9), tars.folder(b"d"),
    tars.link(b"l", b"t"), tars.hard_link(b"h", b"t"),
])  # fmt: skip
def test_the_short_way_says_no_more_than_the_headers(item: tars.Item) -> None:
    head, content = item.blocks()
    size = len(content)
    assert says_only(head, item.kind, item.name, size)
    assert not says_only(head, item.kind, item.name, size + 1)
    assert not says_only(head, item.kind, item.name + b"a", size)
    assert not says_only(head, FIFO, item.name, size)
    for at in range(0, len(head), 7):
        broken = bytearray(head)
        broken[at] ^= 0x41
        told = says_only(bytes(broken), item.kind, item.name, size)
        if told:  # then it was a digit of the time, which has no checksum
            assert 512 + 9 <= at < 512 + 30
            assert only(bytes(broken)).name == item.name


@pytest.mark.parametrize("item", [
    tars.file(b"a" * 101), tars.file(b"a", attributes={b"user.a": b"b"}),
    tars.file(b"s", b"y" * 512, data_map=((1024, 512),), real_size=1 << 20),
    tars.link(b"l", b"t" * 101), tars.Item(b"p", kind=FIFO),
])  # fmt: skip
def test_what_has_more_to_tell_is_parsed(item: tars.Item) -> None:
    head, content = item.blocks()
    assert not says_only(head, item.kind, item.name, len(content))
