"""An SQLite catalog that can be read and not written: on a read-only disk, or somebody else's.

A file in WAL mode is read with the help of two files beside it, which SQLite makes if they are not
there. Where they can't be made it reads the file as one that never changes, if no log holds newer
changes (https://sqlite.org/wal.html#readonly); if one does, its index must be there too. Where the
owner has it open both are there, and SQLite sees to all else. A file that was taken for one that
never changes is looked at before and after it is read, for its owner may begin to write.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from pybak.catalog.failures import CatalogError, unusable

if TYPE_CHECKING:
    from sqlalchemy import Engine

_LOG: Final = "-wal"
_INDEX: Final = "-shm"
_NEVER_CHANGES: Final = "immutable=1"


def is_read_only(path: str) -> bool:
    """Whether an SQLite file is there, and it or its folder can't be written."""
    folder = os.path.dirname(os.path.realpath(path))
    return os.path.isfile(path) and not (os.access(path, os.W_OK) and os.access(folder, os.W_OK))


class FixedFile:
    """How an SQLite file is read that can't be written, as it is now."""

    def __init__(self, path: str) -> None:
        """Look at it. Raises CatalogError, OSError."""
        self.path = path
        self._real = os.path.realpath(path)
        self._before = self._state()
        self._how = _how(path)
        self._is_checked = self._how == _NEVER_CHANGES

    def has_moved(self) -> bool:
        """Whether what was read may be of more than one state."""
        if not self._is_checked:
            return False
        try:
            return self._state() != self._before
        except OSError:
            return True

    def moved(self) -> CatalogError:
        """Give the error for that."""
        return unusable(self.path, "it is being written", "try again")

    def _state(self) -> tuple[int, ...]:
        found = os.stat(self._real)
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, self._log_bytes())

    def _log_bytes(self) -> int:
        try:
            return os.stat(self._real + _LOG).st_size
        except OSError:
            return 0

    def engine(self, *, timeout: float) -> Engine:
        """Give an engine that reads the file and makes nothing beside it."""
        address = f"file:{quote(os.fsencode(self._real))}?{self._how}"

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(address, uri=True, timeout=timeout, check_same_thread=False)

        # The URL names no file, so that the dialect would take one connection for all threads.
        return create_engine("sqlite+pysqlite://", creator=connect, poolclass=QueuePool)


def _how(path: str) -> str:
    real = os.path.realpath(path)
    try:
        log_bytes = os.stat(real + _LOG).st_size
    except OSError:
        return _NEVER_CHANGES
    if os.path.exists(real + _INDEX):
        return "mode=ro"
    if not log_bytes:
        return _NEVER_CHANGES
    raise unusable(
        path, "it can't be written, and its log holds changes that are not in it yet",
        "let its owner run any command once, or copy it with its log into a folder of yours and "
        "set PYBAK_CATALOG_URL",
    )  # fmt: skip
