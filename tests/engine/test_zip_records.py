"""ZIP records: what is written reads back, by our own eyes and by other programs."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from backing_up import run_tool
from hypothesis import given
from hypothesis import strategies as st

from pybak.formats import zip_records as zr

NAMES = st.one_of(
    st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name),
    st.text(min_size=1, max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
)
SIZES = st.integers(0, zr.MAX32 - 1)
TIMES = st.integers(-(2**62), 2**62)
IDS = st.integers(0, 2**32 - 1)
MODES = st.integers(0, 0xFFFF)


class Listed(NamedTuple):
    name: bytes
    sizes: tuple[int, int]
    offset: int
    rest: tuple[object, ...]


def walk_directory(records: bytes) -> Iterator[Listed]:
    """Read central directory records as APPNOTE 4.3.12 and 4.5.3 lay them out."""
    at = 0
    while at < len(records):
        fields = struct.unpack_from("<4s6H3I5H2I", records, at)
        assert fields[0] == b"PK\x01\x02"
        n, e, c = fields[10:13]
        name = records[at + 46 : at + 46 + n]
        extra = records[at + 46 + n : at + 46 + n + e]
        stored_size, size, offset = fields[8], fields[9], fields[16]
        others = b""
        while extra:
            kind, length = struct.unpack_from("<HH", extra)
            body, extra_here, extra = (
                extra[4 : 4 + length],
                extra[: 4 + length],
                extra[4 + length :],
            )
            if kind != 1:
                others += extra_here
                continue
            if size == 0xFFFFFFFF:
                size, body = struct.unpack("<Q", body[:8])[0], body[8:]
            if stored_size == 0xFFFFFFFF:
                stored_size, body = struct.unpack("<Q", body[:8])[0], body[8:]
            if offset == 0xFFFFFFFF:
                offset, body = struct.unpack("<Q", body[:8])[0], body[8:]
            assert body == b""
        yield Listed(name, (size, stored_size), offset, (fields[3:8], fields[13:16], others))
        at += 46 + n + e + c


@given(
    name=NAMES, is_folder=st.booleans(), method=st.sampled_from([0, 8]), crc=IDS,
    stored_size=SIZES, size=SIZES, offset=SIZES, mtime_ns=TIMES, uid=IDS, gid=IDS, mode=MODES,
    encrypted=st.booleans(),
)  # fmt: skip
def test_the_quick_way_gives_the_same_bytes(
    name: bytes, is_folder: bool, method: int, crc: int, stored_size: int, size: int, offset: int,
    mtime_ns: int, uid: int, gid: int, mode: int, encrypted: bool,
) -> None:  # fmt: skip
    name += b"/" if is_folder else b""
    dos, times = zr.dos_time(mtime_ns // 10**9), zr.time_extras(mtime_ns)
    flags = zr.name_flags(name)
    assert zr.small_member(
        name, method, crc, stored_size, size, offset, mtime_ns, uid, gid, mode, encrypted
    ) == (
        zr.local_header(
            name, method=method, crc=crc, stored_size=stored_size, size=size, dos=dos,
            extra=times + zr.owner_extra(uid, gid), flags=flags, encrypted=encrypted,
        ),
        zr.central_record(
            name, method=method, crc=crc, stored_size=stored_size, size=size, offset=offset,
            dos=dos, extra=times, flags=flags, mode=mode, encrypted=encrypted,
        ),
    )  # fmt: skip


@given(
    sizes=st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40)),
    offset=st.integers(0, 1 << 44), name=NAMES, mtime_ns=TIMES, mode=MODES,
)  # fmt: skip
def test_numbers_of_any_size_read_back(
    sizes: tuple[int, int], offset: int, name: bytes, mtime_ns: int, mode: int
) -> None:
    extra = zr.time_extras(mtime_ns)
    record = zr.central_record(
        name, method=8, crc=7, stored_size=sizes[1], size=sizes[0], offset=offset,
        dos=zr.dos_time(0), extra=extra, flags=0, mode=mode,
    )  # fmt: skip
    (found,) = walk_directory(record)
    assert (found.name, found.sizes, found.offset) == (name, sizes, offset)
    assert found.rest[2] == extra


@pytest.mark.parametrize("method", [zr.STORED, zr.DEFLATED])
@pytest.mark.parametrize("size", [5, zr.MAX32])
def test_an_encrypted_member_says_so_and_keeps_its_crc_to_itself(method: int, size: int) -> None:
    """WinZip AE-2: version 5.1, bit 0, method 99, no CRC, the real method in field 0x9901."""
    common = {
        "method": method, "crc": 77, "stored_size": 33, "size": size, "dos": zr.DosTime(0, 33),
        "extra": b"", "flags": zr.FLAG_UTF8, "encrypted": True,
    }  # fmt: skip
    aes = b"\x01\x99\x07\0\x02\0AE\x03" + bytes([method, 0])
    header = zr.local_header(b"n", **common)  # type: ignore[arg-type]
    assert zr.LOCAL.unpack_from(header)[1:4] == (51, zr.FLAG_UTF8 | 1, 99)
    assert zr.LOCAL.unpack_from(header)[6] == 0
    assert header.endswith(aes)
    record = zr.central_record(b"n", offset=0, mode=0o100644, **common)  # type: ignore[arg-type]
    assert zr.CENTRAL.unpack_from(record)[2:5] == (51, zr.FLAG_UTF8 | 1, 99)
    assert zr.CENTRAL.unpack_from(record)[7] == 0
    assert record.endswith(aes)
    assert zr.read_aes_field(aes) == (method, 16, False)


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (b"\x01\x99\x07\0\x01\0AE\x01\x08\0", (8, 8, True)),
        (b"UT\x01\0\x01\x01\x99\x07\0\x02\0AE\x02\0\0", (0, 12, False)),
        (b"\x01\x99\x07\0\x03\0AE\x03\x08\0", None),
        (b"\x01\x99\x07\0\x02\0AX\x03\x08\0", None),
        (b"\x01\x99\x07\0\x02\0AE\x04\x08\0", None),
        (b"\x01\x99\x06\0\x02\0AE\x03\x08", None),
        (b"\x01\x99\x07\0\x02\0AE\x03", None),
        (b"", None),
    ],
)
def test_the_field_of_an_encrypted_member_is_read_or_there_is_none(
    field: bytes, found: tuple[int, int, bool] | None
) -> None:
    assert zr.read_aes_field(field) == found


BORDER = [zr.MAX32 - 1, zr.MAX32, zr.MAX32 + 1]


@pytest.mark.parametrize("value", BORDER)
@pytest.mark.parametrize("force", [False, True])
def test_a_local_header_has_both_sizes_or_none_in_its_zip64_field(value: int, force: bool) -> None:
    header = zr.local_header(
        b"n", method=8, crc=1, stored_size=5, size=value, dos=zr.DosTime(0, 33), extra=b"",
        flags=0, force_zip64=force,
    )  # fmt: skip
    small = zr.LOCAL.unpack_from(header)[7:9]
    if value >= zr.MAX32 or force:
        assert small == (zr.MAX32, zr.MAX32)
        assert struct.unpack("<HHQQ", header[31:]) == (1, 16, value, 5)
    else:
        assert small == (5, value)
        assert header[31:] == b""


@given(
    members=st.lists(
        st.tuples(
            NAMES,
            SIZES,
            st.one_of(SIZES, st.integers(zr.MAX32 - 50, zr.MAX32 - 1)),
            TIMES,
            st.booleans(),
        ),
        max_size=8,
    ),
    base=st.one_of(
        st.integers(0, 200), st.integers(zr.MAX32 - 300, zr.MAX32 + 300), st.integers(0, 1 << 45)
    ),
)
def test_offsets_move_by_the_base_and_nothing_else_does(
    members: list[tuple[bytes, int, int, int, bool]], base: int
) -> None:
    """Also over 4 GiB, where they go into the ZIP64 field (case 36)."""
    records = b"".join(
        zr.small_member(name, 8, 1, size, size, offset, mtime, 0, 0, 0o100644, encrypted)[1]
        for name, size, offset, mtime, encrypted in members
    )
    before = list(walk_directory(records))
    after = list(walk_directory(zr.shift_central_records(records, base)))
    assert after == [one._replace(offset=one.offset + base) for one in before]


def test_an_encrypted_member_that_moves_over_4_gib_keeps_its_version() -> None:
    record = zr.small_member(b"n", 8, 1, 33, 5, 0, 0, 0, 0, 0o100644, encrypted=True)[1]
    assert struct.unpack_from("<HH", zr.shift_central_records(record, 1 << 33), 4) == (
        3 << 8 | 51,
        51,
    )


def forge(path: Path, base: int, count: int = 3) -> list[str]:
    """Write an archive of one member at its start, a hole, and the others from `base` on."""
    names, central = ["first"], b""
    header, first = zr.small_member(b"first", 0, 0, 0, 0, 0, 10**18, 0, 0, stat.S_IFREG | 0o640)
    with path.open("wb") as out:
        out.write(header)
        out.seek(base)
        at = 0
        for number in range(count):
            name, data = f"member{number}", b"content %d" % number
            header, record = zr.small_member(
                name.encode(), 0, zipfile.crc32(data), len(data), len(data), at, 10**18, 0, 0,
                stat.S_IFREG | 0o640,
            )  # fmt: skip
            out.write(header + data)
            at += len(header) + len(data)
            central += record
            names.append(name)
        central = first + zr.shift_central_records(central, base)
        out.write(central + zr.end_records(count + 1, len(central), base + at))
    return names


@pytest.mark.needs_tool("7zz", "unzip")
@pytest.mark.parametrize("base", [100, zr.MAX32 - 60, zr.MAX32 - 1, zr.MAX32, 5 << 30, 1 << 40])
def test_other_programs_find_members_behind_4_gib(tmp_path: Path, base: int) -> None:
    """Between `MAX32 - 60` and its end one archive has offsets of both kinds (case 36)."""
    path = tmp_path / "a.zip"
    names = forge(path, base)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == names
        assert archive.testzip() is None
        assert archive.read("member2") == b"content 2"
    assert "Everything is Ok" in run_tool("7zz", "t", path)
    run_tool("unzip", "-tqq", path)


@pytest.mark.needs_tool("7zz", "unzip", "bsdtar")
@pytest.mark.parametrize("count", [65_534, 65_535, 65_536])
def test_other_programs_count_more_members_than_16_bits_hold(tmp_path: Path, count: int) -> None:
    """(case 37)"""
    out, central = io.BytesIO(), []
    for number in range(count):
        header, record = zr.small_member(
            b"%d" % number, 0, 0, 0, 0, out.tell(), 10**18, 0, 0, stat.S_IFREG | 0o644
        )
        out.write(header)
        central.append(record)
    directory = b"".join(central)
    out.write(directory + zr.end_records(count, len(directory), out.tell()))
    path = tmp_path / "a.zip"
    path.write_bytes(out.getvalue())
    assert (zr.END64_SIGNATURE in out.getvalue()[-200:]) is (count >= 65_535)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == count
    assert f"Files: {count}" in run_tool("7zz", "t", path)
    assert len(run_tool("bsdtar", "-tf", path).splitlines()) == count


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        (-(10**18), (1980, 1, 1, 0, 0, 0)),
        (-1, (1980, 1, 1, 0, 0, 0)),
        (0, (1980, 1, 1, 0, 0, 0)),
        (315_532_799, (1980, 1, 1, 0, 0, 0)),
        (315_532_802, (1980, 1, 1, 0, 0, 2)),
        (4_354_819_198, (2107, 12, 31, 23, 59, 58)),
        (4_354_819_200, (2107, 12, 31, 23, 59, 58)),
        (10**12, (2107, 12, 31, 23, 59, 58)),
        (10**30, (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_dos_times_are_clamped(seconds: int, want: tuple[int, ...]) -> None:
    """In UTC, which is the tests' time zone (case 20)."""
    assert read_dos(zr.dos_time(seconds)) == want


