"""The records that a ZIP file is made of, as bytes.

Names and numbers follow PKWARE's APPNOTE 6.3.10 (section 4.3 and 4.5); the extra fields 0x5455
and 0x7875 follow Info-ZIP's `extrafld.txt`, encrypted members WinZip's "AES Encryption
Information" (AE-2). No I/O: values in, bytes out, and back.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

STORED: Final = 0
DEFLATED: Final = 8
AES: Final = 99
"""In the headers of an encrypted member; the real method is in the field EXTRA_AES."""

FLAG_ENCRYPTED: Final = 1 << 0
FLAG_DESCRIPTOR: Final = 1 << 3
FLAG_UTF8: Final = 1 << 11

LOCAL_SIGNATURE: Final = b"PK\x03\x04"
CENTRAL_SIGNATURE: Final = b"PK\x01\x02"
END_SIGNATURE: Final = b"PK\x05\x06"
END64_SIGNATURE: Final = b"PK\x06\x06"
END64_LOCATOR_SIGNATURE: Final = b"PK\x06\x07"

MAX32: Final = 0xFFFFFFFF  # also the sentinel for "look into the ZIP64 field"
MAX16: Final = 0xFFFF
MAX_NAME: Final = MAX16

EXTRA_ZIP64: Final = 0x0001
EXTRA_NTFS: Final = 0x000A
EXTRA_TIMES: Final = 0x5455
EXTRA_OWNER: Final = 0x7875
EXTRA_AES: Final = 0x9901

_MADE_BY_UNIX = 3 << 8
_VERSION_DEFAULT = 20
_VERSION_ZIP64 = 45
_VERSION_AES = 51
_DOS_FOLDER = 0x10
_SLASH = 0x2F

LOCAL: Final = struct.Struct("<4s5H3I2H")
CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
END: Final = struct.Struct("<4s4H2IH")
END64: Final = struct.Struct("<4sQ2H2I4Q")
END64_LOCATOR: Final = struct.Struct("<4sIQI")
_EXTRA_HEAD = struct.Struct("<HH")
_NAME_LENGTH_AT = 28
_OFFSET_AT = 42
_LOCAL_ZIP64 = struct.Struct("<HHQQ")
_TIMES = struct.Struct("<HHBi")
_OWNER = struct.Struct("<HHBBIBI")
_NTFS = struct.Struct("<HHIHHQQQ")
_AES = struct.Struct("<HHH2sBH")
_AE1 = 1
_AE2 = 2
_AES_VENDOR = b"AE"
_AES256 = 3
_AES_SALT_SIZES = {1: 8, 2: 12, 3: 16}  # strength 1 is AES-128, 2 is 192, 3 is 256
_NTFS_EPOCH = 116_444_736_000_000_000  # 1601-01-01, in units of 100 ns before 1970

DOS_FIRST_YEAR: Final = 1980
DOS_LAST_YEAR: Final = 2107
_SURELY_DOS_FROM = 316_000_000  # 1980-01-06 and 2107-12-26: the same year in every time zone
_SURELY_DOS_TO = 4_354_300_000


class DosTime(NamedTuple):
    """MS-DOS time and date words; they are local time, to two seconds."""

    time: int
    date: int


@lru_cache(maxsize=4096)
def dos_time(seconds: int) -> DosTime:
    """Give the DOS words for a Unix time, clamped to what they hold (1980 to 2107)."""
    try:
        at = time.localtime(seconds)
    except (OverflowError, OSError, ValueError):
        at = None
    if at is None or at.tm_year > DOS_LAST_YEAR:
        if seconds < 0:
            return DosTime(0, 1 << 5 | 1)
        return DosTime(
            23 << 11 | 59 << 5 | 29, (DOS_LAST_YEAR - DOS_FIRST_YEAR) << 9 | 12 << 5 | 31
        )
    if at.tm_year < DOS_FIRST_YEAR:
        return DosTime(0, 1 << 5 | 1)
    return DosTime(
        at.tm_hour << 11 | at.tm_min << 5 | min(at.tm_sec, 59) // 2,
        (at.tm_year - DOS_FIRST_YEAR) << 9 | at.tm_mon << 5 | at.tm_mday,
    )


def fits_dos(seconds: int) -> bool:
    """Whether DOS words can hold a Unix time; `dos_time` clamps others."""
    if _SURELY_DOS_FROM <= seconds < _SURELY_DOS_TO:
        return True
    try:
        return DOS_FIRST_YEAR <= time.localtime(seconds).tm_year <= DOS_LAST_YEAR
    except (OverflowError, OSError, ValueError):
        return False


def time_extras(mtime_ns: int) -> bytes:
    """Give the extra fields that hold a modification time in UTC.

    0x5455 holds whole seconds from 1970 to 2038. Outside of that range, the NTFS field 0x000a
    (100 ns from 1601 on) takes its place, which 7-Zip reads.
    """
    seconds = mtime_ns // 1_000_000_000
    if 0 <= seconds < 1 << 31:
        return _TIMES.pack(EXTRA_TIMES, 5, 1, seconds)
    ticks = mtime_ns // 100 + _NTFS_EPOCH
    if 0 <= ticks < 1 << 63:
        return _NTFS.pack(EXTRA_NTFS, 32, 0, 1, 24, ticks, ticks, ticks)
    return b""


@lru_cache(maxsize=256)
def owner_extra(uid: int, gid: int) -> bytes:
    """Give the extra field 0x7875 (local header only) with numeric owner and group."""
    return _OWNER.pack(EXTRA_OWNER, 11, 1, 4, uid & MAX32, 4, gid & MAX32)


class AesField(NamedTuple):
    """What the extra field 0x9901 tells of an encrypted member.

    `method` is how its data was packed before it was encrypted, `salt_size` is in bytes.
    `has_crc` tells AE-1, whose headers hold the CRC-32, from AE-2, whose CRC-32 is 0.
    """

    method: int
    salt_size: int
    has_crc: bool


_AES_EXTRAS = {
    method: _AES.pack(EXTRA_AES, 7, _AE2, _AES_VENDOR, _AES256, method)
    for method in (STORED, DEFLATED)
}


def read_aes_field(extra: bytes) -> AesField | None:
    """Read the field 0x9901 of a member's extra fields; None without one that makes sense."""
    for kind, data in extra_fields(extra):
        if kind == EXTRA_AES and len(data) >= 7:
            _, _, version, vendor, strength, method = _AES.unpack(bytes(4) + data[:7])
            if version in (_AE1, _AE2) and vendor == _AES_VENDOR and strength in _AES_SALT_SIZES:
                return AesField(method, _AES_SALT_SIZES[strength], version == _AE1)
    return None


