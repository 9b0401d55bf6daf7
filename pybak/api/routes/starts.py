"""`POST /compress`, `/restore`, `/verify`, `/prune`: each starts a run and says which."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response

from pybak.api import examples
from pybak.api.auth.guard import GuardedRoute, caller_of, protected
from pybak.api.auth.scopes import RESTORE, WRITE, Caller
from pybak.api.context import context_of
from pybak.api.idempotency import HEADER
from pybak.api.schemas import (
    PruneRequest,
    RestoreRequest,
    StartRequest,
    VerifyRequest,
)
from pybak.api.services import StartedRun
from pybak.api.starting import start_backup, start_prune, start_restore, start_verify
from pybak.api.views import answer, problems, told

router = APIRouter(tags=["starting runs"], route_class=GuardedRoute)
_ACCEPTED = {
    202: told(StartedRun, "The run that was started, or that this key started.", examples.STARTED)
    | {"headers": {"Location": {"schema": {"type": "string"}, "description": "Of the run."}}}
}
_PROBLEMS = problems(400, 404, 408, 409, 413)
Key = Annotated[
    str | None,
    Header(
        alias=HEADER, max_length=255,
        description="A text of your choice: the same request again with it starts nothing new.",
        examples=["8f3a0c52-6f0f-4f0d-9d3e-1c7a5e2b9a10"],
    ),
]  # fmt: skip
Asking = Annotated[Caller, Depends(caller_of)]


def _starting(summary: str, operation: str, scope: str) -> dict[str, Any]:
    return {
        "operation_id": operation, "summary": summary, "status_code": 202,
        "responses": _ACCEPTED | _PROBLEMS,
        **protected(scope),
    }  # fmt: skip


@router.post("/compress", **_starting("Start a backup or an inbox", "startBackup", WRITE))
async def compress(
    request: Request, body: StartRequest, caller: Asking, key: Key = None
) -> Response:
    """Start a backup: of a job by its name, as its deployment has it, or of these sources.

    With the kind `inbox` the files of a folder are packed one by one, and leave it.
    """
    return _accepted(await start_backup(context_of(request), body, caller, key))


@router.post("/restore", **_starting("Start a restore", "startRestore", RESTORE))
async def restore(
    request: Request, body: RestoreRequest, caller: Asking, key: Key = None
) -> Response:
    """Restore files on the host: of a run, an archive, or a job's newest backup."""
    return _accepted(await start_restore(context_of(request), body, caller, key))


@router.post("/verify", **_starting("Start a check of archives", "startVerify", WRITE))
async def verify(
    request: Request, body: VerifyRequest, caller: Asking, key: Key = None
) -> Response:
    """Read archives through and check every member, or a share of them."""
    return _accepted(await start_verify(context_of(request), body, caller, key))


@router.post("/prune", **_starting("Start a prune", "startPrune", WRITE))
async def prune(request: Request, body: PruneRequest, caller: Asking, key: Key = None) -> Response:
    """Remove snapshots that no rule keeps. By default only show which: see the run's report."""
    return _accepted(await start_prune(context_of(request), body, caller, key))


def _accepted(started: StartedRun) -> Response:
    return answer(started, 202, {"Location": f"/runs/{started.flow_run_id}"})
