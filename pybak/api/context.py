"""What routes work with: the services, how they are asked, and what they said last."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
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

if TYPE_CHECKING:
    from pybak.overview import Overview

T = TypeVar("T")

# More threads than this would only wait for each other and for the database.
_CATALOG_AT_ONCE: Final = 3
_SERVICE_AT_ONCE: Final = 8
_PATIENCE_SECONDS: Final = 3.0
_KEPT_SECONDS: Final = 2.0
_SILENT_SECONDS: Final = 15.0
_logger = logging.getLogger("pybak.api")


class Orchestrated:
    """What the orchestrator says of runs, kept for seconds; nothing while it does not answer.

    The catalog is shown all the same then: an overview must not need everything to be well.
    """

    def __init__(self, runs: RunService, room: anyio.CapacityLimiter) -> None:
        self._runs = runs
        self._room = room
        self._lock = asyncio.Lock()
        self._due = 0.0
        self.answers = True
        self.active: Sequence[StartedRun] = ()
        self.next_runs: Mapping[str, datetime] = {}

    async def look(self) -> None:
        """Ask, if what is known is old."""
        if time.monotonic() < self._due:
            return
        async with self._lock:
            if time.monotonic() < self._due:
                return
            try:
                with anyio.fail_after(_PATIENCE_SECONDS):
                    self.active, self.next_runs = await run_sync(
                        self._ask, abandon_on_cancel=True, limiter=self._room
                    )
                self.answers = True
                self._due = time.monotonic() + _KEPT_SECONDS
            except (PyBakError, TimeoutError) as error:
                if self.answers:
                    _logger.warning("the orchestrator does not answer: %s", error)
                self.answers, self.active, self.next_runs = False, (), {}
                self._due = time.monotonic() + _SILENT_SECONDS

    def _ask(self) -> tuple[Sequence[StartedRun], Mapping[str, datetime]]:
        return self._runs.active(), self._runs.next_runs()


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
        self.starts = RateLimit(settings.starts_a_minute)
        self.idempotency = Idempotency()
        self.recent = Recent()
        self.streams = 0
        self.downloads = 0
        self._make_overview = overview
        self._overview: Overview | None = None
        self._catalog_room = anyio.CapacityLimiter(_CATALOG_AT_ONCE)
        self._service_room = anyio.CapacityLimiter(_SERVICE_AT_ONCE)
        self.orchestrated = Orchestrated(runs, self._service_room)

    async def look(self, ask: Callable[[Overview], T]) -> T:
        """Ask the catalog, in a thread."""
        return await run_sync(lambda: ask(self.opened()), limiter=self._catalog_room)

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
