"""Which flow run is meant: by a run's id in the catalog or its start, `latest`, or Prefect's id."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from pybak.display import printable, shell_names
from pybak.errors import NotFoundError, PlanError

if TYPE_CHECKING:
    from pybak.catalog.engine import Database
    from pybak.catalog.models import Run

LATEST: Final = "latest"
_LEAST_CHARACTERS: Final = 4
_NAMED: Final = 5


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A run whose log is meant. All but `flow_run` is what the catalog says, if it knows it."""

    flow_run: str
    run_id: str | None = None
    kind: str | None = None
    job: str | None = None
    status: str | None = None
    started_at: datetime | None = None


def find_run(database: Database | None, which: str | None, job: str | None) -> Wanted:
    """Give the run that is meant; without `which` the newest of all, or of a job.

    Raises NotFoundError, and PlanError where more than one may be meant. Without a catalog only
    a whole id of Prefect's is known.
    """
    found = [] if database is None else _runs(database, which, job)
    if not found:
        if which is not None and which != LATEST and (flow_run := _uuid(which)):
            return Wanted(flow_run=flow_run)
        raise NotFoundError(_none(which, job))
    flow_runs = {one.flow_run for one in found}
    if len(found) > 1 and len(flow_runs) == 1 and found[0].flow_run is not None:
        return Wanted(flow_run=found[0].flow_run)  # one run of several jobs
    if len(found) > 1 and found[0].run_id != which:
        ids = ", ".join(one.run_id[: len(which or "") + 4] for one in found[:_NAMED])
        raise PlanError(f"{printable(which or '')}: which run? {ids} begin like that")
    run = found[0]
    if run.flow_run is None:
        raise NotFoundError(
            f"{run.run_id}: the catalog does not know which flow run of Prefect's this was, as an "
            "older PyBak made it; its log is in Prefect's UI, if Prefect keeps it still"
        )
    return Wanted(
        flow_run=run.flow_run, run_id=run.run_id, kind=run.kind, job=run.job, status=run.status,
        started_at=run.started_at.replace(tzinfo=UTC),
    )  # fmt: skip


def _runs(database: Database, which: str | None, job: str | None) -> list[Run]:
    """Give the runs that may be meant."""
    from sqlmodel import col, select

    from pybak.catalog.models import Run

    with database.session() as session:
        query = select(Run)
        if job is not None:
            query = query.where(Run.job == job)
        if which is None or which == LATEST:
            if which == LATEST and job is None:
                _check_one_job(sorted(session.exec(select(Run.job).distinct()).all()))
            newest = query.order_by(col(Run.started_at).desc(), col(Run.seq).desc())
            return list(session.exec(newest.limit(1)))
        exact = session.exec(query.where((Run.run_id == which) | (Run.flow_run == which))).all()
        if exact or len(which) < _LEAST_CHARACTERS:
            return list(exact)
        starts = col(Run.run_id).startswith(which, autoescape=True)
        return list(session.exec(query.where(starts).limit(_NAMED + 1)))


def _check_one_job(jobs: list[str]) -> None:
    if len(jobs) > 1:
        raise PlanError(
            f"latest of which job? name one with --job: {shell_names(jobs)}; without a RUN the "
            "newest is shown"
        )


def _uuid(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def _none(which: str | None, job: str | None) -> str:
    if which is not None and which != LATEST:
        of_job = f" of job {printable(job)}" if job is not None else ""
        return (
            f"{printable(which)}: no run{of_job} with this id; `pybak snapshots` lists backups, "
            "Prefect's UI all runs"
        )
    return f"{printable(job)}: no run of this job" if job is not None else "no run is known yet"
