"""`GET /logs`, and as a stream `GET /logs/stream`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from pybak.api import examples
from pybak.api.auth.guard import GuardedRoute, caller_of, protected
from pybak.api.auth.scopes import READ, Caller
from pybak.api.context import Context, context_of
from pybak.api.paging import Cursor, Limit, Since, Text, Until, since_of, until_of
from pybak.api.problems import not_found, too_many
from pybak.api.routes.runs import find
from pybak.api.services import ENDED, LogPage
from pybak.api.streams import Streamed
from pybak.api.views import answer, encoded, problems, told
from pybak.errors import PyBakError

router = APIRouter(tags=["logs"], route_class=GuardedRoute)
_LINES: Final = 100
_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 5.0
_BEAT_SECONDS: Final = 15.0
_MOST_SECONDS: Final = 3600.0
_QUIET_READINGS: Final = 3
"""So many empty readings end a run that is over: its last lines come up to two seconds later,
which is how long Prefect gathers lines before it sends them."""
_BUSY_SECONDS: Final = 10.0

Run = Annotated[
    str | None,
    Query(
        max_length=100, pattern=r"^[A-Za-z0-9._:-]+$",
        description="The id of a run; without it the recent runs.",
    ),
]  # fmt: skip
Level = Annotated[
    Literal["debug", "info", "warning", "error", "critical"] | None,
    Query(description="Only lines of this level or above."),
]
Words = Annotated[
    Text | None, Query(min_length=1, max_length=100, description="Only lines with this text.")
]


@router.get(
    "/logs", operation_id="listLogs", summary="Log lines, the oldest first", **protected(READ),
    responses={200: told(LogPage, "Some lines.", examples.LOGS)} | problems(404),
)  # fmt: skip
async def list_logs(
    request: Request,
    run: Run = None,
    level: Level = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    cursor: Cursor = None,
    limit: Limit = _LINES,
) -> Response:
    """List log lines. `next` goes on where this page ends, also when the run writes more."""
    context = context_of(request)
    flow_run = await _flow_run(context, run)
    return answer(
        await _lines(
            context,
            flow_run_id=flow_run, level=level, text=text, cursor=cursor, limit=limit,
            since=since_of(since), until=until_of(until),
        )
    )  # fmt: skip


@router.get(
    "/logs/stream", operation_id="followLogs", summary="Log lines as they are written",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": (
                "Server-sent events: `log` with a line, and `end` when the run has ended. Send "
                "Last-Event-ID to go on where a stream broke off."
            ),
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"}, "example": examples.LOG_STREAM,
                }
            },
        }
    } | problems(404, 429),
    **protected(READ),
)  # fmt: skip
async def follow_logs(
    request: Request,
    caller: Annotated[Caller, Depends(caller_of)],
    run: Run = None,
    level: Level = None,
    text: Words = None,
    last_event_id: Annotated[str | None, Header(max_length=8192)] = None,
) -> Response:
    """Follow the log of a run until it ends, or of all recent ones, for an hour at most."""
    context = context_of(request)
    flow_run = await _flow_run(context, run)
    if context.streams >= context.settings.streams:
        raise too_many(_BUSY_SECONDS, "log streams at once")
    asked: dict[str, Any] = {"flow_run_id": flow_run, "level": level, "text": text}
    events = _events(context, asked, last_event_id or None, caller.expires_at)
    first = await anext(events)  # it counts from here on; what can't be asked says so
    return Streamed(
        _following(first, events),
        events,
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


async def _following(
    first: bytes, events: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events) as rest:
        yield first
        async for event in rest:
            yield event


async def _lines(context: Context, **asked: Any) -> LogPage:
    return await context.serve(lambda: context.logs.lines(**asked))


async def _flow_run(context: Context, run: str | None) -> str | None:
    if run is None:
        return None
    details, progress = await find(context, run)
    if progress is not None:
        return progress.flow_run_id
    if details is None or details.summary.flow_run is None:
        raise not_found(f"logs of {run}")
    return details.summary.flow_run


async def _events(
    context: Context,
    asked: dict[str, Any],
    cursor: str | None,
    expires_at: float | None,
) -> AsyncGenerator[bytes, None]:
    """Yield events until the run has ended, the token has expired, or nobody listens.

    The first one comes when the log was read once; what keeps it from that is raised.
    """
    context.streams += 1
    flow_run: str | None = asked["flow_run_id"]
    ends_at = min(time.time() + _MOST_SECONDS, expires_at or float("inf"))
    pause, beat_at, quiet = _PAUSE_SECONDS, time.monotonic() + _BEAT_SECONDS, 0
    is_read = False
    try:
        page = await _lines(context, **asked, cursor=cursor, limit=_LINES)
        is_read = True
        yield b"retry: 3000\n\n"
        while True:
            for line in page.items:
                yield _event("log", line, line.cursor)
            cursor = page.next or cursor
            if page.items:
                pause = _PAUSE_SECONDS
            if page.complete:
                is_over = await _is_over(context, flow_run)
                quiet = quiet + 1 if is_over and not page.items else 0
                if quiet == _QUIET_READINGS:
                    yield b"event: end\ndata: {}\n\n"
                    return
                if time.time() >= ends_at:
                    return
                if time.monotonic() >= beat_at:
                    yield b": still here\n\n"
                    beat_at = time.monotonic() + _BEAT_SECONDS
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
            page = await _lines(context, **asked, cursor=cursor, limit=_LINES)
    except PyBakError:
        if not is_read:
            raise
        return  # whoever follows comes back by itself
    finally:
        context.streams -= 1


def _event(kind: str, value: Any, ident: str) -> bytes:
    return b"event: %b\nid: %b\ndata: %b\n\n" % (
        kind.encode(), ident.encode(), encoded(value),
    )  # fmt: skip


async def _is_over(context: Context, flow_run: str | None) -> bool:
    if flow_run is None:
        return False
    found = await context.serve(context.runs.find, flow_run)
    return found is None or found.state in ENDED
