"""The run of a job before this one, for the comparison in a mail."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pybak.catalog.failures import CatalogError

if TYPE_CHECKING:
    from sqlmodel import Session

    from pybak.catalog.models import Run
    from pybak.report import Report

_TOO_MANY: Final = 1_000
"""Of more failed files than this, old ones and new ones are not told apart."""


@dataclass(frozen=True)
class Before:
    """A run of the same kind and job: when it began (aware) and how it ended.

    `seconds` is how long it took, `files` how many it found, `size` what its archive takes in
    bytes, `failed` how many files failed; None where that is not known. `new_failures` counts the
    files that failed now and did not then.
    """

    started_at: datetime
    status: str
    seconds: float | None = None
    files: int | None = None
    size: int | None = None
    failed: int | None = None
    new_failures: int | None = None


def run_before(report: Report, run_id: str | None, catalog_url: str) -> Before | None:
    """Give the last run of the same kind and job that did something; None if there is none.

    None, too, where the catalog does not know the run, or can't be read.
    """
    if run_id is None:
        return None
    from pybak.catalog.presence import has_catalog
    from pybak.catalog.runs import Catalog

    try:
        if not has_catalog(catalog_url):
            return None
        catalog = Catalog(catalog_url)
        try:
            with catalog.session() as session:
                return _find(session, run_id, report)
        finally:
            catalog.close()
    except CatalogError:
        return None


def _find(session: Session, run_id: str, report: Report) -> Before | None:
    from sqlmodel import col, select

    from pybak.catalog.models import PRESENT, Archive, Run

    this = session.get(Run, run_id)
    if this is None:
        return None
    found = session.exec(
        select(Run)
        .where(Run.job == this.job, Run.kind == this.kind, Run.seq < this.seq)
        .where(col(Run.status).in_(("success", "partial")))
        .order_by(col(Run.seq).desc())
        .limit(1)
    ).first()
    if found is None:
        return None
    own = select(Archive.size).where(Archive.run_id == found.run_id, Archive.state == PRESENT)
    sizes = session.exec(own).all()
    files: Any = found.counts.get("total")
    failed: Any = found.counts.get("failed")
    return Before(
        started_at=_aware(found.started_at),
        status=found.status,
        seconds=_seconds(found),
        files=files if isinstance(files, int) else None,
        size=sum(sizes) if sizes else None,
        failed=failed if isinstance(failed, int) else None,
        new_failures=_new_failures(session, found, report),
    )


def _new_failures(session: Session, before: Run, report: Report) -> int | None:
    """Count the files that failed now and did not then; only backups keep which ones did."""
    from sqlmodel import select

    from pybak.catalog.models import FileError

    errors: Any = getattr(report, "errors", ())
    paths: set[str] = {error.path for error in errors if error.path}
    if before.kind != "backup" or len(paths) > _TOO_MANY:
        return None
    query = select(FileError.path).where(FileError.run_id == before.run_id)
    known: list[str] = list(session.exec(query).all())
    return len(paths.difference(known))


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _seconds(run: Run) -> float | None:
    if run.finished_at is None:
        return None
    return (_aware(run.finished_at) - _aware(run.started_at)).total_seconds()
