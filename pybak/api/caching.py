"""Answers that many ask for at once are made once, by one of those who ask.

A dashboard that is open in many places must not have the same page counted again for each. An
answer is a second old at most when it is asked for again; while a new one is made then, the others
get the old one, which is some seconds old at most.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Final

SECONDS: Final = 1.0
STALE_SECONDS: Final = 5.0
_MOST: Final = 64


@dataclass
class _Entry:
    made: bytes | None = None
    made_at: float = 0.0
    task: asyncio.Task[bytes] | None = None


class Recent:
    """Answers of the last seconds, by what was asked."""

    def __init__(
        self, seconds: float = SECONDS, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    async def get(self, asked: Hashable, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Give the answer that is there, or have it made. Failures are not kept."""
        entry = self._entries.setdefault(asked, _Entry())
        self._entries.move_to_end(asked)
        while len(self._entries) > _MOST:
            self._entries.popitem(last=False)
        age = self._clock() - entry.made_at
        if entry.made is not None and age < self._seconds:
            return entry.made
        if entry.task is None:
            entry.task = asyncio.ensure_future(_made(make))
            entry.task.add_done_callback(lambda done: self._settle(entry, done))
        if entry.made is not None and age < STALE_SECONDS:
            return entry.made
        # Who goes away must not take it from the others.
        return await asyncio.shield(entry.task)

    def _settle(self, entry: _Entry, task: asyncio.Task[bytes]) -> None:
        entry.task = None
        if not task.cancelled() and task.exception() is None:
            entry.made, entry.made_at = task.result(), self._clock()


async def _made(make: Callable[[], Awaitable[bytes]]) -> bytes:
    return await make()
