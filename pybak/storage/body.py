"""The bytes of one part that is sent to a storage: in memory, or runs of files laid end to end."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from functools import cached_property
from typing import BinaryIO, Protocol, cast

_READ_BYTES = 1 << 20


class Extent(Protocol):
    """A run of bytes: `size` bytes at `offset` of the file `path`, or `data` itself."""

    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def path(self) -> bytes: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def data(self) -> bytes: ...  # noqa: D102


class BytesBody:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    @cached_property
    def sha256(self) -> str:
        """Their digest in hex."""
        return hashlib.sha256(self._data).hexdigest()

    def open(self) -> BinaryIO:
        """Open them for reading."""
        return io.BytesIO(self._data)


class ExtentsBody:
    """Runs of files and of bytes, read when they are needed. The files must stay as they are."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._extents = tuple(extents)
        self.size = sum(extent.size for extent in extents)

    @cached_property
    def sha256(self) -> str:
        """Their digest in hex; reads all of them once. Raises OSError."""
        digest = hashlib.sha256()
        with self.open() as source:
            while block := source.read(_READ_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def open(self) -> BinaryIO:
        """Open them for reading. Raises OSError when a file is read that is gone or too short."""
        return io.BufferedReader(cast(io.RawIOBase, _ExtentsFile(self._extents)), _READ_BYTES)


class _ExtentsFile(io.RawIOBase):
    """Reads extents as if they were one file."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._extents = extents
        self._starts = [0]
        for extent in extents:
            self._starts.append(self._starts[-1] + extent.size)
        self._at = 0
        self._number = 0
        self._open: tuple[int, int] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence]
        self._at = max(0, base + offset)
        self._number = 0
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while self._number < len(self._extents) and self._at >= self._starts[self._number + 1]:
            self._number += 1
        if self._number == len(self._extents):
            return 0
        extent = self._extents[self._number]
        skip = self._at - self._starts[self._number]
        wanted = min(len(buffer), extent.size - skip)
        if extent.path:
            data = os.pread(self._fd(extent.path), wanted, extent.offset + skip)
            if not data:
                raise OSError(f"a piece of {extent.size} bytes ends {extent.size - skip} early")
        else:
            data = extent.data[skip : skip + wanted]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _fd(self, path: bytes) -> int:
        if self._open is None or self._open[0] != self._number:
            self._close_file()
            self._open = (self._number, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        return self._open[1]

    def _close_file(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def close(self) -> None:
        self._close_file()
        super().close()
