"""Read files that other programs may be writing, moving or deleting right now.

A file is opened without following a link in its last component, compared before and after the
read, and read again when it moved. What can't be had is a `SourceError` with a code that says
whose fault it is.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

from pybak import problems
from pybak.errors import SourceError

_Got = TypeVar("_Got", bytes, int)

Read = Callable[[int, int, int], bytes]
"""`os.pread`: file descriptor, length, offset."""

READ_ATTEMPTS: Final = 4
"""One read and three retries."""
_RETRY_SECONDS: Final = (0.05, 0.2, 0.8)
_RETRY_ERRNOS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR})

# O_NONBLOCK: opening a FIFO that took a file's place must not wait for a writer.
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NOATIME = getattr(os, "O_NOATIME", 0)
_S_IFMT = 0o170000


class State(NamedTuple):
    """What tells whether a file's content moved between two looks."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def state_of(status: os.stat_result) -> State:
    """Take the telling parts of a stat result."""
    return State(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class SmallFile(NamedTuple):
    """A file that is open, and its status."""

    fd: int
    status: os.stat_result


def open_small(path: bytes, limit: int) -> SmallFile | None:
    """Open a regular file of at most `limit` bytes in the fewest calls.

    None when anything at all is out of the ordinary (larger, refused, gone): then `open_source`
    finds out what it is.
    """
    try:
        fd = os.open(path, _OPEN_FLAGS | _NOATIME)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
    except OSError:
        os.close(fd)
        return None
    if status.st_mode & _S_IFMT != stat.S_IFREG or status.st_size > limit:
        os.close(fd)
        return None
    return SmallFile(fd, status)


def read_whole(fd: int, space: memoryview, status: os.stat_result) -> bool:
    """Read all of a file that was just opened into `space`, which has its size.

    False when anything is out of the ordinary: it moved meanwhile, or can't be read at once.
    """
    size = status.st_size
    try:
        if size and os.readv(fd, (space,)) != size:
            return False
        return _is_unmoved(status, os.fstat(fd))
    except OSError:
        return False


def read_small(fd: int, status: os.stat_result) -> bytes | None:
    """Read all of a file that was opened with this status.

    None as `read_whole` gives False. About 6 microseconds with the opening, and the copy.
    """
    size = status.st_size
    try:
        data = os.pread(fd, size, 0) if size else b""
        return data if len(data) == size and _is_unmoved(status, os.fstat(fd)) else None
    except OSError:
        return None


def _is_unmoved(before: os.stat_result, after: os.stat_result) -> bool:
    return (
        after.st_mtime_ns == before.st_mtime_ns
        and after.st_size == before.st_size
        and after.st_ctime_ns == before.st_ctime_ns
    )


def open_source(path: bytes, folder_fd: int | None = None) -> tuple[int, os.stat_result]:
    """Open the regular file `path`, below an open folder if given; give its descriptor and status.

    Leaves its access time alone where the system allows it (own files, or root).
    Raises SourceError: vanished, type_changed, unreadable, io_error.
    """
    for attempt in range(READ_ATTEMPTS):
        try:
            fd = _open(path, folder_fd)
        except OSError as error:
            if error.errno in _RETRY_ERRNOS and attempt < len(_RETRY_SECONDS):
                time.sleep(_RETRY_SECONDS[attempt])
                continue
            raise open_error(error) from error
        try:
            status = os.fstat(fd)
        except OSError as error:
            os.close(fd)
            raise open_error(error) from error
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise SourceError("was a file when listed, is none now", problems.TYPE_CHANGED)
        return fd, status
    raise AssertionError("the last attempt returns or raises")


def look_again(fd: int) -> os.stat_result:
    """Give the status of an open file after it was read. Raises SourceError (io_error)."""
    try:
        return os.fstat(fd)
    except OSError as error:  # network file systems lose files that are open
        raise SourceError(f"lost while it was read: {_text(error)}", problems.IO_ERROR) from error


def look_at(path: bytes, kind: int) -> os.stat_result:
    """Give the status of what is not to be opened; `kind` is its file type (`stat.S_IFMT`).

    Raises SourceError: vanished, type_changed, unreadable, io_error.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise open_error(error) from error
    if stat.S_IFMT(status.st_mode) != kind:
        raise SourceError("is no longer what it was when it was listed", problems.TYPE_CHANGED)
    return status


def _open(path: bytes, folder_fd: int | None) -> int:
    if _NOATIME:
        try:
            return os.open(path, _OPEN_FLAGS | _NOATIME, dir_fd=folder_fd)
        except PermissionError:
            pass  # someone else's file: O_NOATIME needs its owner or root
    return os.open(path, _OPEN_FLAGS, dir_fd=folder_fd)


def open_error(error: OSError) -> SourceError:
    """Say what opening a file failed with: vanished, type_changed, unreadable, io_error."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return SourceError("vanished before it was read", problems.VANISHED)
    if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
        return SourceError("was a file when listed, is none now", problems.TYPE_CHANGED)
    if error.errno in (errno.EACCES, errno.EPERM):
        return SourceError("permission denied", problems.UNREADABLE)
    if error.errno in _RETRY_ERRNOS:
        return SourceError(f"can't be opened: {_text(error)}", problems.IO_ERROR)
    return SourceError(f"can't be opened: {_text(error)}", problems.UNREADABLE)


def read_range(fd: int, length: int, offset: int, read: Read = os.pread) -> bytes:
    """Read up to `length` bytes at `offset`; fewer only at the end of the file.

    A failing read is tried again three times. Raises SourceError (io_error) then.
    """
    data = _retried(lambda: read(fd, length, offset), offset)
    if len(data) == length or not data:
        return data
    pieces = [data]  # short reads happen on network and FUSE file systems
    got = len(data)
    while got < length:
        data = _retried(lambda: read(fd, length - got, offset + got), offset + got)  # noqa: B023
        if not data:
            break
        pieces.append(data)
        got += len(data)
    return b"".join(pieces)


def filling(read: Read = os.pread) -> Callable[[int, memoryview, int], int]:
    """Give a function that reads into all of a buffer at an offset and gives how many bytes.

    Fewer than it holds only at the end of the file. Retries and raises as `read_range` does.
    """
    read_into = _preadv if read is os.pread and hasattr(os, "preadv") else _copying(read)

    def fill(fd: int, space: memoryview, offset: int) -> int:
        got = 0
        while got < len(space):
            rest, at = space[got:], offset + got
            more = _retried(lambda: read_into(fd, rest, at), at)  # noqa: B023
            if not more:
                break
            got += more
        return got

    return fill


def _preadv(fd: int, space: memoryview, offset: int) -> int:
    return os.preadv(fd, (space,), offset)


def _copying(read: Read) -> Callable[[int, memoryview, int], int]:
    def read_into(fd: int, space: memoryview, offset: int) -> int:
        data = read(fd, len(space), offset)
        space[: len(data)] = data
        return len(data)

    return read_into


def _retried(read: Callable[[], _Got], offset: int) -> _Got:
    for wait in _RETRY_SECONDS:
        try:
            return read()
        except OSError as error:
            if error.errno not in _RETRY_ERRNOS:
                raise _read_error(error, offset) from error
        time.sleep(wait)
    try:
        return read()
    except OSError as error:
        raise _read_error(error, offset) from error


def _read_error(error: OSError, offset: int) -> SourceError:
    return SourceError(f"read error near byte {offset}: {_text(error)}", problems.IO_ERROR)


def read_pieces(
    fd: int, start: int, length: int, piece: int, read: Read = os.pread
) -> Iterator[bytes]:
    """Yield `length` bytes from `start` on in pieces; ends early where the file does."""
    at, end = start, start + length
    while at < end:
        data = read_range(fd, min(piece, end - at), at, read)
        if not data:
            return
        yield data
        at += len(data)


def read_link(path: bytes) -> bytes:
    """Give the target of the symbolic link `path`.

    Raises SourceError: vanished, type_changed, unreadable.
    """
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno == errno.EINVAL:
            message = "was a symbolic link when listed, is none now"
            raise SourceError(message, problems.TYPE_CHANGED) from error
        raise open_error(error) from error


def _text(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
