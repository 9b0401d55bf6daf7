"""The pieces of a new tar archive, made of those of old ones on several cores, in order.

A piece that goes on as it is is copied, packed; others are unpacked and what is left of them is
packed again. All are compared with their length and CRC-32 in the old manifest, but for bzip2
pieces that are copied: to unpack these would take many times as long as all the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from pybak.errors import ArchiveError
from pybak.formats.decoders import BZIP2, GZIP, decode, inflate_piece
from pybak.formats.deflate import crc32
from pybak.formats.source import Identity, Source, pread_all
from pybak.formats.streams import Codec
from pybak.formats.streams import Piece as NewPiece
from pybak.formats.tar_index import Piece
from pybak.retention.tar_edit import Copied, Packed, Unit

Made = list[tuple[bytes, NewPiece]]
"""Pieces of the new archive: packed bytes, and what the manifest says of them."""

_AHEAD: Final = 2

_T = TypeVar("_T")
_R = TypeVar("_R")


class PieceMaker:
    """Makes the pieces of a new archive from one old archive. Threads may share one."""

    def __init__(self, source: Source, compression: str, how: Codec) -> None:
        self._source = source
        self._compression = compression
        self._how = how

    def make(self, unit: Unit) -> Made:
        """Give the new pieces that a unit comes to. Raises ArchiveError for damage."""
        if isinstance(unit, Copied):
            return [self._copied(unit.piece)]
        return list(self._packed(unit))

    def _copied(self, piece: Piece) -> tuple[bytes, NewPiece]:
        packed = self._stored(piece)
        if self._compression != BZIP2:
            self._unpacked(piece, packed)
        plain = piece.plain_end - piece.plain_at
        return packed, NewPiece(len(packed), plain, piece.crc or 0)

    def _packed(self, unit: Packed) -> Iterator[tuple[bytes, NewPiece]]:
        plain = bytearray()
        last: Piece | None = None
        held = b""
        for part in unit.parts:
            if isinstance(part, bytes):
                plain += part
                continue
            piece, start, stop = part
            if piece != last:
                held, last = self._unpacked(piece, self._stored(piece)), piece
            plain += memoryview(held)[start:stop]
        view = memoryview(plain)
        most = self._how.piece_bytes
        for at in range(0, len(view), most):
            block = view[at : at + most]
            packed = self._how.pack(block)
            yield packed, NewPiece(len(packed), len(block), crc32(block))

    def _stored(self, piece: Piece) -> bytes:
        return pread_all(self._source, piece.stored_end - piece.stored_at, piece.stored_at)

    def _unpacked(self, piece: Piece, packed: bytes) -> bytes:
        """Unpack a piece and compare it with what the manifest says of it."""
        held = _Held(self._source.label, packed)
        if self._compression == GZIP:
            blocks = inflate_piece(held, 0, len(packed))
        else:
            blocks = decode(held, self._compression, 0, len(packed))
        length = piece.plain_end - piece.plain_at
        made: list[bytes] = []
        size = crc = 0
        for block in blocks:
            size += len(block)
            if size > length:
                break
            crc = crc32(block, crc)
            made.append(block)
        if size != length or crc != piece.crc:
            place = self._source.place(piece.stored_at, len(packed))
            raise ArchiveError(
                f"{self._source.label}: is damaged: a piece ({len(packed)} bytes at "
                f"{piece.stored_at}{place}) is not what was written; check it with verify"
            )
        return made[0] if len(made) == 1 else b"".join(made)


class _Held:
    """Bytes in memory, to be read as a source is."""

    identity: tuple[Identity, ...] = ()

    def __init__(self, label: str, data: bytes) -> None:
        self.label = label
        self.size = len(data)
        self._data = data

    def pread(self, length: int, offset: int) -> bytes:
        return self._data[offset : offset + length]

    def place(self, offset: int, length: int) -> str:  # noqa: ARG002 - a Source's signature
        return ""

    def expect(self, length: int, offset: int) -> None:
        pass

    def forget(self) -> bool:
        return False

    def close(self) -> None:
        pass


def in_order(work: Callable[[_T], _R], units: Iterable[_T], *, workers: int) -> Iterator[_R]:
    """Yield what `work` makes of the units, in their order, on so many threads.

    No more than some units ahead are worked on, so that memory does not grow with their number.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_R]] = deque()
        try:
            for unit in units:
                waiting.append(pool.submit(work, unit))
                if len(waiting) >= _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
