"""Write runs into the catalog and find them again.

The catalog is a convenience: whoever calls this decides what a `CatalogError` means, and a
backup goes on without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlmodel import col, func, select

from pybak.catalog.engine import Database
from pybak.catalog.failures import CatalogError
from pybak.catalog.models import Run

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlmodel import Session

__all__ = ["RUNNING", "Catalog", "CatalogError"]

RUNNING: Final = "running"
# Keeps runs that begin at once from taking one number; see `engine._SCHEMA_LOCK`.
_NUMBER_LOCK: Final = 0x5079_4261_6B02


class Catalog:
    """An open catalog. Cheap to make; each call is a transaction of its own."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.database.open()

    def begin_run(
        self,
        run_id: str,
        *,
        kind: str,
        job: str,
        options: Mapping[str, Any],
        now: datetime,
        flow_run: str | None = None,
    ) -> int:
        """Insert a run as running, with the next number of its job; give the number."""
        with self.writing() as session:
            if self.database.is_postgres:
                session.execute(select(func.pg_advisory_xact_lock(_NUMBER_LOCK)))
            last = session.exec(select(func.max(Run.seq)).where(Run.job == job)).one()
            seq = (last or 0) + 1
            session.add(
                Run(
                    run_id=run_id,
                    seq=seq,
                    kind=kind,
                    job=job,
                    status=RUNNING,
                    started_at=now.astimezone(UTC),
                    options=dict(options),
                    flow_run=flow_run,
                )
            )
        return seq

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
        with self.writing() as session:
            run = session.get(Run, run_id)
            if run is None:
                return
            run.status = status
            run.finished_at = now.astimezone(UTC)
            run.archive = archive
            run.message = message
            run.counts = dict(counts)
            session.add(run)

    def get_run(self, run_id: str) -> Run | None:
        """Give one run."""
        with self.session() as session:
            return session.get(Run, run_id)

    def runs_like(self, start: str) -> list[Run]:
        """Give the run with this id, or all backups whose id starts like this."""
        exact = self.get_run(start)
        if exact is not None:
            return [exact]
        with self.session() as session:
            starts = col(Run.run_id).startswith(start, autoescape=True)
            return list(session.exec(select(Run).where(starts, Run.kind == "backup")))

    def newest_archive(self, job: str) -> str | None:
        """Give the archive of the job's newest good backup."""
        with self.session() as session:
            query = (
                select(Run.archive)
                .where(Run.job == job, Run.kind == "backup", col(Run.archive).is_not(None))
                .order_by(col(Run.seq).desc())
                .limit(1)
            )
            return session.exec(query).first()

    def archives(self, job: str | None = None) -> list[str]:
        """List the archives of all good backups, or of one job's, the newest first."""
        with self.session() as session:
            query = select(Run.archive).where(Run.kind == "backup", col(Run.archive).is_not(None))
            if job is not None:
                query = query.where(Run.job == job)
            query = query.order_by(col(Run.started_at).desc(), col(Run.seq).desc())
            return [archive for archive in session.exec(query) if archive is not None]

    def backup_jobs(self) -> list[str]:
        """List the names of all jobs that have an archive."""
        with self.session() as session:
            query = select(Run.job).where(Run.kind == "backup", col(Run.archive).is_not(None))
            return sorted(set(session.exec(query)))

    def session(self) -> AbstractContextManager[Session]:
        """Open a session to read; the objects that it gives stay usable afterwards."""
        return self.database.session()

    def writing(self) -> AbstractContextManager[Session]:
        """Open a session to change things; it is committed at the end of the block."""
        return self.database.writing()

    def connection(self) -> AbstractContextManager[Connection]:
        """Begin a change by plain statements, as `Database.transaction` does."""
        return self.database.transaction()

    def close(self) -> None:
        """Close all connections."""
        self.database.close()
