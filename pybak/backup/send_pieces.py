"""What is waiting to be sent: runs of staged files, bytes at hand, and room for bytes to come.

An archive that goes to a storage is never whole on this machine. Its bytes are pieces here; a
staged file is deleted when the last piece of it is sent or dropped.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Final, NamedTuple

from pybak.backup.output import Extent

_READ_BYTES: Final = 1 << 20


class Room:
    """Space for bytes that come later. `data` is None until then."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.data: bytes | None = None


class Piece(NamedTuple):
    """A run of bytes: `size` at `offset` of a staged file, of a room, or of `data`."""

    size: int
    path: bytes = b""
    offset: int = 0
    data: bytes = b""
    room: Room | None = None

    @property
    def is_ready(self) -> bool:
        """Whether its bytes are known."""
        return self.room is None or self.room.data is not None

    @property
    def extent(self) -> Extent:
        """The same for those who read; its bytes must be known."""
        if self.path:
            return Extent(self.size, self.path, self.offset)
        return Extent(self.size, data=self.bytes)

    @property
    def bytes(self) -> bytes:
        """What it holds, if it is in no file."""
        assert not self.path
        assert self.is_ready
        whole = self.data if self.room is None else self.room.data or b""
        return whole[self.offset : self.offset + self.size]


class StagedFiles:
    """Counts the pieces of each staged file, and deletes it after the last one.

    `bytes` is how many are on the disk. Threads may share it.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._uses: dict[bytes, tuple[int, int]] = {}  # pieces, bytes of the file
        self._lock = threading.Lock()

    def add(self, path: bytes, size: int) -> Piece:
        """Take a file over; give the piece that is all of it."""
        with self._lock:
            self._uses[path] = (1, size)
            self.bytes += size
        return Piece(size, path)

    def cut(self, piece: Piece, at: int) -> tuple[Piece, Piece]:
        """Give the first `at` bytes of a piece, and the others."""
        assert 0 < at < piece.size
        if piece.path:
            with self._lock:
                pieces, size = self._uses[piece.path]
                self._uses[piece.path] = (pieces + 1, size)
        return (
            piece._replace(size=at),
            piece._replace(size=piece.size - at, offset=piece.offset + at),
        )

    def drop(self, piece: Piece) -> None:
        """Let go of a piece: it is sent, or will not be."""
        if not piece.path:
            return
        with self._lock:
            pieces, size = self._uses[piece.path]
            if pieces > 1:
                self._uses[piece.path] = (pieces - 1, size)
                return
            del self._uses[piece.path]
            self.bytes -= size
        with contextlib.suppress(OSError):  # the work folder goes as a whole in the end
            os.unlink(piece.path)


def read_piece(piece: Piece) -> Iterator[bytes]:
    """Yield the bytes of a piece. Raises OSError if its file is too short."""
    if not piece.path:
        yield piece.bytes
        return
    fd = os.open(piece.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        left, at = piece.size, piece.offset
        while left:
            block = os.pread(fd, min(left, _READ_BYTES), at)
            if not block:
                raise OSError(f"a segment ends {left} bytes early")
            yield block
            left, at = left - len(block), at + len(block)
    finally:
        os.close(fd)
