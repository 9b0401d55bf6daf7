"""Open the catalog's database: an SQLite file, or PostgreSQL.

SQLite works with a write-ahead log, so that readers and one writer do not wait for each other.
Python's driver would begin transactions only at the first change and never before DDL; here it is
told to begin none, and each is begun by an own statement
(https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable). Writers take the
write lock at once: one that read first and then waited would fail instead of waiting.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event

from pybak.catalog import schema
from pybak.catalog.address import HOW_TO_SAY, file_of, is_sqlite, parse, place_of
from pybak.catalog.failures import REBUILD, CatalogError, sqlite_code, translated, unusable
from pybak.catalog.read_only import FixedFile, is_read_only

if TYPE_CHECKING:
    from sqlmodel import Session

__all__ = ["BUSY_SECONDS", "Database", "parse"]

# One run that records a million files holds the write lock for up to half a minute.
BUSY_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 10
_PRAGMAS: Final = ("synchronous=FULL", "foreign_keys=ON", "cache_size=-32000")
_BEGIN: Final = "pybak_begin"
_WAL_PAUSE: Final = 0.02
_SQLITE_BUSY: Final = 5
_SMALLEST_PAGE: Final = 512  # bytes; https://sqlite.org/fileformat2.html#pages
# Any number will do; it is the same in every PyBak, and no other program's by bad luck.
_SCHEMA_LOCK: Final = 0x5079_4261_6B01


class Database:
    """A catalog's database. Nothing is opened before it is first used.

    The first use makes the tables where there are none and brings older ones up to date. A file
    that can't be written is read as it is (`pybak.catalog.read_only`). All failures are
    CatalogErrors.
    """

    def __init__(self, url: str, *, busy_seconds: float = BUSY_SECONDS) -> None:
        """Take what `PYBAK_CATALOG_URL` may say (`pybak.catalog.address`).

        Other writers are waited for `busy_seconds`, or for what a URL of SQLite says.
        """
        self._given = url
        self._busy_seconds = busy_seconds
        self._lock = threading.Lock()
        self._parsed: URL | None = None
        self._engine: Engine | None = None
        self._fixed: FixedFile | None = None

    @property
    def is_postgres(self) -> bool:
        """Whether it is PostgreSQL; else it is SQLite."""
        return not is_sqlite(self._url)

    @property
    def where(self) -> str:
        """Its place for people: a path, or a URL without password."""
        return place_of(self._url)

    @property
    def engine(self) -> Engine:
        """The engine, opened and with the present schema."""
        return self._opened()[0]

    def _opened(self) -> tuple[Engine, FixedFile | None]:
        with self._lock:
            if self._engine is not None and self._fixed is not None and self._fixed.has_moved():
                self._engine.dispose()
                self._engine = None
            if self._engine is None:
                self._engine = self._open()
            return self._engine, self._fixed

    def open(self) -> None:
        """Open it now, as the first use would."""
        _ = self.engine

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Begin a change; it is committed at the end of the block, or undone if that raises.

        On SQLite the write lock is held from the first moment: there is one writer at a time.
        """
        engine = self.engine
        with translated(self.where), engine.connect() as connection:
            connection = connection.execution_options(**{_BEGIN: "IMMEDIATE"})
            with connection.begin():
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Begin to read; all queries of the block see the state of its first one.

        What can't be read so raises CatalogError, at the end of the block at the latest: a file
        that can't be written here, and that its owner wrote meanwhile.
        """
        engine, fixed = self._opened()
        try:
            with translated(self.where), engine.connect() as connection:
                if self.is_postgres:
                    connection = connection.execution_options(isolation_level="REPEATABLE READ")
                with connection.begin():
                    yield connection
        except CatalogError as error:
            if fixed is not None and fixed.has_moved():
                raise fixed.moved() from error
            raise
        if fixed is not None and fixed.has_moved():
            raise fixed.moved()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a session to read; the objects that it gives stay usable afterwards."""
        from sqlmodel import Session

        with self.reading() as connection, Session(connection, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Open a session to change things; it is committed at the end of the block."""
        from sqlmodel import Session

        with (
            self.transaction() as connection,
            Session(connection, expire_on_commit=False) as session,
        ):
            yield session
            session.flush()

    def close(self) -> None:
        """Close all connections; the next use opens it again."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    @property
    def _url(self) -> URL:
        if self._parsed is None:
            self._parsed = parse(self._given)
        return self._parsed

    def _open(self) -> Engine:
        url = self._url
        where = place_of(url)
        with translated(where, opening=True):
            fixed: FixedFile | None = None
            if self.is_postgres:
                engine = _postgres(url, self._busy_seconds)
            else:
                if (path := file_of(url)) is not None:
                    _prepare_file(path)
                    fixed = FixedFile(path) if is_read_only(path) else None
                engine = _sqlite(url, fixed, self._patience)
            self._fixed = fixed
            try:
                if fixed is not None:
                    _check_schema(engine, where)
                else:
                    _settle(engine, where, self._patience)
            except BaseException:
                engine.dispose()
                raise
        return engine

    @property
    def _patience(self) -> float:
        """For how many seconds a lock is waited for; a URL of SQLite may say it: `?timeout=5`."""
        try:
            asked = self._url.query["timeout"] if not self.is_postgres else self._busy_seconds
            return float(str(asked))
        except (KeyError, ValueError):
            return self._busy_seconds


def _prepare_file(path: str) -> None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite would let everybody read it. Its side files take its mode. A file that is there
        # is never opened here: closing it would drop the locks of this process's connections.
        with contextlib.suppress(FileExistsError):
            flags = os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC
            os.close(os.open(path, flags, 0o600))
        return
    if not stat.S_ISREG(found.st_mode):
        raise unusable(path, "it is no ordinary file", HOW_TO_SAY)
    if 0 < found.st_size < _SMALLEST_PAGE:  # SQLite takes some of these for empty
        raise unusable(path, "file is not a database", REBUILD)


def _sqlite(url: URL, fixed: FixedFile | None, patience: float) -> Engine:
    if fixed is not None:
        engine = fixed.engine(timeout=patience)
    else:
        engine = create_engine(url, connect_args={"timeout": patience})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        kind = connection.get_execution_options().get(_BEGIN, "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {kind}")

    return engine


def _postgres(url: URL, busy_seconds: float) -> Engine:
    timeout = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_SECONDS}
    engine = create_engine(url, connect_args=timeout, pool_pre_ping=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        # Times are written as UTC and kept without a zone.
        connection.autocommit = True
        connection.execute(
            f"SET TIME ZONE 'UTC'; SET lock_timeout = '{busy_seconds:.0f}s'; "
            "SET client_min_messages = warning"
        )
        connection.autocommit = False

    return engine


def _check_schema(engine: Engine, where: str) -> None:
    """Raise CatalogError unless a catalog that can't be changed has the present schema."""
    with engine.connect() as connection:
        revision = schema.revision_of(connection, where)
    if revision is None:
        raise unusable(where, "it is empty and can't be written", HOW_TO_SAY)
    if revision != schema.HEAD:
        raise CatalogError(
            f"{where}: an older PyBak made this catalog (schema {revision}, this one reads "
            f"{schema.HEAD}), and it can't be changed here; let its owner run any command once, or "
            "set PYBAK_CATALOG_URL to a copy in a folder of yours"
        )


def _settle(engine: Engine, where: str, patience: float) -> None:
    """Give the database the present schema, if it lacks it."""
    with engine.connect() as connection:
        if schema.revision_of(connection, where) == schema.HEAD:
            return
    with engine.connect() as connection:
        is_file = connection.dialect.name == "sqlite"
        if is_file:
            _use_write_ahead_log(connection, patience)
        connection = connection.execution_options(**{_BEGIN: "IMMEDIATE"})
        with connection.begin():
            if not is_file:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
            schema.bring_up_to_date(connection, where)


def _use_write_ahead_log(connection: Connection, patience: float) -> None:
    """Switch it on for good. Where that can't be, as on some network file systems, go without."""
    deadline = time.monotonic() + patience
    raw: Any = connection.connection.driver_connection
    while True:
        try:
            raw.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:  # SQLite does not wait by itself here
            if sqlite_code(error) != _SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_PAUSE)
