"""What inboxes did, carried over from the old catalog: no archive tells it.

The rows go over as they are, with their numbers, which duplicates refer to; only the numbers of
jobs are those of the new catalog. Rows that a killed round left open are settled by the next one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection

from pybak.catalog.failures import sqlite_code
from pybak.catalog.models import ProcessedFile, unescaped
from pybak.catalog.rows import execute_many
from pybak.catalog.snapshots import job_number

_TABLE: Final = "processed_file"
_JOBS: Final = "SELECT id, name FROM job WHERE id IN (SELECT job_id FROM processed_file)"
_CHUNK: Final = 10_000
_IN_USE: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class _UnreadableError(Exception):
    """The old catalog can't be read."""


def carry_over(
    old: str, connection: Connection, check: Callable[[], object] = lambda: None
) -> str | None:
    """Copy the rows of a catalog file into a new, empty one, within the caller's transaction.

    All or none: gives why the old file can't be read, None if it can, or is not there. One of
    before there were inboxes has no rows. `check` is called now and then, and raises to stop it.
    Raises sqlite3.Error where the new one can't be written, or another program holds the old one.
    """
    if not os.path.lexists(old):
        return None
    point = connection.begin_nested()
    try:
        with contextlib.closing(_opened(old)) as source:
            _copy(source, connection, check)
    except (_UnreadableError, sqlite3.IntegrityError) as error:
        point.rollback()
        return str(error)
    point.commit()
    return None


def _opened(path: str) -> sqlite3.Connection:
    with _reading():
        return sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True)


@contextmanager
def _reading() -> Iterator[None]:
    """Tell failures of the old file from those of the new one."""
    try:
        yield
    except sqlite3.Error as error:
        if sqlite_code(error) in _IN_USE:
            raise
        raise _UnreadableError(str(error)) from error


def _copy(source: sqlite3.Connection, connection: Connection, check: Callable[[], object]) -> None:
    with _reading():
        source.execute("BEGIN")  # all of it as it is at one moment
        names = {row[1] for row in source.execute(f"PRAGMA table_info({_TABLE})")}
        if not names:  # there is no such table
            return
        jobs = source.execute(_JOBS).fetchall()
    table = ProcessedFile.__table__  # type: ignore[attr-defined]
    columns = ["job_id", *(one.name for one in table.columns if one.name != "job_id")]
    columns = [name for name in columns if name in names]
    numbers = {
        number: job_number(connection, unescaped(name))
        for number, name in jobs
        if isinstance(name, str)
    }
    listed, marks = ", ".join(columns), ", ".join("?" * len(columns))
    execute_many(
        connection,
        f"INSERT INTO {_TABLE} ({listed}) VALUES ({marks})",  # noqa: S608 - our own names
        _rows(source, f"SELECT {listed} FROM {_TABLE} ORDER BY id", numbers, check),  # noqa: S608
    )


def _rows(
    source: sqlite3.Connection, query: str, jobs: dict[int, int], check: Callable[[], object]
) -> Iterator[tuple[Any, ...]]:
    """Yield rows, whose first column is the job's number, with that of the new catalog."""
    with _reading():
        cursor = source.execute(query)
    while True:
        check()
        with _reading():
            found = cursor.fetchmany(_CHUNK)
        if not found:
            return
        for job, *rest in found:
            if job not in jobs:
                raise _UnreadableError(f"job {job} has no name")
            yield (jobs[job], *rest)
