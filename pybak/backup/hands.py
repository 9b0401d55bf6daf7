"""Deal batches out to the tasks of a run.

That is done in waves. A wave takes most of what is left and deals it like cards, one hand a task,
so that every worker walks through the archive at the same pace; the last waves are single batches,
so that nobody waits long for the last one to finish.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

WAVE_SHARE: Final = 0.6
"""What a wave takes of the batches that are left."""


class Hand(msgspec.Struct, frozen=True, array_like=True):
    """The batches one task takes: `range(start, stop, step)`."""

    start: int
    stop: int
    step: int

    def batches(self) -> range:
        """Give the numbers of the batches."""
        return range(self.start, self.stop, self.step)


def deal(batches: int, workers: int, *, least: int = 1) -> Iterator[Hand]:
    """Deal the numbers below `batches` out in waves; see the module's text.

    Makes about `workers * log(batches / workers)` hands, of `least` batches or more but for the
    last few.
    """
    start = 0
    while start < batches:
        left = batches - start
        size = min(left, max(workers * least, int(left * WAVE_SHARE)))
        stop = start + size
        for worker in range(min(workers, size)):
            yield Hand(start + worker, stop, workers)
        start = stop