def read_dos(dos: zr.DosTime) -> tuple[int, ...]:
    """Decode as Python's zipfile does."""
    date, clock = dos.date, dos.time
    return (
        (date >> 9) + 1980, (date >> 5) & 15, date & 31,
        clock >> 11, (clock >> 5) & 63, (clock & 31) * 2,
    )  # fmt: skip


@given(st.integers(315_532_800, 4_354_819_199))
def test_dos_times_are_local_to_two_seconds(seconds: int) -> None:
    assert read_dos(zr.dos_time(seconds)) == time.localtime(seconds - seconds % 2)[:6]


@given(TIMES)
def test_times_outlive_their_field(mtime_ns: int) -> None:
    """0x5455 where it can hold them, else 0x000a, else none; never an error (case 20)."""
    fields = dict(zr.extra_fields(zr.time_extras(mtime_ns)))
    if 0 <= mtime_ns < (1 << 31) * 10**9:
        assert fields == {0x5455: struct.pack("<Bi", 1, mtime_ns // 10**9)}
    elif mtime_ns // 100 + 116_444_736_000_000_000 >= 0:
        ticks = struct.unpack("<IHHQQQ", fields.pop(0x000A))[3:]
        assert set(ticks) == {mtime_ns // 100 + 116_444_736_000_000_000}
        assert fields == {}
    else:
        assert fields == {}


@pytest.mark.needs_tool("7zz")
@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-86_400, "1969-12-31 00:00:00"),
        (1_700_000_000, "2023-11-14 22:13:20"),
        (1 << 31, "2038-01-19 03:14:08"),
        (9_183_110_400, "2261-01-01 00:00:00"),
    ],
)
def test_seven_zip_shows_times_outside_of_32_bits(tmp_path: Path, seconds: int, shown: str) -> None:
    """(case 20)"""
    header, record = zr.small_member(b"n", 0, 0, 0, 0, 0, seconds * 10**9, 0, 0, 0o100644)
    path = tmp_path / "a.zip"
    path.write_bytes(header + record + zr.end_records(1, len(record), len(header)))
    said = run_tool("7zz", "l", "-slt", path)
    assert re.findall(r"^Modified = (\S+ [\d:]+)", said, re.MULTILINE) == [shown]


