"""What routes work with: the services, how they are asked, and what they said last."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from anyio.to_thread import run_sync
from fastapi import Request

from pybak.api.auth.guard import Guard
from pybak.api.caching import Recent
from pybak.api.idempotency import Idempotency
from pybak.api.limits import RateLimit
from pybak.api.roots import Roots
from pybak.api.services import FileService, LogSource, RunService, StartedRun
from pybak.api.settings import ApiSettings
from pybak.errors import PyBakError
from pybak.overview.facts import Schedule

if TYPE_CHECKING:
    from pybak.overview import Overview

T = TypeVar("T")

# More threads than this would only wait for each other and for the database.
_CATALOG_AT_ONCE: Final = 3
_SERVICE_AT_ONCE: Final = 8
_PATIENCE_SECONDS: Final = 3.0
_KEPT_SECONDS: Final = 2.0
_SILENT_SECONDS: Final = 15.0
_FAILED_WITHIN: Final = timedelta(days=7)
_logger = logging.getLogger("pybak.api")


class Orchestrated:
    """What the orchestrator says of runs, kept for seconds; nothing while it does not answer.

    The catalog is shown all the same then: an overview must not need everything to be well.
    `failed` are runs that ended badly of late. Schedules take some queries a job, so they are read
    aside, and the last ones that are known are good until then.
    """

    def __init__(self, runs: RunService, room: anyio.CapacityLimiter) -> None:
        self._runs = runs
        self._room = room
        self._due = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._planning: asyncio.Task[None] | None = None
        self.answers = True
        self.active: Sequence[StartedRun] = ()
        self.failed: Sequence[StartedRun] = ()
        self.schedules: Mapping[str, Schedule] = {}

    @property
    def next_runs(self) -> Mapping[str, datetime]:
        """When each job runs next."""
        known = self.schedules.items()
        return {job: one.next_run for job, one in known if one.next_run is not None}

    async def look(self, seconds: float = _PATIENCE_SECONDS) -> None:
        """Ask, if what is known is old, and wait for it so long at most."""
        until = time.monotonic() + seconds
        if time.monotonic() >= self._due and self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=seconds)
        if self._planning is not None and not self.schedules:
            await asyncio.wait({self._planning}, timeout=max(until - time.monotonic(), 0))

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        _tell_trouble(task)

    def _planned(self, task: asyncio.Task[None]) -> None:
        self._planning = None
        _tell_trouble(task)

    async def _look(self) -> None:
        try:
            with anyio.fail_after(_PATIENCE_SECONDS):
                self.active, self.failed = await run_sync(
                    self._ask, abandon_on_cancel=True, limiter=self._room
                )
        except (PyBakError, TimeoutError) as error:
            if self.answers:
                _logger.warning("the orchestrator does not answer: %s", error)
            self.answers, self.active, self.failed, self.schedules = False, (), (), {}
            self._due = time.monotonic() + _SILENT_SECONDS
            return
        self.answers = True
        self._due = time.monotonic() + _KEPT_SECONDS
        if self._planning is None:
            self._planning = asyncio.create_task(self._plan())
            self._planning.add_done_callback(self._planned)

    async def _plan(self) -> None:
        with contextlib.suppress(PyBakError):  # the next look tells
            self.schedules = await run_sync(self._runs.schedules, limiter=self._room)

    def _ask(self) -> tuple[Sequence[StartedRun], Sequence[StartedRun]]:
        return self._runs.active(), self._runs.failed(now() - _FAILED_WITHIN)


def _tell_trouble(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("asking the orchestrator went wrong", exc_info=error)


class Context:
    """One for each application."""

    def __init__(
        self,
        settings: ApiSettings,
        guard: Guard,
        overview: Callable[[], Overview],
        runs: RunService,
        logs: LogSource,
        files: FileService,
    ) -> None:
        self.settings = settings
        self.guard = guard
        self.runs = runs
        self.logs = logs
        self.files = files
        self.sources = Roots("sources", settings.source_roots)
        self.destinations = Roots("destinations", settings.destination_roots)
        self.inboxes = Roots("inboxes", settings.inbox_roots)
        self.restores = Roots("restores", settings.restore_roots)
        self.requests = RateLimit(settings.requests_a_minute)
        self.starts = RateLimit(settings.starts_a_minute)
        self.idempotency = Idempotency()
        self.recent = Recent()
        self.streams = 0
        self.downloads = 0
        self._make_overview = overview
        self._overview: Overview | None = None
        self._recorded: set[str] = set()
        self._catalog_room = anyio.CapacityLimiter(_CATALOG_AT_ONCE)
        self._service_room = anyio.CapacityLimiter(_SERVICE_AT_ONCE)
        self.orchestrated = Orchestrated(runs, self._service_room)

    async def look(self, ask: Callable[[Overview], T]) -> T:
        """Ask the catalog, in a thread."""
        return await run_sync(lambda: ask(self.opened()), limiter=self._catalog_room)

    async def failed_early(self) -> tuple[StartedRun, ...]:
        """Give the runs that failed of late before the catalog heard of them, the last first."""
        failed = self.orchestrated.failed
        unknown = [one.flow_run_id for one in failed if one.flow_run_id not in self._recorded]
        if unknown:
            self._recorded |= await self.look(
                lambda overview: {one for one in unknown if overview.run_of_flow(one) is not None}
            )
        recorded = self._recorded
        self._recorded = recorded & {one.flow_run_id for one in failed}
        return tuple(one for one in failed if one.flow_run_id not in recorded)

    async def serve(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call a service, in a thread."""
        return await run_sync(lambda: call(*arguments), limiter=self._service_room)

    def opened(self) -> Overview:
        """Give the catalog's questions, in whatever thread."""
        if self._overview is None:
            self._overview = self._make_overview()
        return self._overview


def context_of(request: Request) -> Context:
    """Give the context of the application that a request is for."""
    context: Context = request.app.state.context
    return context


def now() -> datetime:
    """Give the time, in UTC."""
    return datetime.now(UTC)
