"""A file's content put where it belongs: in a row, by a sparse file's map, or leaving out zeros."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Protocol

from pybak.direct import WORTH_BYTES, DirectBuffer, DirectFile
from pybak.errors import ArchiveError
from pybak.restore.items import Item
from pybak.writing import write_all, write_all_at

BLOCK: Final = 4096
"""The unit in which zeros become a hole: what most file systems allocate at least."""
_ZEROS: Final = bytes(BLOCK)


class Sink(Protocol):
    """Takes content in order; `close` completes the file and leaves it open."""

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises OSError, and ArchiveError if there is no place for them."""

    def close(self) -> None:
        """Give the file its size."""


def sink_for(item: Item, fd: int, subject: str, buffer: DirectBuffer) -> Sink:
    """Give what writes the content of `item` into the empty file `fd`; errors name `subject`.

    Until it is closed the buffer is its own.
    """
    if item.data_map is not None:
        return _Mapped(fd, item.data_map, item.member.size, subject)
    if item.is_sparse:
        return _Sparse(fd)
    return _Large(fd, buffer) if item.member.size >= WORTH_BYTES else _Plain(fd)


class _Plain:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> None:
        write_all(self._fd, data)

    def close(self) -> None:
        pass


class _Large:
    def __init__(self, fd: int, buffer: DirectBuffer) -> None:
        self._file = DirectFile(fd, buffer)

    def write(self, data: bytes) -> None:
        self._file.append(data)

    def close(self) -> None:
        self._file.finish()


class _Mapped:
    """Puts content where a map says that the file has data."""

    def __init__(self, fd: int, runs: Sequence[tuple[int, int]], size: int, subject: str) -> None:
        self._fd = fd
        self._runs = iter(runs)
        self._subject = subject
        self._size = size
        self._at = self._left = self._end = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            if not self._left:
                self._next_run()
            piece = view[: self._left]
            write_all_at(self._fd, piece, self._at)
            self._at += len(piece)
            self._left -= len(piece)
            view = view[len(piece) :]

    def _next_run(self) -> None:
        start, length = next(self._runs, (-1, 0))
        if start < self._end or length < 0 or start + length > self._size:
            raise ArchiveError(f"{self._subject} has a map of its data that does not fit it")
        self._at, self._left, self._end = start, length, start + length

    def close(self) -> None:
        os.ftruncate(self._fd, self._size)


class _Sparse:
    """Leaves holes where whole blocks are zero."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0
        self._rest = b""

    def write(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        whole = len(data) - len(data) % BLOCK
        start = 0
        for at in range(0, whole, BLOCK):
            if data[at : at + BLOCK] == _ZEROS:
                self._put(data, start, at)
                start = at + BLOCK
        self._put(data, start, whole)
        self._at += whole
        self._rest = data[whole:]

    def _put(self, data: bytes, start: int, stop: int) -> None:
        if start < stop:
            write_all_at(self._fd, memoryview(data)[start:stop], self._at + start)

    def close(self) -> None:
        if self._rest.strip(b"\0"):
            write_all_at(self._fd, memoryview(self._rest), self._at)
        os.ftruncate(self._fd, self._at + len(self._rest))
