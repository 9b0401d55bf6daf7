"""The end of a tar archive of ours: where the manifest is found without reading what is before it.

The last piece holds the footer block (`tar_footer`) and the two zero blocks, so that it can be
found in every format: at a fixed distance from the end in tar and tar.gz, as the last bzip2
stream, as the last zstd frame before the seek table.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from itertools import chain
from typing import Final, NamedTuple

from isal import isal_zlib

from pybak.errors import ArchiveError
from pybak.formats.decoders import BZIP2, GZIP, PLAIN, ZSTD, decode, inflate_piece
from pybak.formats.manifest import MEMBER_NAME
from pybak.formats.source import Source
from pybak.formats.streams import GZIP_HEADER
from pybak.formats.tar_footer import BLOCK, Footer, read_footer
from pybak.formats.tar_headers import HeaderReader
from pybak.formats.tar_index import PieceIndex

LAST_PIECE: Final = 3 * BLOCK
"""Plain bytes of the last piece: the footer block and two zero blocks."""

_STORED_HEAD = struct.pack("<BHH", 0, LAST_PIECE, LAST_PIECE ^ 0xFFFF)
_GZIP_END = b"\x03\x00"
_GZIP_TRAILER = struct.Struct("<II")
_GZIP_TAIL = len(_STORED_HEAD) + LAST_PIECE + len(_GZIP_END) + _GZIP_TRAILER.size
_SEARCHED = 4096
_BZIP2_START = b"1AY&SY"
_ZSTD_START = b"\x28\xb5\x2f\xfd"
_SEEK_FOOTER = struct.Struct("<IBI")
_SEEKABLE = 0x8F92EAB1
_SEEK_ENTRY = struct.Struct("<II")
_SKIPPABLE_HEAD = 8
_SKIPPABLE = struct.Struct("<II")
_SEEK_MAGIC = 0x184D2A5E
_MAX_MANIFEST = 2 << 30
_MOST_FRAMES = 0x8000000


class Tail(NamedTuple):
    """What stands at the end: the footer, and where the last piece starts in the archive."""

    footer: Footer
    last_at: int


def find_tail(source: Source, compression: str) -> Tail | None:
    """Read the end of an archive; None if it is none of ours, or damaged there."""
    try:
        for at, plain in _last_pieces(source, compression):
            if len(plain) == LAST_PIECE and not any(plain[BLOCK:]):
                footer = read_footer(plain[:BLOCK])
                if footer is not None:
                    return Tail(footer, at)
    except ArchiveError:
        pass
    return None


def _last_pieces(source: Source, compression: str) -> Iterator[tuple[int, bytes]]:
    """Yield what may be the last piece: its place, and what it holds."""
    size = source.size
    if compression == PLAIN:
        at = max(size - LAST_PIECE, 0)
        yield at, source.pread(LAST_PIECE, at)
    elif compression == GZIP:
        at = max(size - _GZIP_TAIL, 0)
        tail = source.pread(_GZIP_TAIL, at)
        end = len(_STORED_HEAD) + LAST_PIECE
        if tail.startswith(_STORED_HEAD) and tail[end:].startswith(_GZIP_END):
            yield at, tail[len(_STORED_HEAD) : end]
    elif compression == BZIP2:
        yield from _last_parts(source, BZIP2, size, _BZIP2_START, 4)
    elif compression == ZSTD:
        yield from _last_parts(source, ZSTD, _before_seek_table(source), _ZSTD_START, 0)


def _before_seek_table(source: Source) -> int:
    """Give where the seek table starts, the end of the archive if there is none."""
    frames = _frame_count(source)
    if frames is None:
        return source.size
    return source.size - _SKIPPABLE_HEAD - frames * _SEEK_ENTRY.size - _SEEK_FOOTER.size


def _frame_count(source: Source) -> int | None:
    at = source.size - _SEEK_FOOTER.size
    end = source.pread(_SEEK_FOOTER.size, max(at, 0))
    if len(end) < _SEEK_FOOTER.size:
        return None
    frames, descriptor, magic = _SEEK_FOOTER.unpack(end)
    if magic != _SEEKABLE or descriptor or not 0 < frames <= _MOST_FRAMES:
        return None
    return int(frames)


def _last_parts(
    source: Source, compression: str, stop: int, start: bytes, before: int
) -> Iterator[tuple[int, bytes]]:
    """Yield what the last parts hold, those nearest to `stop` first; `start` begins a part."""
    floor = max(stop - _SEARCHED, 0)
    tail = source.pread(stop - floor, floor) if stop > 0 else b""
    found = tail.rfind(start)
    while found >= before:
        at = floor + found - before
        with contextlib.suppress(ArchiveError):  # these bytes may stand in what is compressed
            yield at, _whole(decode(source, compression, at, stop))
        found = tail.rfind(start, 0, found)


def _whole(blocks: Iterator[bytes]) -> bytes:
    plain = b""
    for block in blocks:
        plain += block
        if len(plain) > LAST_PIECE:
            break
    return plain


class ManifestContent:
    """The content of the manifest's member, without the footer block, to be iterated once.

    Iterating raises ArchiveError if it is not where the footer says, or can't be unpacked.
    `crc` is the CRC-32 of the header and the content so far, `plain` their length.
    """

    def __init__(self, source: Source, compression: str, tail: Tail) -> None:
        self.crc = self.plain = 0
        self._source = source
        self._compression = compression
        self._tail = tail

    def _damaged(self, what: str) -> ArchiveError:
        return ArchiveError(f"{self._source.label}: is damaged: {what}")

    def _blocks(self) -> Iterator[bytes]:
        footer, last_at = self._tail
        # A tar that another program unpacked is still what the footer says of the plain bytes.
        is_plain = self._compression == PLAIN
        start = footer.head if is_plain else footer.stored_at
        if self._tail.footer.content_size > _MAX_MANIFEST:
            raise self._damaged("its manifest is too long")
        if not start < last_at or not (is_plain or start + footer.stored_size == last_at):
            raise self._damaged("its end does not fit the rest")
        self._source.expect(last_at - start, start)
        if self._compression == GZIP:
            blocks = inflate_piece(self._source, start, last_at)
        else:
            blocks = decode(self._source, self._compression, start, last_at)
        for block in blocks:
            self.crc = isal_zlib.crc32(block, self.crc)
            self.plain += len(block)
            yield block

    def __iter__(self) -> Iterator[bytes]:
        blocks = self._blocks()
        head = b""
        while len(head) < _SEARCHED and (block := next(blocks, b"")):
            head += block
        try:
            entry = HeaderReader().next(_Head(head), 0)
        except ArchiveError as error:
            raise self._damaged(f"its manifest {error}") from error
        size = self._tail.footer.content_size
        if entry is None or entry.name != MEMBER_NAME or entry.size != size:
            raise self._damaged("there is no manifest where its end says")
        wanted = size - BLOCK
        for block in chain([head[entry.data :]], blocks):
            wanted -= len(block)
            if wanted < 0:
                raise self._damaged("its manifest is too long")
            yield block
        if wanted:
            raise self._damaged("its manifest is cut short")


class _Head:
    """The first bytes of the manifest's member, to be read as a stream."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, length: int) -> bytes:
        data = self._data[self._at : self._at + length]
        self._at += len(data)
        return data

    def unread(self, data: bytes) -> None:
        self._at -= len(data)


