"""Copy the content of one open file to another, by whatever is quickest here, and compare them.

A file system that shares blocks is asked to (`FICLONE`). Else large files go past the page cache
(`pybak.direct`); others the file system is asked to copy by itself (copy_file_range(2)), else the
kernel does (sendfile(2)), else bytes go through this process. Holes stay holes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Final

from pybak.backup.read_source import filling, read_range
from pybak.direct import BUFFER_BYTES, WORTH_BYTES, DirectBuffer
from pybak.errors import SourceError
from pybak.formats.sparse import Run, data_runs, may_have_holes
from pybak.problems import DAMAGED
from pybak.writing import write_all, write_all_at

try:
    import fcntl
except ImportError:  # pragma: no cover - other systems
    fcntl = None  # type: ignore[assignment]

_SMALL: Final = 128 << 10
"""Up to this size reading and writing take less time than asking for anything else."""
_PIECE: Final = 16 << 20
_BUFFER: Final = 1 << 20
_pread = os.pread
_fill = filling()
_CLONE: Final = 0x40049409  # FICLONE of linux/fs.h
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})

Ask = Callable[[int], object]
"""Called with the number of bytes that were copied since it was called last; may raise."""


class Copying:
    """Copies contents; remembers what the file systems can't do."""

    def __init__(self) -> None:
        self._can_clone = hasattr(os, "copy_file_range") and fcntl is not None
        self._can_range = hasattr(os, "copy_file_range")
        self._can_send = True
        self._direct = DirectBuffer()

    def copy(self, source: int, target: int, status: os.stat_result, ask: Ask) -> bool:
        """Copy the first `st_size` bytes into an empty file; whether there were that many.

        Raises SourceError if the source can't be read, OSError if the target can't be written.
        """
        size = status.st_size
        if not size:
            return True
        if may_have_holes(status):
            runs = data_runs(source, size)
            if runs is not None:
                return self._copy_runs(source, target, runs, size, ask)
        if size <= _SMALL:
            data = _read_small(source, size)
            write_all(target, data)
            ask(len(data))
            return len(data) == size
        if self._can_clone and self._clone(source, target):
            ask(size)
            return True
        done = self._copy_directly(source, target, size, ask) if size >= WORTH_BYTES else 0
        return self._copy_range(source, target, done, size - done, ask)

    def _copy_directly(self, source: int, target: int, size: int, ask: Ask) -> int:
        """Copy from the start as long as that is worth it; give how many bytes."""
        at = 0
        self._direct.begin(target)
        while at < size and self._direct.is_worth_it:
            wanted = min(BUFFER_BYTES, size - at)
            got = _fill(source, self._direct.view[:wanted], at)
            self._direct.write(target, got, at)
            at += got
            ask(got)
            if got < wanted:
                break
        return at

    def _clone(self, source: int, target: int) -> bool:
        try:
            fcntl.ioctl(target, _CLONE, source)
        except OSError as error:
            if error.errno in _FULL:
                raise
            self._can_clone = False
            return False
        return True

    def _copy_runs(
        self, source: int, target: int, runs: Sequence[Run], size: int, ask: Ask
    ) -> bool:
        os.ftruncate(target, size)
        is_whole = all(self._copy_range(source, target, at, length, ask) for at, length in runs)
        if is_whole and runs:
            # The file has its full size at once; without its data it must not get its name.
            os.fdatasync(target)
        return is_whole

    def _copy_range(self, source: int, target: int, start: int, length: int, ask: Ask) -> bool:
        at, end = start, start + length
        while at < end:
            done = self._piece(source, target, at, min(_PIECE, end - at))
            if not done:
                return False
            at += done
            ask(done)
        return True

    def _piece(self, source: int, target: int, at: int, length: int) -> int:
        """Copy up to so many bytes; 0 at the end of the file."""
        if self._can_range:
            try:
                if done := os.copy_file_range(source, target, length, at, at):
                    return done
            except OSError as error:
                if error.errno in _FULL:
                    raise
                self._can_range = error.errno == errno.EIO
        elif self._can_send:
            try:
                os.lseek(target, at, os.SEEK_SET)
                if done := os.sendfile(target, source, at, length):
                    return done
            except OSError as error:
                if error.errno in _FULL:
                    raise
                self._can_send = error.errno == errno.EIO
        # Tells at an error which of the two it was, and at the end that it is one.
        data = read_range(source, min(length, _BUFFER), at)
        return write_all_at(target, data, at)


def _read_small(fd: int, size: int) -> bytes:
    try:
        data = _pread(fd, size, 0)
    except OSError:
        data = b""
    # What is out of the ordinary takes the way that tries again and says what it is.
    return data if len(data) == size else read_range(fd, size, 0)


def check_copy(source: int, target: int, ask: Ask) -> None:
    """Read both files and compare their SHA-256. Raises SourceError (damaged) if they differ."""
    if _digest(source, ask) != _digest(target, ask):
        raise SourceError("the copy is not what was read, twice", DAMAGED)


def _digest(fd: int, ask: Ask) -> bytes:
    digest, at = hashlib.sha256(), 0
    while data := read_range(fd, _BUFFER, at):
        ask(0)
        digest.update(data)
        at += len(data)
    return digest.digest()
