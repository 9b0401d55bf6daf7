"""Do things that may hang, side by side, and wait for them only so long.

Socket timeouts bound each step, not the whole: a server that sends a byte now and then, or a name
that resolves to many dead addresses, holds a caller for as long as it likes. So each runs in a
thread of its own that is left behind once its time is over; it ends by the timeouts of its steps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

STOPPED_SECONDS: Final = 2.0
"""How much longer all may take, at most, once the run is told to stop."""
_PAUSE_SECONDS: Final = 0.1


@dataclass
class Job:
    """One thing to do. `error` is what it raised; `is_late` that its time was over before."""

    do: Callable[[], object]
    seconds: float
    error: Exception | None = None
    is_late: bool = False
    _done: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin it in a thread of its own."""
        threading.Thread(target=self._run, name="pybak-notice", daemon=True).start()

    def _run(self) -> None:
        try:
            self.do()
        except Exception as error:  # handed to whoever waits
            self.error = error
        finally:
            self._done.set()

    @property
    def is_done(self) -> bool:
        """Whether it came to an end."""
        return self._done.is_set()

    def wait(self, seconds: float) -> None:
        """Wait for it, a moment at most."""
        self._done.wait(min(seconds, _PAUSE_SECONDS))


def side_by_side(
    jobs: Sequence[Job],
    *,
    stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Do all jobs at once; come back when each is done or late, or soon after `stopped`."""
    start = clock()
    last: float | None = None
    for job in jobs:
        job.start()
    for job in jobs:
        while not job.is_done:
            now = clock()
            if last is None and stopped():
                last = now + STOPPED_SECONDS
            until = start + job.seconds
            left = (until if last is None else min(until, last)) - now
            if left <= 0:
                job.is_late = True
                break
            job.wait(left)
