"""Starting and stopping runs for a caller: checks, roots, limits, idempotency; then the service.

The REST API's routes and the dashboard's pages both go through here, so that neither allows what
the other refuses. Scopes are asked for by those that call this.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pybak.api.idempotency import fingerprint, reused, scoped_key
from pybak.api.problems import Problem, not_found, too_many
from pybak.api.schemas import SELECTION, InboxRequest, given
from pybak.api.services import ENDED, StartedRun
from pybak.display import escape
from pybak.portable import to_portable

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pybak.api.auth.scopes import Caller
    from pybak.api.context import Context
    from pybak.api.roots import Roots
    from pybak.api.schemas import CompressRequest, PruneRequest, RestoreRequest, VerifyRequest
    from pybak.overview.facts import RunDetails

_logger = logging.getLogger("pybak.api")


async def start_backup(
    context: Context, body: CompressRequest | InboxRequest, caller: Caller, key: str | None = None
) -> StartedRun:
    """Start a backup, or an inbox. Raises Problem and PyBakError, as all here do."""
    options = _options(context, body.options)
    if not isinstance(body, InboxRequest) and not body.sources:
        _check_selection(options)
    if "also_to" in options:
        options["also_to"] = await _checked(context, context.destinations, options["also_to"])
    parameters: dict[str, Any] = {"options": options}
    if isinstance(body, InboxRequest):
        [parameters["source"]] = await _checked(context, context.inboxes, [body.source])
        place, to = "destination", body.destination
    else:
        if body.sources:
            parameters["sources"] = await _checked(context, context.sources, body.sources)
        if body.job is not None:
            parameters["job"] = body.job
        place, to = "to", body.to
    if to is not None:
        [parameters[place]] = await _checked(context, context.destinations, [to])
    return await _start(context, body.kind, parameters, caller, key)


async def start_restore(
    context: Context, body: RestoreRequest, caller: Caller, key: str | None = None
) -> StartedRun:
    """Start a restore on the host."""
    options = _options(context, body.options)
    [to] = await _checked(context, context.restores, [body.to])
    parameters: dict[str, Any] = {"archive": "latest", "to": to, "options": options}
    if body.job is not None:
        parameters["job"] = body.job
        if body.at is not None:
            options["at"] = body.at
    elif body.run is not None:
        parameters["archive"] = await _run(context, body.run)
    elif body.archive is not None:
        parameters["archive"] = await _archive(context, body.archive)
    return await _start(context, "restore", parameters, caller, key)


async def start_verify(
    context: Context, body: VerifyRequest, caller: Caller, key: str | None = None
) -> StartedRun:
    """Start a check of archives."""
    wanted = [await _run(context, run) for run in body.runs]
    wanted += [await _archive(context, number) for number in body.archives]
    parameters: dict[str, Any] = {"options": _options(context, body.options)}
    if body.job is not None:
        wanted.append("latest")
        parameters["job"] = body.job
    parameters["archives"] = wanted
    return await _start(context, "verify", parameters, caller, key)


async def start_prune(
    context: Context, body: PruneRequest, caller: Caller, key: str | None = None
) -> StartedRun:
    """Start a prune, which only shows what it would do unless told otherwise."""
    options = _options(context, body.options) | {"dry_run": body.dry_run}
    parameters: dict[str, Any] = {"job": body.job, "options": options}
    return await _start(context, "prune", parameters, caller, key)


async def cancel_found(
    context: Context, caller: Caller, run: RunDetails | None, progress: StartedRun | None, name: str
) -> StartedRun:
    """Ask a run to stop that was found by `name`."""
    if progress is None or progress.state in ENDED:
        word = run.summary.status if run is not None else progress.state if progress else "unknown"
        raise Problem(409, "ended", f"{name}: can't be cancelled; it is {word}")
    stopping = await context.serve(context.runs.cancel, progress.flow_run_id)
    if stopping is None:
        raise not_found(name)
    _logger.info("%s cancels flow run %s", escape(caller.name), progress.flow_run_id)
    return stopping


def _options(context: Context, options: BaseModel) -> dict[str, Any]:
    """Give the options that a request names. Raises Problem for a block it may not name."""
    chosen = given(options)
    # Nothing said is as the deployment has it: a request takes no encryption away.
    block = chosen.get("password_block")
    if block is None:
        chosen.pop("password_block", None)
    elif block not in context.settings.password_blocks:
        raise Problem(
            403, "block-not-allowed",
            "password_block: requests may not name this block; the service's settings list those "
            "that they may",
        )  # fmt: skip
    return chosen


def _check_selection(options: Mapping[str, Any]) -> None:
    """Refuse to choose among sources that are not the request's own: a job's leave files out.

    What a deployment saves need not be below the roots, so its rules hold. Raises Problem.
    """
    if chosen := sorted(SELECTION.intersection(options)):
        raise Problem(
            403, "not-your-sources",
            f"{chosen[0]}: what a job's deployment saves is as that says; name sources to choose "
            "among them",
        )  # fmt: skip


async def _checked(context: Context, roots: Roots, places: list[str]) -> list[str]:
    return await context.serve(lambda: [roots.check(place) for place in places])


async def _run(context: Context, run_id: str) -> str:
    """Give the id of a run in the catalog: another word would be taken for a path."""
    return (await context.look(lambda overview: overview.run(run_id))).summary.run_id


async def _archive(context: Context, number: int) -> str:
    """Give the place of an archive in the catalog."""
    found = await context.look(lambda overview: overview.archive(number))
    return to_portable(found.summary.archive)


async def _start(
    context: Context,
    kind: str,
    parameters: Mapping[str, Any],
    caller: Caller,
    header: str | None,
) -> StartedRun:
    key = scoped_key(caller.key, header)
    asked = fingerprint(kind, parameters)
    with context.idempotency.used(key, asked):
        if wait := context.starts.take(caller.key):
            raise too_many(wait, "runs started")
        started = await context.serve(
            lambda: context.runs.start(kind, parameters, idempotency_key=key, fingerprint=asked)
        )
        if started.fingerprint not in (None, asked):
            raise reused()
    _logger.info("%s started %s: flow run %s", escape(caller.name), kind, started.flow_run_id)
    return started
