"""ZIP archives read back: their directory, and the data of single members.

Layout after PKWARE's APPNOTE 6.3.10 (4.3 to 4.5). The directory at the end decides what an
archive holds; each local header must agree with it. Nothing in an archive is believed before it
was checked: sizes and offsets against the file, ranges against each other, data against its
declared size and CRC-32. Whatever is wrong with the bytes ends in ArchiveError, whatever is
wrong with reading them in StorageError; memory does not grow with what a header claims.
"""

from __future__ import annotations

import os
import stat
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec
from isal import igzip_lib, isal_zlib

from pybak.display import printable
from pybak.entries import FIFO, FILE, FOLDER, LINK, UNKNOWN
from pybak.errors import ArchiveError, NotFoundError, PlanError, StorageError
from pybak.formats import zip_records as zr
from pybak.units import format_count, format_size

CHUNK: Final = 1 << 20
"""The most bytes that a chunk of a member holds."""
ONE_SHOT: Final = CHUNK
"""Members up to this size, stored and unpacked, are read in one piece."""

MAX_ID: Final = 0xFFFFFFFE
"""The largest user or group id; one more means "leave it as it is" to the system."""

PRECISION_NTFS: Final = 100
PRECISION_UNIX: Final = 1_000_000_000
PRECISION_DOS: Final = 2_000_000_000

_MAX_DIRECTORY = 2 << 30
_MAX_COMMENT = 0xFFFF
_READ = 256 << 10  # deflated bytes fetched at once for a large member
_LOCAL_SLACK = 64  # room for the local extra fields that PyBak and Info-ZIP write
# Deflate can't do better than 258 bytes in two bits; isal may round the last block up.
_DEFLATE_RATIO = 1032
_DEFLATE_SLOP = 4096

_EXTRA_UNICODE_PATH = 0x7075
_EXTRA_UNIX_OLD = 0x5855
_HOST_FAT, _HOST_UNIX, _HOST_NTFS, _HOST_VFAT, _HOST_DARWIN = 0, 3, 10, 14, 19
_DOS_HOSTS = frozenset({_HOST_FAT, _HOST_NTFS, _HOST_VFAT})
_UNIX_HOSTS = frozenset({_HOST_UNIX, _HOST_DARWIN})
_FLAG_STRONG = 1 << 6
_FLAG_MASKED = 1 << 13
_FLAGS_ENCRYPTED = zr.FLAG_ENCRYPTED | _FLAG_STRONG | _FLAG_MASKED
_METHODS = (zr.STORED, zr.DEFLATED)
_METHOD_AES = 99
_METHOD_NAMES = {
    1: "shrink", 6: "implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard",
    95: "xz", 98: "PPMd",
}  # fmt: skip
_NTFS_EPOCH = 116_444_736_000_000_000


