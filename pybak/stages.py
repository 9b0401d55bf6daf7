"""How long each stage of a run took, measured while the run is at work.

A stage is told by when it first began, by the time from then until it last ended, and by the work
done in it, which is the time of all workers together. Stages overlap where data is streamed from
one to the next, so their times don't add up to the run's.

Whoever runs a flow measures it (`measuring`); what works for it says which stage that is (`stage`).
Where nobody measures, as in the processes of workers, that does nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import msgspec

ASSEMBLE: Final = "assemble"
EMAIL_REPORT: Final = "email-report"
UPLOAD: Final = "upload"


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a run; `start_seconds` count from the beginning of the run's first stage.

    `wall_seconds` go from its first start to its last end. `busy_seconds` are what all who worked
    in it took together, None where that is not known.
    """

    name: str
    start_seconds: float
    wall_seconds: float
    busy_seconds: float | None = None


class Span:
    """One time in a stage. What several workers do in it takes `busy` seconds (None: unknown)."""

    def __init__(self) -> None:
        self.busy: float | None = None
        self.is_shared = False

    def shared(self, busy: float | None) -> None:
        """Say what those who shared the work took together."""
        self.busy, self.is_shared = busy, True


class _Seen:
    """What is known of one stage by now."""

    def __init__(self, start: float, end: float, busy: float | None) -> None:
        self.start, self.end, self.busy = start, end, busy

    def add(self, start: float, end: float, busy: float | None) -> None:
        self.start, self.end = min(self.start, start), max(self.end, end)
        self.busy = None if busy is None or self.busy is None else self.busy + busy


class Stages:
    """Gathers the stages of one run; any thread may add to them.

    What is added counts for `outer`, too: a run that is a part of another one.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, outer: Stages | None = None
    ) -> None:
        self.clock = clock
        self.recorded: list[tuple[str, str]] = []
        """Where the run is recorded: URLs of catalogs and ids there."""
        self._outer = outer
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}

    def add(self, name: str, start: float, end: float, *, busy: float | None) -> None:
        """Add a time in a stage, by `clock`."""
        with self._lock:
            seen = self._seen.get(name)
            if seen is None:
                self._seen[name] = _Seen(start, end, busy)
            else:
                seen.add(start, end, busy)
        if self._outer is not None:
            self._outer.add(name, start, end, busy=busy)

    @contextmanager
    def stage(self, name: str) -> Iterator[Span]:
        """Measure what is done inside, also if it fails."""
        span = Span()
        start = self.clock()
        try:
            yield span
        finally:
            end = self.clock()
            self.add(name, start, end, busy=span.busy if span.is_shared else end - start)

    def span(self, name: str) -> tuple[float, float, float | None] | None:
        """Give start, end and work of a stage by `clock`; None for one that never was."""
        with self._lock:
            seen = self._seen.get(name)
            return None if seen is None else (seen.start, seen.end, seen.busy)

    def all(self) -> tuple[Stage, ...]:
        """Give the stages so far, those that began first in front."""
        with self._lock:
            seen = sorted(self._seen.items(), key=lambda item: item[1].start)
            first = seen[0][1].start if seen else 0.0
            return tuple(
                Stage(
                    name=name, start_seconds=round(one.start - first, 3),
                    wall_seconds=round(one.end - one.start, 3),
                    busy_seconds=None if one.busy is None else round(one.busy, 3),
                )
                for name, one in seen
            )  # fmt: skip


_current: ContextVar[Stages | None] = ContextVar("stages", default=None)


def current() -> Stages | None:
    """Give what measures the run that is at work here; None where nothing does."""
    return _current.get()


@contextmanager
def measuring() -> Iterator[Stages]:
    """Measure the run that is done inside."""
    stages = Stages(outer=_current.get())
    token = _current.set(stages)
    try:
        yield stages
    finally:
        _current.reset(token)


@contextmanager
def stage(name: str) -> Iterator[Span]:
    """Measure what is done inside as a stage of the run at work here; a decorator, too."""
    stages = _current.get()
    if stages is None:
        yield Span()
        return
    with stages.stage(name) as span:
        yield span


def to_rows(stages: Iterable[Stage]) -> list[list[Any]]:
    """Give stages as the catalog keeps them: short, for there is a row a run."""
    return [[one.name, one.start_seconds, one.wall_seconds, one.busy_seconds] for one in stages]


def from_rows(rows: Sequence[Sequence[Any]] | None) -> tuple[Stage, ...]:
    """Give back what `to_rows` took; none of a run that was not measured."""
    return tuple(
        Stage(name=name, start_seconds=start, wall_seconds=wall, busy_seconds=busy)
        for name, start, wall, busy in rows or ()
    )
