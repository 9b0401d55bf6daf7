"""The central directory of a ZIP archive: what the archive says it holds.

Layout after PKWARE's APPNOTE 6.3.10 (4.3 to 4.5); `zip_end` tells where it lies. Nothing is
believed before it was checked: sizes and offsets against the file, ranges against each other.
Whatever is wrong with the bytes ends in ArchiveError, whatever is wrong with reading them in
StorageError.
"""

from __future__ import annotations

import stat
import struct
import time
import zlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import msgspec

from pybak.display import printable
from pybak.entries import FIFO, FILE, FOLDER, LINK, UNKNOWN
from pybak.errors import ArchiveError
from pybak.formats import zip_records as zr
from pybak.formats.archive import Limits, TooLargeError
from pybak.formats.source import Source, damaged, pread_all
from pybak.formats.zip_end import End, find_end
from pybak.formats.zip_scan import scan
from pybak.units import format_count

PRECISION_NTFS: Final = 100
PRECISION_UNIX: Final = 1_000_000_000
PRECISION_DOS: Final = 2_000_000_000

METHODS: Final = (zr.STORED, zr.DEFLATED)
"""What can be unpacked."""
METHOD_AES: Final = 99
"""Encrypted by AES; the real method is in the field 0x9901."""

_EXTRA_UNICODE_PATH = 0x7075
_EXTRA_UNIX_OLD = 0x5855
_HOST_FAT, _HOST_UNIX, _HOST_NTFS, _HOST_VFAT, _HOST_DARWIN = 0, 3, 10, 14, 19
_DOS_HOSTS = frozenset({_HOST_FAT, _HOST_NTFS, _HOST_VFAT})
_UNIX_HOSTS = frozenset({_HOST_UNIX, _HOST_DARWIN})
_FLAG_STRONG = 1 << 6
_FLAG_MASKED = 1 << 13
_FLAGS_ENCRYPTED = zr.FLAG_ENCRYPTED | _FLAG_STRONG | _FLAG_MASKED
_NTFS_EPOCH = 116_444_736_000_000_000
_SIGN_OVERFLOWS = 2038


class Member(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="zip"):
    """One record of the central directory.

    `name` is the member's path as bytes, UTF-8 wherever the archive tells the encoding; a
    folder's ends with a slash. `raw_name` is what both headers hold. `offset` is where the local
    header lies in the file. `mode` is a Unix `st_mode`, 0 if the archive has none.
    """

    name: bytes
    raw_name: bytes
    flags: int
    method: int
    dos_time: int
    dos_date: int
    crc: int
    stored_size: int
    size: int
    offset: int
    mode: int
    extra: bytes

    @property
    def kind(self) -> str:
        """What it is, as a kind of `pybak.entries`."""
        kind = stat.S_IFMT(self.mode)
        if self.name.endswith(b"/") or kind == stat.S_IFDIR:
            return FOLDER
        if kind in (stat.S_IFREG, 0):
            return FILE
        if kind == stat.S_IFLNK:
            return LINK
        return FIFO if kind == stat.S_IFIFO else UNKNOWN

    @property
    def is_plain(self) -> bool:
        """Whether this version can unpack it: not encrypted, stored or deflated."""
        return not self.flags & _FLAGS_ENCRYPTED and self.method in METHODS

    @property
    def is_encrypted(self) -> bool:
        """Whether its data needs a password."""
        return bool(self.flags & _FLAGS_ENCRYPTED) or self.method == METHOD_AES

    def mtime(self) -> tuple[int, int]:
        """Give the modification time in ns since 1970 and how exact it is, in ns.

        The most exact of the fields there are; the DOS words, in local time, as a last resort.
        """
        unix: int | None = None
        for kind, data in zr.extra_fields(self.extra):
            if kind == zr.EXTRA_NTFS and len(data) >= 32 and data[4:8] == b"\x01\x00\x18\x00":
                ticks = int.from_bytes(data[8:16], "little")
                if ticks:
                    return (ticks - _NTFS_EPOCH) * 100, PRECISION_NTFS
            elif kind == zr.EXTRA_TIMES and len(data) >= 5 and data[0] & 1:
                unix = self._seconds(data[1:5])
            elif kind == _EXTRA_UNIX_OLD and len(data) >= 8 and unix is None:
                unix = self._seconds(data[4:8])
        if unix is not None:
            return unix * 1_000_000_000, PRECISION_UNIX
        return _dos_seconds(self.dos_time, self.dos_date) * 1_000_000_000, PRECISION_DOS

    def _seconds(self, data: bytes) -> int:
        """Read 32 bits that begin in 1902, or in 1970 where the DOS words say 2038 or later.

        Info-ZIP writes what is past January 2038 that way.
        """
        is_late = self.dos_date >> 9 >= _SIGN_OVERFLOWS - zr.DOS_FIRST_YEAR
        return int.from_bytes(data, "little", signed=not is_late)