class Member(msgspec.Struct, frozen=True, array_like=True, gc=False):
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
        return not self.flags & _FLAGS_ENCRYPTED and self.method in _METHODS

    @property
    def is_encrypted(self) -> bool:
        """Whether its data needs a password."""
        return bool(self.flags & _FLAGS_ENCRYPTED) or self.method == _METHOD_AES

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
                unix = int.from_bytes(data[1:5], "little", signed=True)
            elif kind == _EXTRA_UNIX_OLD and len(data) >= 8 and unix is None:
                unix = int.from_bytes(data[4:8], "little", signed=True)
        if unix is not None:
            return unix * 1_000_000_000, PRECISION_UNIX
        return _dos_seconds(self.dos_time, self.dos_date) * 1_000_000_000, PRECISION_DOS


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

    `limits[i]` is the position that the bytes of `members[i]` must not reach beyond: the next
    member's header, or the directory. `clashes` are the indexes of members whose bytes are
    claimed twice or lie outside; they can't be read.
    """

    members: list[Member]
    limits: list[int]
    clashes: frozenset[int]
    comment: bytes


class Limits(msgspec.Struct, frozen=True):
    """What an archive may unpack to before it is taken for a bomb.

    An archive that unpacks to no more than `free_size` bytes is never refused for its ratio.
    """

    members: int = 20_000_000
    ratio: float = 250.0
    free_size: int = 16 << 30


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """What must stay the same about an archive file while it is being read by many."""

    size: int
    mtime_ns: int
    inode: int


class ZipFile:
    """An open archive: reads its directory and its members. A context manager.

    Threads may share one; every read names its own position. `path` may be a file descriptor,
    which stays open when the ZipFile is closed; `label` names it in messages then.
    Raises NotFoundError for a missing file, PlanError for what is no regular file.
    """

    def __init__(self, path: bytes | int, *, label: str | None = None) -> None:
        self.label = label or (printable(path) if isinstance(path, bytes) else "the archive")
        self._owns_fd = isinstance(path, bytes)
        try:
            if isinstance(path, bytes):
                # O_NONBLOCK: opening a FIFO by mistake must not wait for its other end.
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            else:
                self._fd = path
            status = os.fstat(self._fd)
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.label}: no such archive; check the path") from error
        except OSError as error:
            raise StorageError(f"{self.label}: can't be opened ({error.strerror})") from error
        except ValueError as error:
            raise PlanError(f"{self.label}: is no path ({error})") from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise PlanError(f"{self.label}: is no file; name an archive")
        self.size = status.st_size
        self.identity = Identity(status.st_size, status.st_mtime_ns, status.st_ino)

    def close(self) -> None:
        """Close the file if this opened it."""
        if self._owns_fd and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            message = f"{self.label}: can't be read at byte {offset} ({error.strerror})"
            raise StorageError(message, retryable=True) from error

    def _pread_all(self, length: int, offset: int) -> bytes:
        """Read exactly `length` bytes; `pread` alone stops at 2 GiB."""
        pieces = []
        while length:
            piece = self._pread(min(length, 64 << 20), offset)
            if not piece:
                raise self._damaged("is cut short")
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _damaged(self, what: str, name: bytes | None = None) -> ArchiveError:
        if name is not None:
            return ArchiveError(f"{self.label}: member {printable(name)} {what}")
        return ArchiveError(f"{self.label}: {what}; use another copy of it")

    # -- the directory

    def directory(self, *, max_members: int = Limits().members) -> Directory:
        """Read the central directory: about 3 us a member.

        Members come in the directory's order, which need not be that of the file. Raises
        ArchiveError if the archive is cut short, damaged, split into volumes or no ZIP at all.
        """
        end = self._find_end()
        if end.members > max_members:
            raise self._damaged(
                f"claims {format_count(end.members, 'member')}, more than is allowed"
            )
        data = self._pread_all(end.size, end.offset) if end.size else b""
        members = self._parse(data, end)
        limits, clashes = _ranges(members, end.offset)
        return Directory(members, limits, clashes, end.comment)

    def _find_end(self) -> _End:
        tail_size = min(self.size, zr.END.size + _MAX_COMMENT)
        tail_at = self.size - tail_size
        tail = self._pread_all(tail_size, tail_at) if tail_size else b""
        failure: ArchiveError | None = None
        exact: list[_End] = []
        loose: list[_End] = []
        at = tail.rfind(zr.END_SIGNATURE)
        while at >= 0:
            try:
                end = self._read_end(tail, at, tail_at)
            except ArchiveError as error:
                # These four bytes may stand in a comment or in trailing bytes; look further up,
                # and blame the record nearest to the end if there is no good one.
                failure = failure or error
            else:
                is_exact = at + zr.END.size + len(end.comment) == len(tail)
                (exact if is_exact else loose).append(end)
            at = tail.rfind(zr.END_SIGNATURE, 0, at + len(zr.END_SIGNATURE) - 1)
        if len(exact) > 1:
            raise self._damaged("has two ends, so that two programs may see two archives in it")
        for end in exact or loose:
            return end
        if failure:
            raise failure
        if self._pread(4, 0) in (zr.LOCAL_SIGNATURE, zr.CENTRAL_SIGNATURE):
            raise self._damaged("has no end record, so it is cut short")
        raise ArchiveError(f"{self.label}: is no ZIP archive")

    def _read_end(self, tail: bytes, at: int, tail_at: int) -> _End:
        if at + zr.END.size > len(tail):
            raise self._damaged("is cut short in its end record")
        _, disk, first_disk, disk_count, count, size, offset, comment_size = zr.END.unpack_from(
            tail, at
        )
        comment = tail[at + zr.END.size : at + zr.END.size + comment_size]
        if len(comment) != comment_size:
            raise self._damaged("is cut short in its comment")
        end_at = tail_at + at
        classic = (disk, first_disk, disk_count, count, size, offset)
        wide = self._read_end64(end_at)
        if wide is not None:
            narrow_limits = (zr.MAX16,) * 4 + (zr.MAX32,) * 2
            for narrow, limit, number in zip(classic, narrow_limits, wide[:-1], strict=True):
                if narrow not in (limit, number):
                    raise self._damaged("has two end records that contradict each other")
            end_at = wide[-1]
            disk, first_disk, disk_count, count, size, offset = wide[:-1]
        if disk or first_disk or disk_count != count:
            raise self._damaged("is one volume of a split archive, which this version can't open")
        base = end_at - size - offset
        if base < 0 or size > _MAX_DIRECTORY or count * zr.CENTRAL.size > size:
            raise self._damaged(
                "has an end record that does not fit the file: cut short or damaged"
            )
        # Bytes before the archive (a self-extractor) move everything, unless a tool counted
        # them in. Bytes between directory and end record (a signature) move nothing.
        for start in (base, 0):
            if not count or self._pread(4, offset + start) == zr.CENTRAL_SIGNATURE:
                return _End(count, size, offset + start, start, wide is not None, comment)
        raise self._damaged("has no directory where its end record says")

    def _read_end64(self, end_at: int) -> tuple[int, int, int, int, int, int, int] | None:
        """Give the numbers of the ZIP64 end record and its position, or None without one."""
        locator_at = end_at - zr.END64_LOCATOR.size
        if locator_at < 0:
            return None
        locator = self._pread(zr.END64_LOCATOR.size, locator_at)
        if locator[:4] != zr.END64_LOCATOR_SIGNATURE or len(locator) < zr.END64_LOCATOR.size:
            return None
        _, disk, said_at, disks = zr.END64_LOCATOR.unpack(locator)
        if disk or disks > 1:
            raise self._damaged("is one volume of a split archive, which this version can't open")
        for at in (said_at, locator_at - zr.END64.size):
            if not 0 <= at <= locator_at - zr.END64.size:
                continue
            record = self._pread_all(zr.END64.size, at)
            if record[:4] == zr.END64_SIGNATURE:
                fields = zr.END64.unpack(record)
                if at + 12 + fields[1] != locator_at:
                    continue
                return (*fields[4:10], at)
        raise self._damaged("has no ZIP64 end record where its locator says")

    def _parse(self, data: bytes, end: _End) -> list[Member]:
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
                    size, stored_size, offset = self._wide(
                        extra, raw_name, size, stored_size, offset
                    )
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

    def _wide(
        self, extra: bytes, name: bytes, size: int, stored_size: int, offset: int
    ) -> tuple[int, int, int]:
        """Take the numbers that did not fit from the ZIP64 field (APPNOTE 4.5.3)."""
        field = next((data for kind, data in zr.extra_fields(extra) if kind == zr.EXTRA_ZIP64), b"")
        at = 0
        values = []
        for value in (size, stored_size, offset):
            if value == zr.MAX32 and at + 8 <= len(field):
                values.append(int.from_bytes(field[at : at + 8], "little"))
                at += 8
            elif value == zr.MAX32 and field:
                raise self._damaged("has a ZIP64 field that is too short", name)
            else:
                values.append(value)
        return values[0], values[1], values[2]

    # -- members

    @staticmethod
    def refusal(member: Member) -> str | None:
        """Say why this version can't unpack a member's data, or None if it can."""
        if member.is_encrypted:
            return "is encrypted; this version can't open it"
        if member.method not in _METHODS:
            method = _METHOD_NAMES.get(member.method, f"method {member.method}")
            return f"is compressed with {method}; this version reads stored and deflate"
        return None

    def read(self, member: Member, limit: int) -> bytes:
        """Give the whole data of a member that is no larger than ONE_SHOT, checked.

        `limit` is the member's entry in `Directory.limits`. Raises ArchiveError if anything is
        wrong with it.
        """
        if member.size > ONE_SHOT or member.stored_size > ONE_SHOT:
            return b"".join(self.chunks(member, limit))
        self._check_claims(member, limit)
        head = zr.LOCAL.size + len(member.raw_name)
        # Reading beyond the limit would only fetch bytes of others.
        length = min(head + _LOCAL_SLACK + member.stored_size, limit - member.offset)
        block = self._pread(length, member.offset) if length > 0 else b""
        start = self._check_local(member, block, limit) - member.offset
        stop = start + member.stored_size
        if stop > len(block):
            block = self._pread_all(member.stored_size, member.offset + start)
            start, stop = 0, len(block)
        if member.method == zr.STORED:
            data = block[start:stop]
        else:
            inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
            try:
                data = inflater.decompress(memoryview(block)[start:stop], member.size + 1)
            except (isal_zlib.error, EOFError) as error:  # type: ignore[misc]
                raise self._bad_stream(member, error) from error
            self._check_stream_end(member, inflater, len(data))
        if isal_zlib.crc32(data) != member.crc:
            raise self._damaged("is damaged: its CRC-32 is wrong", member.name)
        return data

    def chunks(self, member: Member, limit: int) -> Iterator[bytes]:
        """Yield a member's data in pieces of at most CHUNK bytes, never more than declared.

        The checks of size and CRC-32 come after the last piece, so what was yielded counts only
        when the iterator ends. Raises ArchiveError as `read` does.
        """
        self._check_claims(member, limit)
        head = self._pread(zr.LOCAL.size + len(member.raw_name) + _LOCAL_SLACK, member.offset)
        at = self._check_local(member, head, limit)
        unpack = self._stored if member.method == zr.STORED else self._inflate
        crc = 0
        for piece in unpack(member, at):
            crc = isal_zlib.crc32(piece, crc)
            yield piece
        if crc != member.crc:
            raise self._damaged("is damaged: its CRC-32 is wrong", member.name)

    def _stored(self, member: Member, at: int) -> Iterator[bytes]:
        stop = at + member.size
        while at < stop:
            piece = self._pread(min(CHUNK, stop - at), at)
            if not piece:
                raise self._damaged("is cut short", member.name)
            at += len(piece)
            yield piece

    def _inflate(self, member: Member, at: int) -> Iterator[bytes]:
        inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
        stop = at + member.stored_size
        made = 0
        while not inflater.eof:
            block = b""
            if inflater.needs_input:
                block = self._pread(min(_READ, stop - at), at) if at < stop else b""
                if not block:
                    self._check_stream_end(member, inflater, made)
                at += len(block)
            try:
                piece = inflater.decompress(block, min(CHUNK, member.size - made + 1))
            except (isal_zlib.error, EOFError) as error:  # type: ignore[misc]
                raise self._bad_stream(member, error) from error
            made += len(piece)
            if made > member.size or not (piece or block or inflater.eof):
                self._check_stream_end(member, inflater, made)
            if piece:
                yield piece
        if at < stop:
            raise self._damaged("has bytes after the end of its deflate stream", member.name)
        self._check_stream_end(member, inflater, made)

    def _bad_stream(self, member: Member, error: Exception) -> ArchiveError:
        reason = str(error).rstrip(".")
        return ArchiveError(
            f"{self.label}: member {printable(member.name)} is damaged: it does not inflate "
            f"({reason})"
        )

    def _check_stream_end(
        self, member: Member, inflater: igzip_lib.IgzipDecompressor, made: int
    ) -> None:
        """Raise ArchiveError unless the stream ended just where it should, with what it should."""
        if made > member.size:
            raise self._damaged(
                f"unpacks to more than the {member.size} bytes it declares", member.name
            )
        if not inflater.eof:
            raise self._damaged("has a deflate stream that is cut short", member.name)
        if made != member.size:
            raise self._damaged(f"unpacks to {made} bytes, it declares {member.size}", member.name)
        if inflater.unused_data:
            raise self._damaged("has bytes after the end of its deflate stream", member.name)

    def _check_claims(self, member: Member, limit: int) -> None:
        if not member.is_plain:
            raise self._damaged(self.refusal(member) or "can't be unpacked", member.name)
        head = zr.LOCAL.size + len(member.raw_name)
        if member.offset + head + member.stored_size > limit:
            raise self._damaged("lies where other bytes are", member.name)
        if member.method == zr.STORED:
            if member.stored_size != member.size:
                raise self._damaged("is stored but declares two sizes", member.name)
        elif member.size > member.stored_size * _DEFLATE_RATIO + _DEFLATE_SLOP:
            raise self._damaged(
                f"declares {format_size(member.size)} in {format_size(member.stored_size)}, more "
                "than deflate can hold",
                member.name,
            )

    def _check_local(self, member: Member, block: bytes, limit: int) -> int:
        """Compare the local header in `block` with the directory; give the data's position."""
        name = member.raw_name
        try:
            (
                magic, _, flags, method, _, _, crc, stored_size, size, name_size, extra_size,
            ) = zr.LOCAL.unpack_from(block)  # fmt: skip
        except struct.error as error:
            message = "has no local header where the directory says"
            raise self._damaged(message, member.name) from error
        if magic != zr.LOCAL_SIGNATURE:
            raise self._damaged("has no local header where the directory says", member.name)
        if (
            name_size != len(name)
            or block[zr.LOCAL.size : zr.LOCAL.size + name_size] != name
            or method != member.method
            or (flags ^ member.flags) & zr.FLAG_ENCRYPTED
        ):
            raise self._damaged("has a local header that contradicts the directory", member.name)
        if not (flags | member.flags) & zr.FLAG_DESCRIPTOR:
            if size == zr.MAX32 or stored_size == zr.MAX32:
                size, stored_size, _ = self._wide(
                    self._local_extra(member, block, extra_size), member.name,
                    size, stored_size, 0,
                )  # fmt: skip
            if (crc, stored_size, size) != (member.crc, member.stored_size, member.size):
                raise self._damaged(
                    "has a local header that contradicts the directory", member.name
                )
        at: int = member.offset + zr.LOCAL.size + name_size + extra_size
        if at + member.stored_size > limit:
            raise self._damaged("overlaps what lies behind it", member.name)
        return at

    def _local_extra(self, member: Member, block: bytes, extra_size: int) -> bytes:
        at = zr.LOCAL.size + len(member.raw_name)
        if at + extra_size <= len(block):
            return block[at : at + extra_size]
        return self._pread_all(extra_size, member.offset + at)

    def owner(self, member: Member) -> tuple[int, int] | None:
        """Give (uid, gid) from the local header's field 0x7875, or None without a usable one."""
        block = self._pread(zr.LOCAL.size + len(member.raw_name) + _LOCAL_SLACK, member.offset)
        if len(block) < zr.LOCAL.size or block[:4] != zr.LOCAL_SIGNATURE:
            return None
        extra_size: int = zr.LOCAL.unpack_from(block)[10]
        for kind, data in zr.extra_fields(self._local_extra(member, block, extra_size)):
            if kind == zr.EXTRA_OWNER and len(data) > 2 and data[0] == 1:
                gid_at = 3 + data[1]
                if gid_at > len(data):
                    continue
                uid = int.from_bytes(data[2 : gid_at - 1], "little")
                gid = int.from_bytes(data[gid_at : gid_at + data[gid_at - 1]], "little")
                if max(uid, gid) <= MAX_ID:
                    return uid, gid
        return None

    def check_limits(self, members: Sequence[Member], limits: Limits) -> None:
        """Raise ArchiveError if `members` would unpack to far more than the archive's size."""
        # What can't be true does not count: such members are refused one by one.
        total = sum(
            min(member.size, member.stored_size * _DEFLATE_RATIO + _DEFLATE_SLOP)
            for member in members
        )
        if total > limits.free_size and total > self.size * limits.ratio:
            raise ArchiveError(
                f"{self.label}: would unpack to {format_size(total)}, "
                f"{total / max(self.size, 1):.0f} times its size, like a bomb; "
                "if you trust it, allow a higher ratio"
            )


class _End(NamedTuple):
    """The end record: how many members, and where their directory lies in the file."""

    members: int
    size: int
    offset: int
    base: int
    is_zip64: bool
    comment: bytes


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
