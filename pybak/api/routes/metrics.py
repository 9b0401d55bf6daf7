"""`GET /metrics`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from pybak.api import examples
from pybak.api.auth.guard import GuardedRoute, protected
from pybak.api.auth.scopes import READ
from pybak.api.context import context_of, now
from pybak.api.metrics import MEDIA_TYPE, exposition
from pybak.api.routes.status import schedules_of
from pybak.api.views import problems

router = APIRouter(tags=["overview"], route_class=GuardedRoute)


@router.get(
    "/metrics", operation_id="getMetrics", summary="Figures for Prometheus", **protected(READ),
    response_class=PlainTextResponse,
    responses={
        200: {
            "description": "The figures, in Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": examples.METRICS}},
        }
    } | problems(),
)  # fmt: skip
async def get_metrics(request: Request) -> Response:
    """Tell of each job the age of its newest good backup, its last run, sizes and counts."""
    context = context_of(request)

    async def make() -> bytes:
        at = now()
        await context.orchestrated.look()
        jobs = await context.look(lambda overview: overview.jobs(at, schedules_of(context)))
        return exposition(jobs, at, orchestrator_answers=context.orchestrated.answers).encode()

    return Response(await context.recent.get("metrics", make), media_type=MEDIA_TYPE)
