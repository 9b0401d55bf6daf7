"""Tell by reading whether files are what an earlier run read, as their times can't.

Files are read the way packers read them: data alone where a sparse one came from a tar archive,
cut where the parts were cut. What can't be read, or moves meanwhile, counts as another file; the
packer will say what is wrong with it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pybak.backup.base import Digest
from pybak.backup.read_source import look_again, open_source, read_pieces, state_of
from pybak.entries import Entry
from pybak.errors import SourceError
from pybak.formats.sparse import Run, data_runs, data_size, may_have_holes

_READ_BYTES: Final = 1 << 20


def same_contents(
    files: Sequence[tuple[bytes, Entry, Digest | None]],
    *,
    threads: int,
    stop: Callable[[], object] = lambda: None,
) -> list[bool]:
    """Read files (path on disk, what the walk saw, digest); give which still have that digest.

    `stop` is called now and then; what it raises ends the reading.
    """
    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(lambda file: _is_same(file[0], file[1], file[2], stop), files))
        finally:
            pool.shutdown(cancel_futures=True)


def failure_of(path: bytes, stop: Callable[[], object]) -> SourceError | None:
    """Read a file to its end; give why that can't be done, if it can't."""
    try:
        fd, status = open_source(path)
        try:
            for _ in _blocks(fd, [(0, status.st_size)], stop):
                pass
        finally:
            os.close(fd)
    except SourceError as error:
        return error
    return None


def _is_same(path: bytes, entry: Entry, digest: Digest | None, stop: Callable[[], object]) -> bool:
    stop()
    if digest is None or (digest[0] is None and not digest[1]):
        return False
    try:
        return any(
            _reads_as(path, entry, digest, data_only=data_only, stop=stop)
            for data_only in (True, False)
        )
    except SourceError:
        return False


def _reads_as(
    path: bytes, entry: Entry, digest: Digest, *, data_only: bool, stop: Callable[[], object]
) -> bool:
    """Read the file, of a sparse one the data alone or all of it."""
    fd, status = open_source(path)
    try:
        seen = state_of(status)
        if seen != (entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode):
            return False
        holes = data_runs(fd, status.st_size) if may_have_holes(status) else None
        if data_only or holes is None:
            if not data_only:
                return False  # it has no holes, and was read as it is already
            runs = [(0, status.st_size)] if holes is None else holes
        else:
            runs = [(0, status.st_size)]
        return _digests_match(fd, runs, digest, stop) and state_of(look_again(fd)) == seen
    finally:
        os.close(fd)


def _digests_match(fd: int, runs: list[Run], digest: Digest, stop: Callable[[], object]) -> bool:
    whole, parts = digest
    wanted = [(data_size(runs), whole)] if whole is not None else list(parts)
    if sum(size for size, _ in wanted) != data_size(runs):
        return False
    blocks = _blocks(fd, runs, stop)
    rest = memoryview(b"")
    for size, expected in wanted:
        sha = hashlib.sha256()
        left = size
        while left:
            if not rest:
                rest = memoryview(next(blocks, b""))
                if not rest:
                    return False  # it ends early
            piece, rest = rest[:left], rest[left:]
            sha.update(piece)
            left -= len(piece)
        if sha.hexdigest() != expected:
            return False
    return True


def _blocks(fd: int, runs: list[Run], stop: Callable[[], object]) -> Iterator[bytes]:
    for start, length in runs:
        for block in read_pieces(fd, start, length, _READ_BYTES):
            stop()
            yield block
