"""The advisory lock of a session on PostgreSQL, for several machines write a catalog there.

A server that can't be reached has none, and nothing is said of it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from pybak.catalog.lock_wanted import Holder, Wanted, this_host

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SQLITE: Final = "sqlite"
_CONNECT_SECONDS: Final = 10
_NAME_BYTES: Final = 63
"""What a server keeps of an application's name."""


class ServerLock:
    """The session advisory lock on a connection of its own; none without PostgreSQL."""

    def __init__(self, wanted: Wanted, catalog_url: str | None) -> None:
        self._wanted = wanted
        self.is_held = False
        self._connection: Connection | None = None
        if catalog_url is not None and not catalog_url.startswith(_SQLITE):
            self._connection = _connected(catalog_url)

    def try_once(self) -> bool:
        """Take the lock if it is free; also True without a server to ask."""
        kind = "_shared" if self._wanted.shared else ""
        row = self._ask(f"SELECT pg_try_advisory_lock{kind}(%s)", (self._wanted.key(),))
        self.is_held = row is not None and bool(row[0])
        return row is None or self.is_held

    def holder(self) -> Holder:
        """Tell whose connection has it."""
        key = self._wanted.key() % (1 << 64)
        row = self._ask(
            # A key of 64 bits stands there in two halves: the manual's page on pg_locks.
            "SELECT application_name, backend_start FROM pg_locks "
            "JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid::bigint = %s "
            "AND objid::bigint = %s AND pid <> pg_backend_pid() LIMIT 1",
            (key >> 32, key & 0xFFFF_FFFF),
        )
        if row is None:
            return Holder()
        program, _, rest = str(row[0]).partition(" ")
        pid, _, host = rest.partition(" ")
        if program != "pybak" or not pid.isdecimal():
            return Holder(since=row[1])
        return Holder(pid=int(pid), host=host, since=row[1])

    def _ask(self, statement: str, values: tuple[Any, ...]) -> Any:
        """Give the first row; None without a server, and from when it is lost."""
        if self._connection is None:
            return None
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return self._connection.exec_driver_sql(statement, values).first()
        except SQLAlchemyError:
            self.release()
            return None

    def release(self) -> None:
        """Let go by ending the connection; does nothing the second time."""
        connection, self._connection, self.is_held = self._connection, None, False
        if connection is not None:
            with contextlib.suppress(Exception):  # the server is gone, and the lock with it
                connection.invalidate()
            connection.close()
            connection.engine.dispose()


def _connected(catalog_url: str) -> Connection | None:
    """Open a connection that says in the server's list who we are; None if there is no server."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    from pybak.catalog.address import is_sqlite, parse
    from pybak.catalog.failures import CatalogError, translated

    name = f"pybak {os.getpid()} {this_host()}"[:_NAME_BYTES]
    arguments = {"application_name": name, "connect_timeout": _CONNECT_SECONDS}
    try:
        url = parse(catalog_url)
        if is_sqlite(url):
            return None
        with translated(catalog_url, opening=True):
            engine = create_engine(
                url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=arguments
            )
            return engine.connect()
    except CatalogError:
        return None  # the flock alone counts then