def frame_damage(
    source: Source, compression: str, tail: Tail, index: PieceIndex, content: ManifestContent
) -> str | None:
    """Say what is wrong with what surrounds the pieces in a compressed archive of ours.

    `content` must have been read to its end.
    """
    if compression == GZIP:
        if source.pread(len(GZIP_HEADER), 0) != GZIP_HEADER:
            return "its gzip header is not what it should be"
        crc, plain = 0, 0
        last = (isal_zlib.crc32(_last_plain(source, tail)), LAST_PIECE)
        for one, length in (*index.crcs, (content.crc, content.plain), last):
            crc, plain = isal_zlib.crc32_combine(crc, one, length), plain + length
        trailer = source.pread(_GZIP_TRAILER.size, source.size - _GZIP_TRAILER.size)
        if trailer != _GZIP_TRAILER.pack(crc, plain & 0xFFFFFFFF):
            return "the CRC-32 or the length at its end is wrong"
    if compression == ZSTD:
        return _seek_table_damage(source, tail, index, content.plain)
    return None


def _last_plain(source: Source, tail: Tail) -> bytes:
    return source.pread(LAST_PIECE, tail.last_at + len(_STORED_HEAD))


def _seek_table_damage(
    source: Source, tail: Tail, index: PieceIndex, manifest_plain: int
) -> str | None:
    frames = _frame_count(source)
    if frames is None:
        return None if len(index) > _MOST_FRAMES else "its seek table is damaged"
    start = _before_seek_table(source)
    table = source.pread(source.size - start, start)
    if table[:_SKIPPABLE_HEAD] != _SKIPPABLE.pack(_SEEK_MAGIC, len(table) - _SKIPPABLE_HEAD):
        return "its seek table is damaged"
    found = _SEEK_ENTRY.iter_unpack(table[_SKIPPABLE_HEAD : -_SEEK_FOOTER.size])
    own = (
        (piece.stored_end - piece.stored_at, piece.plain_end - piece.plain_at) for piece in index
    )
    if len(index) >= frames or any(next(found) != one for one in own):
        return "its seek table does not fit its pieces"
    rest = list(found)
    stored, plain = (sum(entry[i] for entry in rest[:-1]) for i in (0, 1))
    last = (start - tail.last_at, LAST_PIECE)
    if (stored, plain) != (tail.footer.stored_size, manifest_plain) or rest[-1] != last:
        return "its seek table does not fit its pieces"
    return None
