"""Rows of file versions, put down in a database of their own while an archive is being made.

The catalog learns of an archive when it is complete, in one transaction. What costs most of that
is done here, before: lines of the manifest become rows as they come. A catalog that is an SQLite
file then copies them by one statement.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from pybak.catalog.rows import COLUMNS, Row, insert_versions, is_postgres, row_of
from pybak.entries import FILE
from pybak.formats.manifest_reader import unpack_lines

_PRAGMAS: Final = ("journal_mode=OFF", "synchronous=OFF")
"""What a kill leaves of it is thrown away with the folder that it is in."""
_ATTACHED: Final = "collected"
_NAMES: Final = ", ".join(COLUMNS)
_MARKS: Final = ", ".join("?" * len(COLUMNS))


class CollectedVersions:
    """The rows of the members whose lines were added; `content_size` are their files' bytes.

    It never stands in the way of a run: once something fails, `is_whole` is false for good and
    nothing is added any more.
    """

    def __init__(self, path: Path) -> None:
        """Begin with none, in the new file `path`."""
        self.count = 0
        self.content_size = 0
        self.is_whole = True
        self._path = path
        self._database: sqlite3.Connection | None = None

    def add(self, packed: bytes) -> None:
        """Add the members of which these packed lines of a manifest tell; one thread at a time."""
        if not self.is_whole:
            return
        try:
            self._put([row_of(fact) for fact in unpack_lines(packed) if fact.path is not None])
        except (OSError, sqlite3.Error):
            self.is_whole = False
            self.close()

    def _put(self, rows: list[Row]) -> None:
        if self._database is None:
            self._database = self._begin()
        self._database.executemany(f"INSERT INTO version VALUES ({_MARKS})", rows)  # noqa: S608
        self.count += len(rows)
        self.content_size += sum(row[2] for row in rows if row[1] == FILE)

    def _begin(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        for pragma in _PRAGMAS:
            database.execute(f"PRAGMA {pragma}")
        database.execute(f"CREATE TABLE version ({_NAMES})")
        database.execute("BEGIN")
        return database

    def finish(self) -> None:
        """Know that nothing is added any more, before `copy_to`."""
        try:
            if self._database is not None:
                self._database.execute("COMMIT")
        except sqlite3.Error:
            self.is_whole = False
        self.close()

    def close(self) -> None:
        """Let go of the file; fine the second time."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def copy_to(self, connection: Connection, job_id: int, archive_id: int, first_seq: int) -> None:
        """Insert them all into the catalog as open versions, in the caller's transaction.

        SQLite can't let go of this database before the transaction ends, so the connection is
        one that is closed then rather than used again.
        """
        if not self.count:
            return
        if is_postgres(connection):
            insert_versions(connection, job_id, archive_id, first_seq, self._rows())
            return
        connection.detach()
        # As bytes, which SQLite takes as they are: not all names are text.
        connection.exec_driver_sql(f"ATTACH ? AS {_ATTACHED}", (os.fsencode(self._path),))
        connection.exec_driver_sql(
            f"INSERT INTO main.file_version (job_id, archive_id, first_seq, {_NAMES}) "  # noqa: S608
            f"SELECT ?, ?, ?, {_NAMES} FROM {_ATTACHED}.version ORDER BY rowid",
            (job_id, archive_id, first_seq),
        )

    def _rows(self) -> Iterator[Row]:
        database = sqlite3.connect(self._path)
        try:
            yield from database.execute(f"SELECT {_NAMES} FROM version ORDER BY rowid")  # noqa: S608
        finally:
            database.close()