def _dos_seconds(dos_time: int, dos_date: int) -> int:
    """Give the Unix time of DOS words, which hold local time; impossible dates are moved."""
    fields = (
        (dos_date >> 9) + zr.DOS_FIRST_YEAR, max(dos_date >> 5 & 15, 1), max(dos_date & 31, 1),
        dos_time >> 11, dos_time >> 5 & 63, (dos_time & 31) * 2, 0, 0, -1,
    )  # fmt: skip
    try:
        return int(time.mktime(fields))
    except (OverflowError, ValueError):
        return 0


class Directory(NamedTuple):
    """What an archive says it holds.

    `members` are all, or those that were asked for; `total` counts all. `limits[i]` is the
    position that the bytes of `members[i]` must not reach beyond: the next member's header, or
    the directory. `clashes` are the indexes of members whose bytes are claimed twice or lie
    outside; they can't be read.
    """

    members: list[Member]
    limits: list[int]
    clashes: frozenset[int]
    comment: bytes
    total: int


def read_directory(
    source: Source,
    *,
    max_members: int = Limits().members,
    names: AbstractSet[bytes] | None = None,
) -> Directory:
    """Read the central directory: about 3 us a member.

    Members come in the directory's order, which need not be that of the file. With `names` others
    than those called so may be left out, which takes a quarter of the time. Raises ArchiveError
    if the archive is cut short, damaged, split into volumes or no ZIP at all.
    """
    return _Reader(source).read(max_members, names)


