"""The digests of stored volumes, read side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Final

from pybak.display import printable
from pybak.errors import Interrupted, StorageError
from pybak.volumes.model import Volume

_READ_BYTES: Final = 1 << 20

Advance = Callable[[int, int, bytes], None]
"""Called with the files finished and the bytes read since the last call, and the file's path."""


def describe_volumes(
    paths: Iterable[bytes],
    *,
    workers: int,
    hashes: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
    advance: Advance = lambda _files, _size, _path: None,
) -> dict[bytes, Volume]:
    """Give place, size and SHA-256 of each file, or with `hashes` False no digest.

    Hashing lets go of the interpreter, so threads do; `advance` is called by one at a time. Raises
    StorageError for a file that can't be read, Interrupted once `should_stop` says so.
    """
    wanted: Sequence[bytes] = list(dict.fromkeys(paths))
    counting = Lock()

    def told(files: int, size: int, path: bytes) -> None:
        with counting:
            advance(files, size, path)

    def describe(path: bytes) -> Volume:
        digest = hashlib.sha256()
        try:
            with open(path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                while hashes and (block := file.read(_READ_BYTES)):
                    if should_stop():
                        raise Interrupted("stopped on request")
                    digest.update(block)
                    told(0, len(block), path)
        except OSError as error:
            message = f"{printable(path)}: can't be read ({error.strerror}); check the disk"
            raise StorageError(message) from error
        told(1, 0, path)
        uri = Path(os.fsdecode(path)).as_uri()
        return Volume(uri=uri, size=size, sha256=digest.hexdigest() if hashes else None)

    with ThreadPoolExecutor(max(1, min(workers, len(wanted)))) as pool:
        return dict(zip(wanted, pool.map(describe, wanted), strict=True))