@pytest.mark.parametrize(
    ("name", "is_utf8"),
    [
        (b"plain", True),
        ("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n \N{SNOWMAN}".encode(), True),
        (b"\xff\xfe", False),
        (b"latin \xe9", False),
        (b"\xed\xa0\x80", False),  # a surrogate, which UTF-8 does not hold
    ],
)
def test_the_utf8_flag_tells_the_truth(name: bytes, is_utf8: bool) -> None:
    """A reader may refuse the whole archive otherwise (case 3)."""
    assert zr.name_flags(name) == (zr.FLAG_UTF8 if is_utf8 else 0)
    header, record = zr.small_member(name, 0, 0, 0, 0, 0, 0, 0, 0, 0o100644)
    data = header + record + zr.end_records(1, len(record), len(header))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (shown,) = archive.namelist()
    assert shown == (name.decode() if is_utf8 else name.decode("cp437"))


@given(st.binary(max_size=60))
def test_extra_fields_of_any_bytes_are_no_error(extra: bytes) -> None:
    fields = list(zr.extra_fields(extra))
    packed = b"".join(struct.pack("<HH", kind, len(body)) + body for kind, body in fields)
    assert extra.startswith(packed)


def test_owner_ids_of_32_bits_fit() -> None:
    (field,) = zr.extra_fields(zr.owner_extra(2**32 - 2, -2))
    assert field == (0x7875, struct.pack("<BBIBI", 1, 4, 2**32 - 2, 4, 2**32 - 2))


def test_names_of_65535_bytes_fit() -> None:
    header, record = zr.small_member(os.fsencode("n" * zr.MAX_NAME), 0, 0, 0, 0, 0, 0, 0, 0, 0)
    (found,) = walk_directory(record)
    assert len(found.name) == zr.MAX_NAME
    assert len(header) > zr.MAX_NAME
