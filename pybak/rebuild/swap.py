"""A new catalog file put in the place of the old one, which is kept under another name.

SQLite's side files (`-wal`, `-shm`) belong to the file that they were made for: beside another one
they would spoil it. So the old file is first taken out of the mode that makes them, which works
only where nobody else has it open; those of a damaged file, which SQLite does not touch, move away
with it (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from pybak.errors import LockedError, StorageError
from pybak.staging import NO_HARD_LINKS, reason

_SIDE_FILES: Final = ("-wal", "-shm")
_WAIT_SECONDS: Final = 10.0
_NEW: Final = ".new-"
_LEFT_SECONDS: Final = 24 * 3600


def new_name(catalog: str, run_id: str) -> str:
    """Give where the new file is made: beside the old one, so that it can take its name at once."""
    return f"{catalog}{_NEW}{run_id}"


def remove_leftovers(catalog: str) -> None:
    """Remove what rebuilds that were killed more than a day ago left beside a catalog."""
    folder, name = os.path.split(catalog)
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            is_own = entry.name.startswith(f"{name}{_NEW}")
            if is_own and time.time() - entry.stat().st_mtime > _LEFT_SECONDS:
                os.unlink(entry.path)


def discard(path: str) -> None:
    """Remove an unfinished file with its side files."""
    for ending in ("", *_SIDE_FILES):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + ending)


def put_in_place(new: str, catalog: str, *, now: datetime) -> str | None:
    """Give the file `new`, which nobody has open, the name `catalog`; give the old one's new name.

    There is a whole catalog under that name at any moment. `now` is local, and part of the old
    one's name: `catalog.db.old-20261121_101500`. Raises LockedError where somebody has the old one
    open, and StorageError.
    """
    try:
        _settle(new)
        kept = None
        if os.path.lexists(catalog):
            kept = _free(f"{catalog}.old-{now:%Y%m%d_%H%M%S}")
            with _held(catalog):
                _move_side_files(catalog, kept)
                _name_old(catalog, kept)
                os.replace(new, catalog)
        else:
            os.replace(new, catalog)
        _sync(os.path.dirname(catalog))
    except (OSError, sqlite3.Error) as error:
        what = reason(error) if isinstance(error, OSError) else str(error)
        message = f"{catalog}: can't be replaced ({what}); the old catalog is as it was"
        raise StorageError(message) from error
    return kept


def _settle(path: str) -> None:
    """Bring the log into the file, and the file to the disk."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _held(path: str) -> Iterator[None]:
    """Keep others out of an SQLite file, and its side files away; nobody uses a damaged one."""
    connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
    with contextlib.closing(connection):
        try:
            connection.execute("PRAGMA journal_mode=DELETE").fetchall()
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                message = f"{path}: another program has the catalog open; try again when it is done"
                raise LockedError(message) from error
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # it stays the catalog, as it was
                connection.rollback()
                connection.execute("PRAGMA journal_mode=WAL").fetchall()
            raise


def _free(path: str) -> str:
    """Give the name, or with a number behind it, that is not taken."""
    name, number = path, 1
    while os.path.lexists(name):
        number += 1
        name = f"{path}_{number}"
    return name


def _move_side_files(old: str, kept: str) -> None:
    for ending in _SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            os.rename(old + ending, kept + ending)


def _name_old(old: str, kept: str) -> None:
    try:
        os.link(old, kept, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        os.rename(old, kept)


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # some file systems sync no folders
        os.fsync(fd)
    os.close(fd)
