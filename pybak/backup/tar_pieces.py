"""The pieces of a segment of a tar archive, and the buffer that they are filled in.

A piece is a run of the tar stream, compressed by itself (`pybak.formats.streams`). Files are read
straight to where they are hashed and compressed: a byte is copied once, by the kernel.
"""

from __future__ import annotations

import mmap
import threading
from typing import Final, NamedTuple

from pybak.backup.segments import Mark, SegmentWriter
from pybak.formats.deflate import Buffer, crc32, packed_share
from pybak.formats.streams import Codec, Piece
from pybak.formats.tar_records import BLOCK

_ZEROS: Final = bytes(BLOCK)

# A member of some size begins near the start of a piece, so that it alone can be fetched from far
# without much that is before it. What packs well is not much, and pieces for a long look back are
# long for a reason: these are not cut for that, for it would cost some percent.
_LARGE: Final = 512 << 10
_MOST_BEFORE: Final = 1 << 20
_MUCH: Final = 0.4
"""What of a piece is left by compressing, from where on it does not pack well."""
_SHORT_PIECE: Final = 8 << 20


class PieceMark(NamedTuple):
    """A place in a tar stream that can be gone back to."""

    out: Mark
    plain: int
    pieces: int


class PieceWriter:
    """Cuts a run of a tar stream into pieces; `plain` is its length so far, in bytes.

    `room` is how many bytes can be put down at once, whatever is there.
    """

    def __init__(self, out: SegmentWriter, how: Codec, room: int) -> None:
        self._out = out
        self._pack = how.pack
        self._piece_bytes = how.piece_bytes
        self._size = how.piece_bytes + room + BLOCK
        self._view = _take_buffer(self._size)
        self._filled = 0  # less than a piece, between calls
        self.plain = 0
        self.pieces: list[Piece] = []

    def has_room(self, length: int) -> bool:
        """Whether `space` can give a place that ends so many bytes behind what was added."""
        return self._filled + length <= self._size - BLOCK

    def space(self, length: int, behind: int = 0) -> memoryview:
        """Give the place of the `length` bytes to come, `behind` bytes further on.

        They count once `grow` or `enclose` is called, which ends the use of the place.
        """
        start = self._filled + behind
        return self._view[start : start + length]

    def grow(self, length: int) -> None:
        """Take in bytes that were put where `space` said."""
        self.plain += length
        self._filled += length
        if self._filled >= self._piece_bytes:
            self._cut(self._piece_bytes)

    def enclose(self, header: bytes, length: int) -> None:
        """Take in a member: `header`, `length` bytes that were put behind it, and its padding.

        One of some size begins a piece if much would be before it.
        """
        start = self._filled
        end = start + len(header)
        self._view[start:end] = header
        end += length
        if pad := -length % BLOCK:
            self._view[end : end + pad] = _ZEROS[:pad]
        end += pad
        if length >= _LARGE and start >= _MOST_BEFORE and self._is_cut_early():
            self._flush()
            self._view[: end - start] = self._view[start:end]
        self.grow(end - start)

    def _is_cut_early(self) -> bool:
        if self._piece_bytes > _SHORT_PIECE:
            return False
        if not self.pieces:
            return packed_share(self._view[: self._filled]) > _MUCH
        return self.pieces[-1].stored > self.pieces[-1].plain * _MUCH

    def add(self, block: Buffer) -> None:
        """Append bytes."""
        length = len(block)
        end = self._filled + length
        if end <= self._size:
            self._view[self._filled : end] = block
            self.grow(length)
            return
        view, room = memoryview(block), self._size - self._piece_bytes - BLOCK
        for at in range(0, length, room):
            self.add(view[at : at + room])

    def end(self) -> None:
        """End the last piece; nothing can be added any more."""
        self._flush()
        _spare.buffer = self._view

    def _flush(self) -> None:
        self._cut(1)

    def _cut(self, least: int) -> None:
        """Make pieces while `least` bytes or more are waiting."""
        at, filled = 0, self._filled
        while filled - at >= least:
            piece = self._view[at : min(at + self._piece_bytes, filled)]
            packed = self._pack(piece)
            self._out.add(packed)
            self.pieces.append(Piece(len(packed), len(piece), crc32(piece)))
            at += len(piece)
        if 0 < at < filled:
            self._view[: filled - at] = self._view[at:filled]
        self._filled = filled - at

    def mark(self) -> PieceMark:
        """End a piece and remember this place."""
        self._flush()
        return PieceMark(self._out.mark(), self.plain, len(self.pieces))

    def go_back(self, mark: PieceMark) -> None:
        """Drop all that was added since `mark`, which can be used again."""
        self._filled = 0
        self._out.go_back(mark.out)
        self.plain = mark.plain
        del self.pieces[mark.pieces :]


class _Spare(threading.local):
    """A buffer that is not in use, kept from batch to batch: the system clears what is new."""

    buffer: memoryview | None = None


_spare = _Spare()


def _take_buffer(size: int) -> memoryview:
    """Give a buffer of `size` bytes that is nobody else's; what is in it is anything."""
    found, _spare.buffer = _spare.buffer, None
    if found is not None and len(found) == size:
        return found
    return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE))  # no memory before it is used
