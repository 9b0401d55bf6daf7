"""The catalog: whether it can be read and is whole, and which of its runs died."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from pybak.doctor.finding import Finding, Findings, ago
from pybak.home import catalog_url
from pybak.units import format_size

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

    from pybak.catalog.engine import Database

SUBJECT: Final = "catalog"
_CONNECT_SECONDS: Final = 10
_SHORT_ID: Final = 8
_SIDE_FILES: Final = ("", "-wal", "-shm")
# A run without a lock of its own job that is older is not at work any more.
_OLD: Final = timedelta(days=1)
_WITH_LOCK: Final = ("backup", "prune", "inbox", "mirror")


@contextmanager
def looked_at(findings: list[Finding], environ: Mapping[str, str]) -> Iterator[Database | None]:
    """Check the catalog and add what was found; give it if it can be read on.

    An older one is left as it is, and not read on.
    """
    from pybak.catalog.engine import Database
    from pybak.catalog.failures import CatalogError

    found = Findings(SUBJECT)
    database: Database | None = None
    try:
        if _check(found, catalog_url(environ)):
            database = Database(catalog_url(environ))
    except CatalogError as error:
        found.problem(str(error))
    findings.extend(found.found)
    try:
        yield database
    finally:
        if database is not None:
            database.close()


def _check(found: Findings, url: str) -> bool:
    """Look at schema, integrity and size; tell whether this PyBak can read on."""
    from pybak.catalog import schema
    from pybak.catalog.address import file_of, is_sqlite, parse, place_of
    from pybak.catalog.failures import REBUILD, translated, unusable
    from pybak.catalog.presence import has_catalog

    parsed = parse(url)
    where = place_of(parsed)
    if not has_catalog(url):
        found.note(
            f"there is no catalog yet at {where}", "the first run makes it, or flows/rebuild.py"
        )
        return False
    path = file_of(parsed)
    engine = _engine(parsed, path)
    try:
        with translated(where, opening=True), engine.connect() as connection:
            revision = schema.revision_of(connection, where)
            is_whole = not is_sqlite(parsed) or _is_whole(connection)
            size = _size_of(path) if path is not None else _size_of_server(connection)
    finally:
        engine.dispose()
    if not is_whole:
        raise unusable(where, "it is damaged", REBUILD)
    if revision != schema.HEAD:
        found.note(
            f"{where} was made by an older PyBak (schema {revision}, this one has {schema.HEAD})",
            "the next run brings it up to date; then ask again",
        )
        return False
    found.ok(f"{where} is whole, {format_size(size)}")
    return True


def _engine(url: URL, path: str | None) -> Engine:
    """Give what reads the database, and neither makes nor changes a table."""
    from sqlalchemy import create_engine, event

    from pybak.catalog.address import is_sqlite
    from pybak.catalog.read_only import FixedFile, is_read_only

    if not is_sqlite(url):
        return create_engine(url, connect_args={"connect_timeout": _CONNECT_SECONDS})
    if path is not None and is_read_only(path):
        return FixedFile(path).engine(timeout=_CONNECT_SECONDS)
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def only_look(connection: object, _record: object) -> None:
        connection.execute("PRAGMA query_only=ON")  # type: ignore[attr-defined]

    return engine


def _is_whole(connection: Connection) -> bool:
    return connection.exec_driver_sql("PRAGMA quick_check(1)").scalar() == "ok"


def _size_of(path: str) -> int:
    found = 0
    for suffix in _SIDE_FILES:
        if os.path.exists(path + suffix):
            found += os.stat(path + suffix).st_size
    return found


def _size_of_server(connection: Connection) -> int:
    query = "SELECT pg_database_size(current_database())"
    return int(connection.exec_driver_sql(query).scalar_one())


def check_died(database: Database, url: str, now: datetime) -> list[Finding]:
    """Tell of jobs whose newest run never said how it ended, and is not at work.

    Raises CatalogError.
    """
    from sqlmodel import col, func, select

    from pybak.catalog.locks import is_locked
    from pybak.catalog.models import Run
    from pybak.catalog.runs import RUNNING

    found = Findings(SUBJECT)
    with database.session() as session:
        newest = select(func.max(col(Run.seq)), Run.job).group_by(Run.job).subquery()
        query = select(Run).join(
            newest, (col(Run.job) == newest.c.job) & (col(Run.seq) == newest.c[0])
        )
        runs = session.exec(query.where(Run.status == RUNNING).order_by(Run.job)).all()
    for run in runs:
        since = now - run.started_at.replace(tzinfo=UTC)
        is_free = run.kind in _WITH_LOCK and not is_locked(run.job, catalog_url=url)
        if is_free or since > _OLD:
            found.note(
                f"{run.job}: the newest {run.kind} died at work, {ago(since)} ago",
                "the next run clears up after it; see how far it came",
                f"pybak logs {run.run_id[:_SHORT_ID]}",
            )
    return found.found
