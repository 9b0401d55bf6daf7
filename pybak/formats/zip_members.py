"""The data of single members of a ZIP archive.

Each local header must agree with the directory; data is checked against its declared size and
CRC-32, encrypted data against its authentication code (`zip_aes`). Whatever is wrong with the
bytes ends in ArchiveError, whatever is wrong with reading them in StorageError; memory does not
grow with what a header claims.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, Protocol

from isal import igzip_lib, isal_zlib

from pybak.display import printable
from pybak.errors import ArchiveError, WrongPasswordError
from pybak.formats import zip_records as zr
from pybak.formats.archive import CHUNK, MAX_ID, ONE_SHOT
from pybak.formats.source import Source, pread_all
from pybak.formats.zip_aes import (
    ADVICE,
    Packing,
    Sealed,
    foreign_encryption,
    open_whole,
    packing_of,
)
from pybak.formats.zip_directory import METHODS, Member, wide_numbers
from pybak.units import format_size

# Deflate can't do better than 258 bytes in two bits; isal may round the last block up.
DEFLATE_RATIO: Final = 1032
DEFLATE_SLOP: Final = 4096

_READ = 256 << 10  # deflated bytes fetched at once for a large member
_LOCAL_SLACK = 64  # room for the local extra fields that PyBak and Info-ZIP write
_METHOD_NAMES = {
    1: "shrink", 6: "implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard",
    95: "xz", 98: "PPMd",
}  # fmt: skip


class Readable(Protocol):
    """What a member's packed data is read from."""

    def pread(self, length: int, offset: int) -> bytes:
        """Read at most `length` bytes at `offset`."""


