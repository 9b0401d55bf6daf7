"""`GET /runs`, `GET /runs/{id}`, its errors, and `POST /runs/{id}/cancel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from pybak.api import examples
from pybak.api.auth.guard import GuardedRoute, caller_of, protected
from pybak.api.auth.scopes import READ, WRITE, Caller
from pybak.api.context import Context, context_of
from pybak.api.paging import LIMIT, Cursor, Limit, Since, Text, Until, since_of, until_of
from pybak.api.problems import not_found
from pybak.api.services import StartedRun
from pybak.api.starting import cancel_found
from pybak.api.views import (
    ErrorPage,
    RunPage,
    RunView,
    answer,
    encoded,
    items,
    problems,
    told,
)
from pybak.errors import NotFoundError, PyBakError
from pybak.overview.facts import RunDetails

if TYPE_CHECKING:
    from pybak.overview import Overview

router = APIRouter(tags=["runs"], route_class=GuardedRoute)
_BAD: Final = ("failed", "crashed")
_LOOK_SECONDS: Final = 0.5

RunPath = Annotated[
    str,
    Path(
        max_length=100, pattern=r"^[A-Za-z0-9._:-]+$",
        description="The id of a run in the catalog, or of the orchestrator's flow run.",
    ),
]  # fmt: skip


@router.get(
    "/runs", operation_id="listRuns", summary="Runs, the newest first", **protected(READ),
    responses={200: told(RunPage, "Some runs.", examples.RUNS)} | problems(),
)  # fmt: skip
async def list_runs(
    request: Request,
    job: Annotated[Text | None, Query(max_length=4096)] = None,
    kind: Annotated[Text | None, Query(max_length=32, examples=["backup"])] = None,
    status: Annotated[Text | None, Query(max_length=32, examples=["failed"])] = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Response:
    """List the runs in the catalog: all, or those of a job, of a kind, with a status.

    `failed_early` has those that failed before the catalog heard of them, of the last seven days.
    """
    context = context_of(request)
    asked: dict[str, Any] = {
        "job": job, "kind": kind, "status": status, "cursor": cursor, "limit": limit,
        "since": since_of(since), "until": until_of(until),
    }  # fmt: skip

    async def make() -> bytes:
        page = await context.look(lambda overview: overview.runs(**asked))
        early: list[StartedRun] = []
        if cursor is None and status in (None, *_BAD):
            await context.orchestrated.look(_LOOK_SECONDS)
            early = [one for one in await context.failed_early() if _is_asked_for(one, asked)]
        return encoded(RunPage(**items(page), failed_early=tuple(early)))

    data = await context.recent.get(("runs", *asked.values()), make)
    return Response(data, media_type="application/json")


def _is_asked_for(run: StartedRun, asked: Mapping[str, Any]) -> bool:
    """Whether a run that the catalog does not have would be in a list of it."""
    when = run.started_at or run.finished_at or run.created_at
    since, until = asked["since"], asked["until"]
    if when is not None and ((since and when < since) or (until and when >= until)):
        return False
    return asked["kind"] in (None, run.kind) and asked["job"] in (None, run.job)


@router.get(
    "/runs/{run_id}", operation_id="getRun", summary="One run", **protected(READ),
    responses={200: told(RunView, "The run.", examples.RUN)} | problems(404),
)  # fmt: skip
async def get_run(request: Request, run_id: RunPath) -> Response:
    """Tell all about a run. One that was just started has no part in the catalog yet."""
    context = context_of(request)
    run, progress = await find(context, run_id)
    return answer(RunView(run=run, progress=progress))


@router.get(
    "/runs/{run_id}/errors", operation_id="listRunErrors", summary="Files that a run did not save",
    responses={200: told(ErrorPage, "Some errors.", examples.ERRORS)} | problems(404),
    **protected(READ),
)  # fmt: skip
async def list_errors(
    request: Request, run_id: RunPath, cursor: Cursor = None, limit: Limit = LIMIT
) -> Response:
    """List the files that a run could not save, or not as they were."""
    context = context_of(request)
    run, _ = await find(context, run_id)
    if run is None:
        return answer(ErrorPage(items=()))
    of = run.summary.run_id
    page = await context.look(lambda overview: overview.errors(of, cursor=cursor, limit=limit))
    return answer(ErrorPage(**items(page)))


@router.post(
    "/runs/{run_id}/cancel", operation_id="cancelRun", summary="Stop a run", status_code=202,
    **protected(WRITE),
    responses={202: told(StartedRun, "It was told to stop.", examples.CANCELLED)}
    | problems(404, 409),
)  # fmt: skip
async def cancel_run(
    request: Request, caller: Annotated[Caller, Depends(caller_of)], run_id: RunPath
) -> Response:
    """Ask a run to stop. It ends in order, as cancelled; what it began to write is removed."""
    context = context_of(request)
    run, progress = await find(context, run_id, needs_progress=True)
    return answer(await cancel_found(context, caller, run, progress, run_id), 202)


async def find(
    context: Context, run_id: str, *, needs_progress: bool = False
) -> tuple[RunDetails | None, StartedRun | None]:
    """Find a run by its own id or that of its flow run. Raises Problem if there is none.

    A silent orchestrator leaves its part out, unless that is needed.
    """
    run = await context.look(lambda overview: _details(overview, run_id))
    flow_run = run.summary.flow_run if run is not None else run_id
    progress: StartedRun | None = None
    if flow_run:
        try:
            progress = await context.serve(context.runs.find, flow_run)
        except PyBakError:
            if run is None or needs_progress:
                raise
    if run is None and progress is None:
        raise not_found(run_id)
    return run, progress


def _details(overview: Overview, run_id: str) -> RunDetails | None:
    """Give what the catalog has of a run, by its id or that of its flow run."""
    try:
        return overview.run(run_id)
    except NotFoundError:
        of_flow = overview.run_of_flow(run_id)
        return overview.run(of_flow) if of_flow is not None else None
