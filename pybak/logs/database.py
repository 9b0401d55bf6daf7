"""Log lines from Prefect's database, for runs whose server went with them. It is only read.

Prefect's tables are those of its release (`prefect.server.database.orm_models`): `log`, and
`flow_run` for states. Times in SQLite are UTC without a zone.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from pybak.display import printable
from pybak.errors import PyBakError
from pybak.logs.lines import LogLine
from pybak.prefect_server import START, prefect_home, setting

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

_VARIABLE: Final = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_OLD_VARIABLE: Final = "PREFECT_API_DATABASE_CONNECTION_URL"
_CONNECT_SECONDS: Final = 10
_POSTGRES: Final = "postgresql"
_LINES: Final = (
    "SELECT id, timestamp, level, message, name, task_run_id FROM log "
    "WHERE flow_run_id = {run} AND level >= :least AND timestamp >= {since} ORDER BY timestamp, id"
)
_STATE: Final = "SELECT state_type FROM flow_run WHERE id = {run}"
_TASKS: Final = "SELECT id, name FROM task_run WHERE flow_run_id = {run}"
_FIRST: Final = datetime(1970, 1, 2, tzinfo=UTC)


class DatabaseError(PyBakError):
    """Prefect's database can't be read."""


def database_logs(environ: Mapping[str, str]) -> DatabaseLogs | None:
    """Give the database that Prefect uses here when no server runs; None where there is none.

    Raises DatabaseError for an address that is none.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    given = setting(environ, _VARIABLE) or setting(environ, _OLD_VARIABLE)
    if not given:
        path = prefect_home(environ) / "prefect.db"
        return DatabaseLogs(_of_file(path), str(path)) if path.is_file() else None
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise DatabaseError(f"{_VARIABLE}: this is no database URL; correct it") from None
    kind = url.get_backend_name()
    if kind == "sqlite":
        path = Path(os.path.abspath(url.database or ""))
        return DatabaseLogs(_of_file(path), str(path)) if path.is_file() else None
    if kind != _POSTGRES:
        raise DatabaseError(f"{_VARIABLE}: Prefect uses SQLite or PostgreSQL, not {kind}")
    where = f"{url.host or 'this machine'}, database {url.database}"
    return DatabaseLogs(_of_server(url), where)


class DatabaseLogs:
    """The tables of one database. All failures are DatabaseErrors."""

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine = engine
        self.where = where
        """Its place for people."""

    def lines(
        self, flow_run: str, *, least: int = 0, since: datetime | None = None
    ) -> Iterator[LogLine]:
        """Yield the lines of a flow run by time."""
        start = since or _FIRST
        given = {"run": flow_run, "least": least, "since": self._time(start)}
        for row in self._rows(_LINES, given):
            yield LogLine(
                id=str(row[0]),
                time=_aware(row[1]),
                level=row[2],
                text=row[3],
                logger=row[4],
                task_run=None if row[5] is None else str(row[5]),
            )

    def state(self, flow_run: str) -> str | None:
        """Give the type of the state that a flow run is in."""
        found = next(self._rows(_STATE, {"run": flow_run}), None)
        return None if found is None else str(found[0] or "PENDING")

    def task_names(self, flow_run: str) -> dict[str, str]:
        """Give the names of a flow run's task runs, by their ids."""
        return {str(row[0]): str(row[1]) for row in self._rows(_TASKS, {"run": flow_run})}

    def _rows(self, query: str, given: dict[str, Any]) -> Iterator[Any]:
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        words = ("CAST(:run AS uuid)", "CAST(:since AS timestamptz)")
        run, since = words if self._is_postgres else (":run", ":since")
        try:
            with self._engine.connect() as connection:
                yield from connection.execute(text(query.format(run=run, since=since)), given)
        except (SQLAlchemyError, sqlite3.Error) as error:
            cause = getattr(error, "orig", None) or error
            line = (str(cause).splitlines() or [type(cause).__name__])[0]
            raise DatabaseError(
                f"{printable(self.where)}: Prefect's database can't be read ({line}); "
                f"start its server (`{START}`)"
            ) from error

    @property
    def _is_postgres(self) -> bool:
        return self._engine.dialect.name == _POSTGRES

    def _time(self, moment: datetime) -> str:
        plain = moment.astimezone(UTC)
        return plain.isoformat() if self._is_postgres else f"{plain:%Y-%m-%d %H:%M:%S.%f}"

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def _of_file(path: Path) -> Engine:
    """Give what reads an SQLite file; one that can't be written may lack what a log needs."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    from pybak.catalog.failures import CatalogError
    from pybak.catalog.read_only import FixedFile, is_read_only

    if is_read_only(str(path)):
        try:
            return FixedFile(str(path)).engine(timeout=_CONNECT_SECONDS)
        except (CatalogError, OSError) as error:
            raise DatabaseError(
                f"{printable(str(path))}: Prefect's database can't be read here; start its server"
            ) from error

    def connect() -> sqlite3.Connection:
        address = f"file:{quote(os.fsencode(path))}?mode=ro"
        return sqlite3.connect(address, uri=True, timeout=_CONNECT_SECONDS)

    return create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool)


def _of_server(url: URL) -> Engine:
    from sqlalchemy import create_engine, event

    query = dict(url.query)
    if "ssl" in query:  # as asyncpg, Prefect's driver, calls it
        query.setdefault("sslmode", query.pop("ssl"))
    wanted = url.set(drivername="postgresql+psycopg", query=query)
    engine = create_engine(wanted, connect_args={"connect_timeout": _CONNECT_SECONDS})

    @event.listens_for(engine, "connect")
    def only_look(connection: Any, _record: object) -> None:
        connection.read_only = True

    return engine


def _aware(value: Any) -> datetime:
    """Give a time as the database's driver has it, in UTC."""
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
