"""The digests of stored volumes, read side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Final

from pybak.display import printable
from pybak.errors import Interrupted, NotFoundError, StorageError
from pybak.storage.folders import Folders
from pybak.storage.opening import is_remote, open_storage, split
from pybak.storage.patience import patiently
from pybak.storage.protocol import Stored
from pybak.volumes.model import Volume

_READ_BYTES: Final = 1 << 20
_FETCH_BYTES: Final = 8 << 20

Advance = Callable[[int, int, bytes], None]
"""Called with the files finished and the bytes read since the last call, and the file's path."""


def describe_volumes(
    paths: Iterable[bytes],
    *,
    workers: int,
    hashes: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
    advance: Advance = lambda _files, _size, _path: None,
    is_there: Callable[[bytes], bool] = lambda _path: True,
) -> dict[bytes, Volume]:
    """Give place, size and SHA-256 of each file, or with `hashes` False no digest.

    A file that can't be read is left out if `is_there` says that it is gone or another by now.

    Files in storages are read through like those on disk: what a storage knows of a file is no
    SHA-256 of all of it. Hashing lets go of the interpreter, so threads do; `advance` is called by
    one at a time. Raises StorageError for a file that can't be read, Interrupted once `should_stop`
    says so.
    """
    wanted: Sequence[bytes] = list(dict.fromkeys(paths))
    counting = Lock()

    def told(files: int, size: int, path: bytes) -> None:
        with counting:
            advance(files, size, path)

    folders = Folders(wanted)

    def described(path: bytes) -> Volume | None:
        try:
            return describe(path)
        except (NotFoundError, StorageError):
            if is_there(path):
                raise
            return None

    def describe(path: bytes) -> Volume:
        digest = hashlib.sha256()
        size, blocks = _opened(path, folders)
        for block in blocks if hashes else ():
            if should_stop():
                raise Interrupted("stopped on request")
            digest.update(block)
            told(0, len(block), path)
        told(1, 0, path)
        uri = os.fsdecode(path) if is_remote(path) else Path(os.fsdecode(path)).as_uri()
        return Volume(uri=uri, size=size, sha256=digest.hexdigest() if hashes else None)

    with ThreadPoolExecutor(max(1, min(workers, len(wanted)))) as pool:
        found = zip(wanted, pool.map(described, wanted), strict=True)
        return {path: volume for path, volume in found if volume is not None}


def _opened(path: bytes, folders: Folders) -> tuple[int, Iterator[bytes]]:
    """Give the size of a file and its bytes, which are not read before they are asked for."""
    if is_remote(path):
        return _stored(path, folders)
    try:
        return os.stat(path).st_size, _blocks(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _blocks(path: bytes) -> Iterator[bytes]:
    try:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_READ_BYTES):
                yield block
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: bytes, error: OSError) -> StorageError:
    return StorageError(f"{printable(path)}: can't be read ({error.strerror}); check the disk")


def _stored(path: bytes, folders: Folders) -> tuple[int, Iterator[bytes]]:
    found = folders.stat(path)
    if found is None:
        raise StorageError(f"{printable(path)}: is gone; run the rebuild again")
    return found.size, _ranges(path, found)


def _ranges(path: bytes, found: Stored) -> Iterator[bytes]:
    storage = open_storage(split(os.fsdecode(path))[0])
    at = 0
    while at < found.size:
        block = patiently(
            partial(storage.read, found.name, at, _FETCH_BYTES, version=found.version or None)
        )
        if not block:
            raise StorageError(f"{printable(path)}: ends early; run the rebuild again")
        at += len(block)
        yield block
