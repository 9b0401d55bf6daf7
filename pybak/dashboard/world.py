"""What pages ask: the catalog's overview, the API's services, and who is looking.

Pages run in threads; the API's own functions run in the service's event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any, Final, TypeVar
from zoneinfo import ZoneInfo

import flask

from pybak.api.auth.scopes import Caller
from pybak.api.problems import Problem
from pybak.dashboard.guard import CALLER
from pybak.errors import PyBakError
from pybak.overview.facts import JobState

if TYPE_CHECKING:
    from pybak.api.context import Context
    from pybak.api.services import StartedRun
    from pybak.api.settings import ApiSettings
    from pybak.overview import Overview

T = TypeVar("T")
ZONE_COOKIE: Final = "pybak_zone"
_PATIENCE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.7
_KEPT_SECONDS: Final = 2.0


class World:
    """One for each application."""

    def __init__(self, context: Callable[[], Context]) -> None:
        """Take what gives the API's context, once it is there."""
        self._make_context = context
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Any]] = {}

    def begin(self) -> None:
        """Remember the loop that runs; the services' functions run there."""
        self._loop = asyncio.get_running_loop()

    @property
    def context(self) -> Context:
        """The API's context."""
        return self._make_context()

    @property
    def settings(self) -> ApiSettings:
        """The API's settings."""
        return self.context.settings

    @property
    def overview(self) -> Overview:
        """The catalog's questions."""
        return self.context.opened()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run one of the API's functions, from a thread. Raises what it raises, TimeoutError."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_SECONDS)

    def caller(self) -> Caller:
        """Give who is looking."""
        caller: Caller = flask.request.environ["asgi.scope"][CALLER]
        return caller

    def check(self, scope: str) -> Caller:
        """Give who is asking. Raises Problem if they may not."""
        caller = self.caller()
        if scope not in caller.scopes:
            raise Problem(403, "insufficient-scope", f"you may not do this: it needs {scope}")
        return caller

    def zone(self) -> tzinfo:
        """Give the time zone of whoever is looking, as their browser said."""
        name = flask.request.cookies.get(ZONE_COOKIE, "")
        try:
            return ZoneInfo(name) if name else UTC
        except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
            return UTC

    def now(self) -> datetime:
        """Give the time, in UTC."""
        return datetime.now(UTC)

    def jobs(self) -> list[JobState]:
        """Give all jobs; some seconds old at most, for many may look at once."""
        return self._recent("jobs", self._jobs)

    def storage(self) -> Any:
        """Give what archives take; some seconds old at most."""
        return self._recent("storage", self.overview.storage)

    def at_work(self) -> Mapping[str, StartedRun]:
        """Give what the orchestrator has at work, by flow run; nothing while it is silent."""
        self._look()
        return {one.flow_run_id: one for one in self.context.orchestrated.active}

    def failed_early(self) -> list[StartedRun]:
        """Give runs of late that failed before the catalog heard of them, the last one first."""
        self._look()
        return list(self.call(self.context.failed_early()))

    @property
    def orchestrator_answers(self) -> bool:
        """Whether the orchestrator did, when it was last asked."""
        return self.context.orchestrated.answers

    def _jobs(self) -> list[JobState]:
        self._look()
        return list(self.overview.jobs(self.now(), self.context.orchestrated.schedules))

    def _look(self) -> None:
        """Ask the orchestrator, but don't wait for one that is slow: it goes on by itself."""
        assert self._loop is not None
        asked = asyncio.run_coroutine_threadsafe(self.context.orchestrated.look(), self._loop)
        try:
            asked.result(_LOOK_SECONDS)
        except (PyBakError, TimeoutError):
            return

    def _recent(self, name: str, make: Callable[[], T]) -> T:
        with self._lock:
            at, value = self._kept.get(name, (0.0, None))
            if value is None or time.monotonic() - at >= _KEPT_SECONDS:
                value = make()
                self._kept[name] = (time.monotonic(), value)
            made: T = value
            return made