def name_flags(name: bytes) -> int:
    """Give bit 11 if the name is UTF-8. Other names go in as raw bytes without it.

    Bit 11 on bytes that are not UTF-8 makes some readers refuse the whole archive.
    """
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return 0
    return FLAG_UTF8


def local_header(
    name: bytes,
    *,
    method: int,
    crc: int,
    stored_size: int,
    size: int,
    dos: DosTime,
    extra: bytes,
    flags: int,
    force_zip64: bool = False,
    encrypted: bool = False,
) -> bytes:
    """Give the header that stands before a member's data (APPNOTE 4.3.7).

    `force_zip64` makes its length independent of the sizes, for a header written after its data.
    `encrypted` makes it that of an AE-2 member: `method` is what was done before, `stored_size`
    counts what encryption adds, `crc` is not told.
    """
    version = _VERSION_DEFAULT
    if encrypted:
        extra += _AES_EXTRAS[method]
        version, flags, method, crc = _VERSION_AES, flags | FLAG_ENCRYPTED, AES, 0
    if force_zip64 or stored_size >= MAX32 or size >= MAX32:
        extra = _LOCAL_ZIP64.pack(EXTRA_ZIP64, 16, size, stored_size) + extra
        stored_size = size = MAX32
        version = max(version, _VERSION_ZIP64)
    return (
        LOCAL.pack(
            LOCAL_SIGNATURE, version, flags, method, dos.time, dos.date,
            crc, stored_size, size, len(name), len(extra),
        )
        + name
        + extra
    )  # fmt: skip


def central_record(
    name: bytes,
    *,
    method: int,
    crc: int,
    stored_size: int,
    size: int,
    offset: int,
    dos: DosTime,
    extra: bytes,
    flags: int,
    mode: int,
    encrypted: bool = False,
) -> bytes:
    """Give a member's entry in the central directory (APPNOTE 4.3.12).

    `mode` is a whole Unix `st_mode`, file type included; a folder's `name` ends with a slash.
    `encrypted` is as for `local_header`.
    """
    wide = [value for value in (size, stored_size, offset) if value >= MAX32]
    version = _VERSION_DEFAULT
    if encrypted:
        extra += _AES_EXTRAS[method]
        version, flags, method, crc = _VERSION_AES, flags | FLAG_ENCRYPTED, AES, 0
    if wide:
        extra = struct.pack(f"<HH{len(wide)}Q", EXTRA_ZIP64, 8 * len(wide), *wide) + extra
        version = max(version, _VERSION_ZIP64)
    return (
        CENTRAL.pack(
            CENTRAL_SIGNATURE, _MADE_BY_UNIX | version, version, flags, method,
            dos.time, dos.date, crc, min(stored_size, MAX32), min(size, MAX32),
            len(name), len(extra), 0, 0, 0,
            mode << 16 | (_DOS_FOLDER if name.endswith(b"/") else 0), min(offset, MAX32),
        )
        + name
        + extra
    )  # fmt: skip


