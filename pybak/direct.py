"""Write files past the page cache (`O_DIRECT` of open(2)), where system and disk are good at it.

What a copy or an archive holds is not read again soon. In the page cache it pushes out what other
programs use, and the pages that it takes there cost more time than a quick disk needs to write
what is in them. A slow disk is left to the kernel, which writes behind.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from typing import Final

from pybak.writing import Bytes, write_all_at

try:
    import fcntl
except ImportError:  # pragma: no cover - other systems
    fcntl = None  # type: ignore[assignment]

BLOCK: Final = 4096
"""Offsets, lengths and addresses are multiples of it; few disks ask for more, and refuse."""
BUFFER_BYTES: Final = 4 << 20
WORTH_BYTES: Final = 1 << 20
"""A quick disk takes files from this size on sooner than the page cache does."""
_DIRECT: Final[int] = getattr(os, "O_DIRECT", 0)
_JUDGED_BYTES: Final = 64 << 20
_JUDGED_SECONDS: Final = 1.0
"""After so many bytes, or so long, it is seen how quick a disk is."""
_LEAST_RATE: Final = 256 << 20
"""Bytes a second that a disk must take from one writer."""
_REAL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""What is wrong by whichever way bytes are written."""


class _Disk:
    """What is known of a device: whether it can, and was quick so far. Any thread may tell it."""

    def __init__(self, device: int) -> None:
        # Others have no device of their own: network file systems, which may copy by themselves,
        # btrfs, which would not compress what is written so, and memory.
        self.is_quick = fcntl is not None and _DIRECT != 0 and os.major(device) != 0
        self._bytes = 0
        self._seconds = 0.0

    def note(self, size: int, seconds: float) -> None:
        """Judge it by what was written directly of late."""
        self._bytes += size
        self._seconds += seconds
        if self._bytes >= _JUDGED_BYTES or self._seconds >= _JUDGED_SECONDS:
            self.is_quick = self.is_quick and self._bytes >= _LEAST_RATE * self._seconds
            self._bytes, self._seconds = 0, 0.0


_disks: dict[int, _Disk] = {}


class DirectBuffer:
    """A buffer whose bytes are written directly where that is worth it; for one file at a time."""

    def __init__(self) -> None:
        self._view: memoryview | None = None
        self._disk: _Disk | None = None

    def begin(self, fd: int) -> None:
        """Know where the next bytes go: a file open for writing. Raises OSError."""
        device = os.fstat(fd).st_dev
        self._disk = _disks.setdefault(device, _Disk(device))
        if self._view is None and self._disk.is_quick:
            with contextlib.suppress(OSError):  # no memory
                # Private: processes that are forked from this one have their own.
                space = mmap.mmap(-1, BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                self._view = memoryview(space)

    @property
    def is_worth_it(self) -> bool:
        """Whether bytes are to go through the buffer. Once it is not, it never is again."""
        return self._view is not None and self._disk is not None and self._disk.is_quick

    @property
    def view(self) -> memoryview:
        """All of the buffer, BUFFER_BYTES, which begin a page."""
        assert self._view is not None
        return self._view

    def write(self, fd: int, size: int, at: int) -> None:
        """Write the first `size` bytes at `at`, a multiple of BLOCK. Raises OSError."""
        done = self._write_blocks(fd, size - size % BLOCK, at) if self.is_worth_it else 0
        if done < size:
            write_all_at(fd, self.view[done:size], at + done)

    def _write_blocks(self, fd: int, size: int, at: int) -> int:
        assert self._disk is not None
        done, began = 0, time.perf_counter()
        try:
            _set_direct(fd, is_direct=True)
            try:
                while done < size:
                    done += os.pwrite(fd, self.view[done:size], at + done)
            finally:
                _set_direct(fd, is_direct=False)
        except OSError as error:
            if error.errno in _REAL:
                raise
            self._disk.is_quick = False  # this file system can't
        else:
            self._disk.note(size, time.perf_counter() - began)
        return done


def _set_direct(fd: int, *, is_direct: bool) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | _DIRECT if is_direct else flags & ~_DIRECT)


class DirectFile:
    """Appends to a new file, by way of a buffer that nothing else uses meanwhile.

    To be written over or cut, the file must be open for reading, too. All methods raise OSError.
    """

    def __init__(self, fd: int, buffer: DirectBuffer) -> None:
        self._fd = fd
        self._buffer = buffer
        buffer.begin(fd)
        self._start = 0
        """Where in the file the buffer's bytes belong; a multiple of BLOCK if there are any."""
        self._held = 0
        self.cached = 0
        """Bytes that were left to the page cache so far."""

    @property
    def size(self) -> int:
        """Length of the file with the bytes that wait in the buffer."""
        return self._start + self._held

    def append(self, data: Bytes) -> None:
        """Write bytes behind what is there."""
        rest = memoryview(data)
        while len(rest) and self._is_direct():
            piece = rest[: BUFFER_BYTES - self._held]
            self._buffer.view[self._held : self._held + len(piece)] = piece
            self._hold(len(piece))
            rest = rest[len(piece) :]
        if len(rest):
            self._cached(write_all_at(self._fd, rest, self.size))

    def append_from(self, source: int, length: int) -> int:
        """Write up to `length` bytes from the position of another file; give how many."""
        if self._is_direct():
            done = os.readv(source, [self._buffer.view[self._held :][:length]])
            self._hold(done)
        else:
            done = _copy(source, self._fd, length, self.size)
            self._cached(done)
        return done

    def _is_direct(self) -> bool:
        """Whether bytes go through the buffer; none are left in it if they don't."""
        if self._buffer.is_worth_it:
            return True
        if self._held:  # another file has shown that the disk is slow
            self.flush()
            self._start, self._held = self.size, 0
        return False

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held == BUFFER_BYTES:
            self._buffer.write(self._fd, BUFFER_BYTES, self._start)
            self._start += BUFFER_BYTES
            self._held = 0

    def _cached(self, size: int) -> None:
        self._start += size
        self.cached += size

    def write_at(self, data: bytes, at: int) -> None:
        """Write bytes over others."""
        self.flush()
        write_all_at(self._fd, data, at)
        self._load(self.size)

    def truncate(self, size: int) -> None:
        """Cut the file."""
        self.flush()
        os.ftruncate(self._fd, size)
        self._load(size)

    def _load(self, size: int) -> None:
        """Take the last bytes of the file, which has `size`, into the buffer again."""
        self._held = size % BLOCK if self._buffer.is_worth_it else 0
        self._start = size - self._held
        if self._held:
            os.preadv(self._fd, [self._buffer.view[: self._held]], self._start)

    def flush(self) -> None:
        """Write what waits; what comes behind it is written together with it again."""
        if self._held:
            write_all_at(self._fd, self._buffer.view[: self._held], self._start)
            self.cached += self._held

    def finish(self) -> None:
        """Write what waits; nothing comes behind it."""
        if self._held:
            self._buffer.write(self._fd, self._held, self._start)
            self._start, self._held = self.size, 0


def _copy(source: int, target: int, length: int, at: int) -> int:
    """Copy up to `length` bytes from a file's position to `at`; give how many."""
    if hasattr(os, "copy_file_range"):
        with contextlib.suppress(OSError):  # other file system, or a kernel that can't
            if done := os.copy_file_range(source, target, length, offset_dst=at):
                return done
    return write_all_at(target, os.read(source, min(length, 1 << 20)), at)
