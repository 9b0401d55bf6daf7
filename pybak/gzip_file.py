"""One file compressed into one `.gz` of one member (RFC 1952), by every core.

The content becomes pieces of raw deflate that join into one stream (`pybak.formats.deflate`), made
side by side while the next ones are read. The file appears under its name when it is complete and
on the disk, and never replaces another one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from pybak import problems
from pybak.backup.read_source import (
    Read,
    look_again,
    open_source,
    read_pieces,
    read_range,
    state_of,
)
from pybak.errors import SourceError, StorageError
from pybak.formats.deflate import (
    END,
    WHOLE_LIMIT,
    Deflater,
    crc32,
    crc32_combine,
    deflater,
    looks_incompressible,
    stored_blocks,
)
from pybak.staging import NO_HARD_LINKS, reason, sync_folder
from pybak.writing import write_all

TEMPORARY_PREFIX: Final = b".pybak-gzip-"
"""What the names of unfinished files begin with; only a killed process leaves one behind."""

_HEAD = struct.Struct("<2s2BI2B")  # ID1 ID2, CM, FLG, MTIME, XFL, OS
_TAIL = struct.Struct("<II")  # CRC32, ISIZE
_ID = b"\x1f\x8b"
_DEFLATE = 8
_FLAG_NAME = 1 << 3
_UNIX = 3
_XFL = {1: 4, 9: 2}  # the fastest level, the best one
_MAX32 = 0xFFFFFFFF
_NS = 1_000_000_000
_PRINTABLE = range(0x20, 0x7F)
_ATTEMPTS = 2
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class GzipResult(NamedTuple):
    """Bytes read, bytes of the `.gz`, SHA-256 (hex) and CRC-32 of what was read."""

    size: int
    stored_size: int
    sha256: str
    crc: int


class _Packed(NamedTuple):
    """Deflated bytes, and size and CRC-32 of what they were made of."""

    deflated: bytes
    size: int
    crc: int


_Pack: TypeAlias = Callable[[bytes], _Packed]


def gzip_file(
    source: bytes,
    target: bytes,
    *,
    level: int = 2,
    reproducible: bool = False,
    workers: int = 1,
    read: Read = os.pread,
) -> GzipResult:
    """Compress the file `source` into the new file `target`, which gets its time and mode.

    `level` goes from 1 to 9. The header has the source's name and time in seconds; not if it is
    to be `reproducible`, so that the same content makes the same bytes. A name that is not plain
    ASCII is left out, because RFC 1952 reads it as Latin-1 and gzip and 7-Zip do not.
    `workers` is how many threads compress; each has up to three pieces of 1 to 4 MiB in memory.
    A source that changes meanwhile is read once more. Nothing is left behind by a failure.
    Raises SourceError (vanished, type_changed, unreadable, io_error, changed), and StorageError
    when `target` exists already or can't be written.
    """
    source_fd, status = open_source(source)
    try:
        with _storage_errors(target), _new_file(target) as (temporary, fd):
            for _ in range(_ATTEMPTS):
                os.ftruncate(fd, 0)
                os.lseek(fd, 0, os.SEEK_SET)
                before = status
                digest = hashlib.sha256()
                blocks = gzip_blocks(
                    source_fd, before, name=source, level=level, seen=digest.update,
                    workers=workers, reproducible=reproducible, read=read,
                )  # fmt: skip
                stored_size, size, crc = _write(fd, blocks)
                result = GzipResult(size, stored_size, digest.hexdigest(), crc)
                status = look_again(source_fd)
                if state_of(status) == state_of(before) and result.size == before.st_size:
                    break
            else:
                message = f"{os.fsdecode(source)}: changed while it was read, twice; try later"
                raise SourceError(message, problems.CHANGED)
            with contextlib.suppress(OSError):  # some file systems have no modes
                os.fchmod(fd, status.st_mode & 0o777)
            os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fsync(fd)
            _publish(temporary, target)
            return result
    finally:
        os.close(source_fd)


def _header(name: bytes, status: os.stat_result, level: int, reproducible: bool) -> bytes:
    name = os.path.basename(name)
    flags = _FLAG_NAME if name and all(byte in _PRINTABLE for byte in name) else 0
    seconds = status.st_mtime_ns // _NS
    if reproducible or not 0 <= seconds <= _MAX32:
        seconds = 0  # no time
    head = _HEAD.pack(_ID, _DEFLATE, flags, seconds, _XFL.get(level, 0), _UNIX)
    return head + name + b"\0" if flags else head


def _plan(fd: int, size: int, level: int, read: Read) -> tuple[Iterator[bytes], _Pack, bytes]:
    """Give the content in pieces, what compresses one, and what ends the stream."""
    engine = deflater(level)
    if 0 < size <= WHOLE_LIMIT:
        return iter([read_range(fd, size, 0, read)]), partial(_pack_whole, engine), b""
    return read_pieces(fd, 0, size, engine.piece_bytes, read), partial(_pack, engine), END


def _pack(engine: Deflater, data: bytes) -> _Packed:
    deflated = b""
    if not (engine.slow and looks_incompressible(data)):
        deflated = engine.piece(data)
    if not deflated or len(deflated) >= len(data):
        deflated = stored_blocks(data)
    return _Packed(deflated, len(data), crc32(data))


def _pack_whole(engine: Deflater, data: bytes) -> _Packed:
    deflated = engine.whole(data)
    if len(deflated) >= len(data):
        deflated = stored_blocks(data) + END
    return _Packed(deflated, len(data), crc32(data))


def _pack_all(pack: _Pack, pieces: Iterable[bytes], workers: int) -> Generator[_Packed, None, None]:
    """Give the packed pieces in order; reads ahead no more than two a worker."""
    if workers <= 1:
        yield from map(pack, pieces)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_Packed]] = deque()
        try:
            for data in pieces:
                waiting.append(pool.submit(pack, data))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for unfinished in waiting:
                unfinished.cancel()


def deflate_blocks(
    fd: int,
    size: int,
    *,
    level: int,
    seen: Callable[[bytes], object],
    workers: int = 1,
    read: Read = os.pread,
) -> Generator[bytes, None, tuple[int, int]]:
    """Yield an open file of `size` bytes as one stream of raw deflate; return size and CRC-32.

    These are of what was read, which is less if the file shrank. `seen` is told all of it in
    order. Raises SourceError (io_error).
    """
    pieces, pack, end = _plan(fd, size, level, read)

    def told() -> Iterator[bytes]:
        for data in pieces:
            seen(data)
            yield data

    done = crc = 0
    # Closed, so that its threads end if whoever takes the blocks fails.
    with contextlib.closing(_pack_all(pack, told(), workers)) as packed:
        for piece in packed:
            yield piece.deflated
            done += piece.size
            crc = crc32_combine(crc, piece.crc, piece.size)
    if end:
        yield end
    return done, crc


def gzip_blocks(
    fd: int,
    status: os.stat_result,
    *,
    name: bytes,
    level: int,
    seen: Callable[[bytes], object],
    workers: int = 1,
    reproducible: bool = False,
    read: Read = os.pread,
) -> Generator[bytes, None, tuple[int, int]]:
    """Yield an open file as a `.gz`; all else is as for `gzip_file` and `deflate_blocks`."""
    yield _header(b"" if reproducible else name, status, level, reproducible)
    size, crc = yield from deflate_blocks(
        fd, status.st_size, level=level, seen=seen, workers=workers, read=read
    )
    yield _TAIL.pack(crc, size & _MAX32)
    return size, crc


def _write(fd: int, blocks: Generator[bytes, None, tuple[int, int]]) -> tuple[int, int, int]:
    """Write all blocks; give how many bytes that were, and what the generator returned."""
    stored_size = 0
    with contextlib.closing(blocks):
        while True:
            try:
                stored_size += write_all(fd, next(blocks))
            except StopIteration as end:
                size, crc = end.value
                return stored_size, size, crc


@contextmanager
def _storage_errors(target: bytes) -> Iterator[None]:
    where = os.fsdecode(target)
    try:
        yield
    except FileExistsError as error:
        message = f"{where}: exists already; choose another name or remove it first"
        raise StorageError(message) from error
    except OSError as error:
        raise StorageError(f"{where}: {reason(error)}; check the disk and the folder") from error


@contextmanager
def _new_file(target: bytes) -> Iterator[tuple[bytes, int]]:
    """Give a new file beside `target` that is gone afterwards, and its descriptor.

    Raises FileExistsError if `target` is there already.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    name = TEMPORARY_PREFIX + os.urandom(8).hex().encode() + b".tmp"
    temporary = os.path.join(os.path.dirname(target), name)
    fd = os.open(temporary, _NEW_FILE, 0o600)
    try:
        yield temporary, fd
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):  # it may have been moved to its name
            os.unlink(temporary)


def _publish(temporary: bytes, target: bytes) -> None:
    """Give the file its name, unless that is taken, and bring the folder to the disk."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        os.close(os.open(target, _NEW_FILE, 0o600))
        try:
            os.replace(temporary, target)
        except OSError:
            os.unlink(target)
            raise
    try:
        sync_folder(os.path.dirname(target) or b".")
    except OSError:
        os.unlink(target)
        raise