def small_member(
    name: bytes,
    method: int,
    crc: int,
    stored_size: int,
    size: int,
    offset: int,
    mtime_ns: int,
    uid: int,
    gid: int,
    mode: int,
    encrypted: bool = False,
) -> tuple[bytes, bytes]:
    """Give local header and central record of a member whose sizes and offset are below 4 GiB.

    The same bytes as `local_header` and `central_record` make with the member's times and owner,
    at a third of the time: this is called for every small file.
    """
    seconds = mtime_ns // 1_000_000_000
    dos_clock, dos_date = dos_time(seconds)
    times = (
        _TIMES.pack(EXTRA_TIMES, 5, 1, seconds) if 0 <= seconds < 1 << 31 else time_extras(mtime_ns)
    )
    extra = times + owner_extra(uid, gid)
    flags = FLAG_UTF8 if name.isascii() else name_flags(name)
    length = len(name)
    version = _VERSION_DEFAULT
    if encrypted:
        extra += _AES_EXTRAS[method]
        times += _AES_EXTRAS[method]
        version, flags, method, crc = _VERSION_AES, flags | FLAG_ENCRYPTED, AES, 0
    return (
        LOCAL.pack(
            LOCAL_SIGNATURE, version, flags, method, dos_clock, dos_date,
            crc, stored_size, size, length, len(extra),
        )
        + name
        + extra,
        CENTRAL.pack(
            CENTRAL_SIGNATURE, _MADE_BY_UNIX | version, version, flags, method,
            dos_clock, dos_date, crc, stored_size, size, length, len(times), 0, 0, 0,
            mode << 16 | (_DOS_FOLDER if name[-1] == _SLASH else 0), offset,
        )
        + name
        + times,
    )  # fmt: skip


def shift_central_records(records: bytes, base: int) -> bytes:
    """Add `base` to the offset of every central record in `records`.

    The offsets in `records` must be below 4 GiB and not in a ZIP64 field; those that reach it
    by the shift move into one. One pass, about a microsecond a record.
    """
    out = bytearray(records)
    unpack_lengths = struct.Struct("<HHH").unpack_from
    offset_field = struct.Struct("<I")
    at, end = 0, len(out)
    overflow = []
    while at < end:
        name_length, extra_length, comment_length = unpack_lengths(out, at + _NAME_LENGTH_AT)
        offset = offset_field.unpack_from(out, at + _OFFSET_AT)[0] + base
        if offset < MAX32:
            offset_field.pack_into(out, at + _OFFSET_AT, offset)
        else:
            overflow.append((at, offset))
        at += CENTRAL.size + name_length + extra_length + comment_length
    return _widen_offsets(out, overflow) if overflow else bytes(out)


def _widen_offsets(records: bytearray, overflow: list[tuple[int, int]]) -> bytes:
    """Move the given (position, offset) pairs of `records` into ZIP64 fields."""
    pieces: list[bytes] = []
    done = 0
    for at, offset in overflow:
        pieces.append(bytes(records[done:at]))
        fields = list(CENTRAL.unpack_from(records, at))
        name_length, extra_length = fields[10], fields[11]
        done = at + CENTRAL.size + name_length + extra_length
        body = bytes(records[at + CENTRAL.size : done])
        name, extra = body[:name_length], body[name_length:]
        fields[2] = max(fields[2], _VERSION_ZIP64)
        fields[1] = _MADE_BY_UNIX | fields[2]
        extra = _EXTRA_HEAD.pack(EXTRA_ZIP64, 8) + struct.pack("<Q", offset) + extra
        fields[11], fields[16] = len(extra), MAX32
        pieces.append(CENTRAL.pack(*fields) + name + extra)
    pieces.append(bytes(records[done:]))
    return b"".join(pieces)


def end_records(count: int, directory_size: int, directory_offset: int) -> bytes:
    """Give the end of a ZIP file: ZIP64 records if any number needs them, then the classic one."""
    zip64 = b""
    if count >= MAX16 or directory_size >= MAX32 or directory_offset >= MAX32:
        version = _MADE_BY_UNIX | _VERSION_ZIP64
        zip64 = END64.pack(
            END64_SIGNATURE, END64.size - 12, version, _VERSION_ZIP64, 0, 0,
            count, count, directory_size, directory_offset,
        ) + END64_LOCATOR.pack(
            END64_LOCATOR_SIGNATURE, 0, directory_offset + directory_size, 1
        )  # fmt: skip
    return zip64 + END.pack(
        END_SIGNATURE, 0, 0, min(count, MAX16), min(count, MAX16),
        min(directory_size, MAX32), min(directory_offset, MAX32), 0,
    )  # fmt: skip


def extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (id, data) of every whole extra field; a torn tail is left out."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = _EXTRA_HEAD.unpack_from(extra, at)
        at += 4
        if at + length > len(extra):
            return
        yield kind, extra[at : at + length]
        at += length
