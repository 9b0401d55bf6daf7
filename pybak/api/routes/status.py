"""`GET /status`, `GET /jobs`, `GET /health`."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from fastapi import APIRouter, Request, Response

from pybak.api import examples
from pybak.api.auth.guard import GuardedRoute, protected
from pybak.api.auth.scopes import READ
from pybak.api.context import Context, context_of, now
from pybak.api.views import (
    ActiveRun,
    Alive,
    Health,
    Jobs,
    Status,
    encoded,
    problem,
    problems,
    told,
)
from pybak.overview.facts import GOOD, NEVER, RUNNING, JobState, RunSummary, Schedule

if TYPE_CHECKING:
    from pybak.overview import Overview

router = APIRouter(tags=["overview"], route_class=GuardedRoute)
_RECENT = 20
_ACTIVE = 100


@router.get(
    "/status", operation_id="getStatus", summary="Everything at a glance", **protected(READ),
    responses={200: told(Status, "The state of all jobs and runs.", examples.STATUS)} | problems(),
)  # fmt: skip
async def get_status(request: Request) -> Response:
    """Tell of each job how old its newest good backup is, and which runs are at work.

    Trends are left empty here; `GET /jobs` has them.
    """
    context = context_of(request)
    return _json(await context.recent.get("status", lambda: _status(context)))


async def _status(context: Context) -> bytes:
    at = now()
    await context.orchestrated.look()
    orchestrated = context.orchestrated
    schedules = schedules_of(context)

    def look(
        overview: Overview,
    ) -> tuple[list[JobState], tuple[RunSummary, ...], tuple[RunSummary, ...]]:
        return (
            list(overview.jobs(at, schedules)),
            tuple(overview.active(now=at))[:_ACTIVE],
            overview.runs(limit=_RECENT).items,
        )

    jobs, at_work, recent = await context.look(look)
    early = await context.failed_early()
    counts = Counter(job.state for job in jobs)
    by_flow_run = {one.flow_run_id: one for one in orchestrated.active}
    active = [
        ActiveRun(run=run, progress=by_flow_run.pop(run.flow_run or "", None)) for run in at_work
    ]
    active += [ActiveRun(progress=one) for one in by_flow_run.values()]
    is_well = counts.keys() <= {GOOD, RUNNING, NEVER} and orchestrated.answers
    return encoded(
        Status(
            now=_text(at),
            health=Health(
                status="ok" if is_well else "degraded",
                orchestrator="ok" if orchestrated.answers else "unreachable",
                jobs=dict(counts),
            ),
            # Trends are most of it, and change with each run only; they are in /jobs.
            jobs=tuple(msgspec.structs.replace(job, trend=()) for job in jobs),
            active=tuple(active),
            recent=recent,
            failed_early=early[:_RECENT],
        )
    )


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def schedules_of(context: Context) -> dict[str, Schedule]:
    """Give when each job runs, as far as the orchestrator has said."""
    return dict(context.orchestrated.schedules)


@router.get(
    "/jobs", operation_id="listJobs", summary="All jobs", **protected(READ),
    responses={200: told(Jobs, "The jobs, the worst state first.", examples.JOBS)} | problems(),
)  # fmt: skip
async def list_jobs(request: Request) -> Response:
    """List all jobs with their state, newest good backup, next run, sizes and last runs."""
    context = context_of(request)

    async def make() -> bytes:
        await context.orchestrated.look()
        jobs = await context.look(lambda overview: overview.jobs(now(), schedules_of(context)))
        return encoded(Jobs(items=tuple(jobs)))

    return _json(await context.recent.get("jobs", make))


@router.get(
    "/health", operation_id="getHealth", summary="Whether the service answers",
    openapi_extra={"security": []},
    responses={
        200: told(Alive, "It answers.", {"status": "ok"}),
        503: problem(
            503, "unavailable", "The catalog can't be read.",
            "what runs backups can't be asked now; the service's log says why",
        ),
    },
)  # fmt: skip
async def get_health(request: Request) -> Response:
    """Tell anybody whether the service and its catalog work, and nothing else."""
    context = context_of(request)

    async def make() -> bytes:
        await context.look(lambda overview: overview.runs(limit=1))
        return encoded(Alive(status="ok"))

    return _json(await context.recent.get("health", make))


def _json(data: bytes) -> Response:
    return Response(data, media_type="application/json")