class MemberReader:
    """Reads members of the archive `source`. Threads may share one."""

    def __init__(self, source: Source, password: bytes | None = None) -> None:
        self._source = source
        self._password = password

    @property
    def has_password(self) -> bool:
        """Whether a password was given."""
        return self._password is not None

    def _subject(self, member: Member) -> str:
        place = self._source.place(member.offset, zr.LOCAL.size + member.stored_size)
        return f"{self._source.label}: member {printable(member.name)}{place}"

    def _damaged(self, what: str, member: Member) -> ArchiveError:
        return ArchiveError(f"{self._subject(member)} {what}")

    def refusal(self, member: Member) -> str | None:
        """Say why a member's data can't be unpacked, or None if it can."""
        packing = packing_of(member)
        if packing is None:
            return foreign_encryption(member)
        if packing.method not in METHODS:
            method = _METHOD_NAMES.get(packing.method, f"method {packing.method}")
            return f"is compressed with {method}; this version reads stored and deflate"
        if packing.is_encrypted and self._password is None:
            return f"is encrypted; {ADVICE}"
        return None

    def read(self, member: Member, limit: int) -> bytes:
        """Give the whole data of a member that is no larger than ONE_SHOT, checked.

        Encrypted data is authenticated before anything else is done with it. `limit` is the
        member's entry in `Directory.limits`. Raises ArchiveError if anything is wrong with it,
        WrongPasswordError for a wrong password or none.
        """
        if member.size > ONE_SHOT or member.stored_size > ONE_SHOT:
            return b"".join(self.chunks(member, limit))
        packing = self._check_claims(member, limit)
        head = zr.LOCAL.size + len(member.raw_name)
        # Reading beyond the limit would only fetch bytes of others.
        length = min(head + _LOCAL_SLACK + member.stored_size, limit - member.offset)
        block = self._source.pread(length, member.offset) if length > 0 else b""
        start = self._check_local(member, block, limit) - member.offset
        stop = start + member.stored_size
        if stop > len(block):
            block = pread_all(self._source, member.stored_size, member.offset + start)
            start, stop = 0, len(block)
        if packing.is_encrypted:
            assert self._password is not None
            sealed = memoryview(block)[start:stop]
            block = open_whole(sealed, packing.salt_size, self._password, self._subject(member))
            start, stop = 0, len(block)
        if packing.method == zr.STORED:
            data = block[start:stop]
        else:
            inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
            try:
                data = inflater.decompress(memoryview(block)[start:stop], member.size + 1)
            except (isal_zlib.error, EOFError) as error:  # type: ignore[misc]
                raise self._bad_stream(member, error) from error
            self._check_stream_end(member, inflater, len(data))
        if packing.has_crc and isal_zlib.crc32(data) != member.crc:
            raise self._damaged("is damaged: its CRC-32 is wrong", member)
        return data

    def chunks(self, member: Member, limit: int) -> Iterator[bytes]:
        """Yield a member's data in pieces of at most CHUNK bytes, never more than declared.

        The checks of size, CRC-32 and authentication code come after the last piece, so what was
        yielded counts only when the iterator ends. Encrypted data that fits one piece has been
        authenticated before; until the end, that of larger members may be anyone's.
        Raises as `read` does.
        """
        packing = self._check_claims(member, limit)
        head = zr.LOCAL.size + len(member.raw_name) + _LOCAL_SLACK
        self._source.expect(min(head + member.stored_size, limit - member.offset), member.offset)
        if not packing.is_encrypted:
            at = self._locate(member, limit)
            yield from self._unpack(member, packing, self._source, at)
            return
        if max(member.size, member.stored_size) <= ONE_SHOT:
            if data := self.read(member, limit):
                yield data
            return
        stream = self._open(member, packing, limit).stream()
        yield from self._unpack(member, packing, stream, 0)
        stream.check()

    def open(self, member: Member, limit: int) -> Sealed:
        """Give the data of an encrypted member, decrypted but still compressed.

        Raises as `read` does, ValueError for a member that is not encrypted.
        """
        packing = self._check_claims(member, limit)
        if not packing.is_encrypted:
            raise ValueError("a member that is not encrypted")
        return self._open(member, packing, limit)

    def authenticate(self, member: Member, limit: int) -> None:
        """Check an encrypted member's authentication code, so that `chunks` may be trusted.

        Does nothing for others. Raises as `read` does.
        """
        if member.is_encrypted:
            self.open(member, limit).authenticate()

    def _open(self, member: Member, packing: Packing, limit: int) -> Sealed:
        assert self._password is not None
        at = self._locate(member, limit)
        return Sealed(
            self._source, at, packing.size, packing.salt_size, self._password,
            self._subject(member),
        )  # fmt: skip

    def _locate(self, member: Member, limit: int) -> int:
        """Check the local header; give the data's position."""
        length = zr.LOCAL.size + len(member.raw_name) + _LOCAL_SLACK
        head = self._source.pread(length, member.offset)
        return self._check_local(member, head, limit)

    def _unpack(
        self, member: Member, packing: Packing, source: Readable, at: int
    ) -> Iterator[bytes]:
        if packing.method == zr.STORED:
            pieces = self._stored(member, source, at)
        else:
            pieces = self._inflate(member, source, at, at + packing.size)
        crc = 0
        for piece in pieces:
            if packing.has_crc:
                crc = isal_zlib.crc32(piece, crc)
            yield piece
        if packing.has_crc and crc != member.crc:
            raise self._damaged("is damaged: its CRC-32 is wrong", member)

    def _stored(self, member: Member, source: Readable, at: int) -> Iterator[bytes]:
        stop = at + member.size
        while at < stop:
            piece = source.pread(min(CHUNK, stop - at), at)
            if not piece:
                raise self._damaged("is cut short", member)
            at += len(piece)
            yield piece

    def _inflate(self, member: Member, source: Readable, at: int, stop: int) -> Iterator[bytes]:
        inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
        made = 0
        while not inflater.eof:
            block = b""
            if inflater.needs_input:
                block = source.pread(min(_READ, stop - at), at) if at < stop else b""
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
            raise self._damaged("has bytes after the end of its deflate stream", member)
        self._check_stream_end(member, inflater, made)

    def _bad_stream(self, member: Member, error: Exception) -> ArchiveError:
        reason = str(error).rstrip(".")
        return self._damaged(f"is damaged: it does not inflate ({reason})", member)

    def _check_stream_end(
        self, member: Member, inflater: igzip_lib.IgzipDecompressor, made: int
    ) -> None:
        """Raise ArchiveError unless the stream ended just where it should, with what it should."""
        if made > member.size:
            raise self._damaged(f"unpacks to more than the {member.size} bytes it declares", member)
        if not inflater.eof:
            raise self._damaged("has a deflate stream that is cut short", member)
        if made != member.size:
            raise self._damaged(f"unpacks to {made} bytes, it declares {member.size}", member)
        if inflater.unused_data:
            raise self._damaged("has bytes after the end of its deflate stream", member)

    def _check_claims(self, member: Member, limit: int) -> Packing:
        """Compare what the directory says of a member with itself; give how it is packed."""
        packing = packing_of(member)
        if packing is None or packing.method not in METHODS:
            raise self._damaged(self.refusal(member) or "can't be unpacked", member)
        if packing.is_encrypted and self._password is None:
            raise WrongPasswordError(f"{self._subject(member)} {self.refusal(member)}")
        head = zr.LOCAL.size + len(member.raw_name)
        if member.offset + head + member.stored_size > limit:
            raise self._damaged("lies where other bytes are", member)
        if packing.size < 0:
            raise self._damaged("is too short for encrypted data", member)
        if packing.method == zr.STORED:
            if packing.size != member.size:
                raise self._damaged("is stored but declares two sizes", member)
        elif member.size > packing.size * DEFLATE_RATIO + DEFLATE_SLOP:
            raise self._damaged(
                f"declares {format_size(member.size)} in {format_size(packing.size)}, more "
                "than deflate can hold",
                member,
            )
        return packing

    def _check_local(self, member: Member, block: bytes, limit: int) -> int:
        """Compare the local header in `block` with the directory; give the data's position."""
        name = member.raw_name
        try:
            (
                magic, _, flags, method, _, _, crc, stored_size, size, name_size, extra_size,
            ) = zr.LOCAL.unpack_from(block)  # fmt: skip
        except struct.error as error:
            message = "has no local header where the directory says"
            raise self._damaged(message, member) from error
        if magic != zr.LOCAL_SIGNATURE:
            raise self._damaged("has no local header where the directory says", member)
        if (
            name_size != len(name)
            or block[zr.LOCAL.size : zr.LOCAL.size + name_size] != name
            or method != member.method
            or (flags ^ member.flags) & zr.FLAG_ENCRYPTED
        ):
            raise self._damaged("has a local header that contradicts the directory", member)
        if not (flags | member.flags) & zr.FLAG_DESCRIPTOR:
            if size == zr.MAX32 or stored_size == zr.MAX32:
                extra = self._local_extra(member, block, extra_size)
                numbers = wide_numbers(extra, size, stored_size, 0)
                if numbers is None:
                    raise self._damaged("has a ZIP64 field that is too short", member)
                size, stored_size, _ = numbers
            if (crc, stored_size, size) != (member.crc, member.stored_size, member.size):
                raise self._damaged("has a local header that contradicts the directory", member)
        at: int = member.offset + zr.LOCAL.size + name_size + extra_size
        if at + member.stored_size > limit:
            raise self._damaged("overlaps what lies behind it", member)
        return at

    def _local_extra(self, member: Member, block: bytes, extra_size: int) -> bytes:
        at = zr.LOCAL.size + len(member.raw_name)
        if at + extra_size <= len(block):
            return block[at : at + extra_size]
        return pread_all(self._source, extra_size, member.offset + at)

    def has_header(self, member: Member, limit: int) -> bool:
        """Whether a member's local header is where the directory says, and agrees with it."""
        try:
            self._locate(member, limit)
        except ArchiveError:
            return False
        return True

    def owner(self, member: Member) -> tuple[int, int] | None:
        """Give (uid, gid) from the local header's field 0x7875, or None without a usable one."""
        block = self._source.pread(
            zr.LOCAL.size + len(member.raw_name) + _LOCAL_SLACK, member.offset
        )
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
