"""Write runs into the catalog and find them again.

The catalog is a convenience: whoever calls this decides what a `CatalogError` means, and a
backup goes on without it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlmodel import Session, SQLModel, col, create_engine, func, select

from pybak.catalog.models import Run
from pybak.errors import PyBakError

RUNNING: Final = "running"
_BUSY_SECONDS = 10
_MAKE_PAUSES: Final = (0.02, 0.1)
_NUMBER_PAUSES: Final = (0.0, 0.0, 0.01, 0.01, 0.02, 0.02, 0.05, 0.05, 0.1, 0.1)


class CatalogError(PyBakError):
    """The catalog can't be read or written."""


class Catalog:
    """An open catalog. Cheap to make; each call is a transaction of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        with self._translated():
            self._engine = _engine(url)
            self._make_tables()

    def _make_tables(self) -> None:
        for pause in _MAKE_PAUSES:
            try:
                SQLModel.metadata.create_all(self._engine)
                return
            except DBAPIError:  # another first run made them meanwhile
                time.sleep(pause)
        SQLModel.metadata.create_all(self._engine)

    def begin_run(
        self, run_id: str, *, kind: str, job: str, options: Mapping[str, Any], now: datetime
    ) -> None:
        """Insert a run as running, with the next number of its job."""
        with self._translated():
            for pause in _NUMBER_PAUSES:
                try:
                    self._insert(run_id, kind, job, options, now)
                    return
                except IntegrityError:  # another run of the job took the number meanwhile
                    time.sleep(pause)
            self._insert(run_id, kind, job, options, now)

    def _insert(
        self, run_id: str, kind: str, job: str, options: Mapping[str, Any], now: datetime
    ) -> None:
        with Session(self._engine) as session:
            last = session.exec(select(func.max(Run.seq)).where(Run.job == job)).one()
            session.add(
                Run(
                    run_id=run_id,
                    seq=(last or 0) + 1,
                    kind=kind,
                    job=job,
                    status=RUNNING,
                    started_at=now.astimezone(UTC),
                    options=dict(options),
                )
            )
            session.commit()

    def finish_run(
        self,
        run_id: str,
        *,
        status: str,
        counts: Mapping[str, Any],
        now: datetime,
        archive: str | None = None,
        message: str | None = None,
    ) -> None:
        """Write how a run ended; a run that was never begun is left alone."""
        with self._translated(), Session(self._engine) as session:
            run = session.get(Run, run_id)
            if run is None:
                return
            run.status = status
            run.finished_at = now.astimezone(UTC)
            run.archive = archive
            run.message = message
            run.counts = dict(counts)
            session.add(run)
            session.commit()

    def get_run(self, run_id: str) -> Run | None:
        """Give one run."""
        with self._translated(), Session(self._engine) as session:
            return session.get(Run, run_id)

    def newest_archive(self, job: str) -> str | None:
        """Give the archive of the job's newest good backup."""
        with self._translated(), Session(self._engine) as session:
            query = (
                select(Run.archive)
                .where(Run.job == job, Run.kind == "backup", col(Run.archive).is_not(None))
                .order_by(col(Run.seq).desc())
                .limit(1)
            )
            return session.exec(query).first()

    def archives(self, job: str | None = None) -> list[str]:
        """List the archives of all good backups, or of one job's, the newest first."""
        with self._translated(), Session(self._engine) as session:
            query = select(Run.archive).where(Run.kind == "backup", col(Run.archive).is_not(None))
            if job is not None:
                query = query.where(Run.job == job)
            query = query.order_by(col(Run.started_at).desc(), col(Run.seq).desc())
            return [archive for archive in session.exec(query) if archive is not None]

    def backup_jobs(self) -> list[str]:
        """List the names of all jobs that have an archive."""
        with self._translated(), Session(self._engine) as session:
            query = select(Run.job).where(Run.kind == "backup", col(Run.archive).is_not(None))
            return sorted(set(session.exec(query)))

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a session for other tables of the catalog; failures become CatalogError."""
        with self._translated(), Session(self._engine) as session:
            yield session

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, ArgumentError, OSError, ImportError, UnicodeError) as error:
            cause = getattr(error, "orig", None) or error
            where = _without_password(self._url)
            message = f"{where}: the catalog can't be used ({str(cause).splitlines()[0]})"
            raise CatalogError(message) from error


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not parsed.database.startswith("file:"):
            # SQLite would let everybody read it. Its side files take its mode.
            os.close(os.open(parsed.database, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def use_write_ahead_log(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def _without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "PYBAK_CATALOG_URL"
