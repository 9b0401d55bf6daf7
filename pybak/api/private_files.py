"""Files that only their owner may read: the service's own key and its clients."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pybak.errors import PlanError

FOLDER: Final = "api"
"""The name of the folder in PYBAK_HOME."""


def read_private(path: Path) -> bytes | None:
    """Give what a file holds; None if there is none. Raises PlanError if others may read it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlanError(f"{path}: can't be read ({error.strerror})") from error
    with os.fdopen(fd, "rb") as file:
        if stat.S_IMODE(os.fstat(fd).st_mode) & 0o077:
            raise PlanError(f"{path}: others can read it; chmod 600 it, and make its secrets anew")
        return file.read()


def write_private(path: Path, data: bytes) -> None:
    """Replace a file at once; on disk when this returns. Raises PlanError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        temporary.replace(path)
    except OSError as error:
        raise PlanError(f"{path}: can't be written ({error.strerror})") from error


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other processes from changing `path` as long as the block lasts. Raises PlanError."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PlanError(f"{lock}: can't be written ({error.strerror})") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