class _Reader:
    """Reads the directory that the end records point to."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def _damaged(self, what: str, name: bytes | None = None) -> ArchiveError:
        if name is not None:
            return ArchiveError(f"{self._source.label}: member {printable(name)} {what}")
        return damaged(self._source, what)

    def read(self, max_members: int, names: AbstractSet[bytes] | None) -> Directory:
        end = find_end(self._source)
        if end.members > max_members:
            raise TooLargeError(
                f"{self._source.label}: claims {format_count(end.members, 'member')}, more than "
                "is allowed; if you trust it, raise --max-members"
            )
        data = pread_all(self._source, end.size, end.offset) if end.size else b""
        if names is not None:
            found = scan(data, names, members=end.members, base=end.base, directory_at=end.offset)
            if found is not None:
                count = len(found.limits)
                members = self._parse(found.records, end._replace(members=count))
                return Directory(members, found.limits, found.clashes, end.comment, found.total)
        members = self._parse(data, end)
        limits, clashes = _ranges(members, end.offset)
        return Directory(members, limits, clashes, end.comment, len(members))

    def _parse(self, data: bytes, end: End) -> list[Member]:
        members: list[Member] = []
        add = members.append
        unpack, head = zr.CENTRAL.unpack_from, zr.CENTRAL.size
        signature, unix = zr.CENTRAL_SIGNATURE, _HOST_UNIX
        at, stop, base = 0, len(data), end.base
        try:
            while at < stop:
                (
                    magic, made_by, _, flags, method, dos_time, dos_date, crc, stored_size, size,
                    name_size, extra_size, comment_size, disk, _, attributes, offset,
                ) = unpack(data, at)  # fmt: skip
                if magic != signature:
                    if members and len(members) == end.members:
                        break  # a digital signature may follow (APPNOTE 4.3.13)
                    raise self._damaged(f"has a damaged directory (record {len(members) + 1})")
                at += head
                raw_name = data[at : at + name_size]
                at += name_size
                extra = data[at : at + extra_size]
                at += extra_size + comment_size
                if at > stop:
                    raise self._damaged(f"has a damaged directory (record {len(members) + 1})")
                if (
                    size == zr.MAX32 or stored_size == zr.MAX32
                    or offset == zr.MAX32 or disk == zr.MAX16
                ):  # fmt: skip
                    numbers = wide_numbers(extra, size, stored_size, offset)
                    if numbers is None:
                        raise self._damaged("has a ZIP64 field that is too short", raw_name)
                    size, stored_size, offset = numbers
                host = made_by >> 8
                if host == unix and raw_name.isascii() and b"up" not in extra:
                    name = raw_name
                else:
                    name = _real_name(raw_name, extra, flags, host)
                add(
                    Member(
                        name, raw_name, flags, method, dos_time, dos_date, crc, stored_size,
                        size, offset + base,
                        attributes >> 16 if host == unix or host in _UNIX_HOSTS else 0, extra,
                    )
                )  # fmt: skip
        except struct.error as error:
            raise self._damaged("has a directory that is cut short") from error
        # Old writers without ZIP64 let the count run over.
        if len(members) != end.members and (end.is_zip64 or len(members) & zr.MAX16 != end.members):
            raise self._damaged(
                f"has a directory of {format_count(len(members), 'member')} where its end record "
                f"says {end.members}"
            )
        return members


def wide_numbers(
    extra: bytes, size: int, stored_size: int, offset: int
) -> tuple[int, int, int] | None:
    """Take the numbers that did not fit from the ZIP64 field (APPNOTE 4.5.3).

    None if the field is there and too short for them.
    """
    field = next((data for kind, data in zr.extra_fields(extra) if kind == zr.EXTRA_ZIP64), b"")
    at = 0
    values = []
    for value in (size, stored_size, offset):
        if value == zr.MAX32 and at + 8 <= len(field):
            values.append(int.from_bytes(field[at : at + 8], "little"))
            at += 8
        elif value == zr.MAX32 and field:
            return None
        else:
            values.append(value)
    return values[0], values[1], values[2]


def _real_name(raw_name: bytes, extra: bytes, flags: int, host: int) -> bytes:
    """Give a member's path as UTF-8 where the archive tells the encoding, else its bytes.

    Bit 11 says UTF-8. The field 0x7075 replaces the name if its CRC is that of the name (APPNOTE
    4.6.9). Other names from Unix are the file system's bytes, from DOS and Windows cp437.
    """
    name = raw_name
    if not flags & zr.FLAG_UTF8:
        for kind, data in zr.extra_fields(extra):
            if (
                kind == _EXTRA_UNICODE_PATH and len(data) > 5 and data[0] == 1
                and int.from_bytes(data[1:5], "little") == zlib.crc32(raw_name)
            ):  # fmt: skip
                name = data[5:]
                break
        else:
            if host not in _UNIX_HOSTS and not raw_name.isascii():
                name = raw_name.decode("cp437").encode()
    if host in _DOS_HOSTS and b"/" not in name:
        name = name.replace(b"\\", b"/")  # written by tools that knew only their own separator
    if host in _DOS_HOSTS and name[1:2] == b":" and name[:1].isalpha():
        name = name[2:]
    return name


def _ranges(members: list[Member], directory_at: int) -> tuple[list[int], frozenset[int]]:
    """Give for every member where its bytes must end, and the indexes of those that clash."""
    count = len(members)
    offsets = [member.offset for member in members]
    order: Sequence[int] = range(count)
    if any(map(int.__gt__, offsets, offsets[1:])):
        order = sorted(order, key=offsets.__getitem__)
    limits = [directory_at] * count
    clashes: set[int] = set()
    head = zr.LOCAL.size
    reach, reached_by, previous = 0, -1, -1
    for index in order:
        member = members[index]
        at = member.offset
        if previous >= 0:
            limits[previous] = min(at, directory_at)
        previous = index
        stop = at + head + len(member.raw_name) + member.stored_size
        if at < reach:
            clashes.add(index)
            clashes.add(reached_by)
        if stop > directory_at or at < 0:
            clashes.add(index)
        elif stop > reach:
            reach, reached_by = stop, index
    return limits, frozenset(clashes)
