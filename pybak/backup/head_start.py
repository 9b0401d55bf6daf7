"""What is done of a run while its command imports Prefect: the walk, the plan, the first segments.

Where all that is found will be saved, that is known before the flow decides it. If it decides
otherwise, what was made is dropped: segments of other batches must not be taken for this run's.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from typing import Final

from pybak.backup.ahead import Made, Walk, WalkAhead
from pybak.backup.discover import Discovery
from pybak.backup.filter import Filtered
from pybak.backup.pack_ahead import PackAhead
from pybak.backup.plan import BackupPlan, PlanOrder
from pybak.clusters import HELPERS
from pybak.workers.pool import end_ready, make_ready

_LOOKS_AT_THE_END: Final = 20
_PLANNED: Final = ("batches", "segments", "progress")


class HeadStart:
    """Works from now on until `close`."""

    def __init__(self, walk: Walk, check: Callable[[], object]) -> None:
        """Begin. Raises HelpersUnavailableError if no helper can be started.

        `check` is called where something is waited for; what it raises ends the waiting.
        """
        self._staging = walk.staging
        self._check = check
        self._made: Made | None = None
        self._packing: PackAhead | None = None
        self._is_awaited = False
        self._walking = WalkAhead(walk, self._walked)

    def _walked(self, made: Made) -> None:
        if made.order is None or made.plan is None or made.plan.cluster != HELPERS:
            return
        pool = make_ready(made.plan.workers)
        # What is encrypted waits for the password's check, which the archive begins with.
        if pool is not None and not made.order.encrypted and not self._is_awaited:
            self._packing = PackAhead(pool, made.plan)

    def discover(self, on_progress: Callable[[int, int], object]) -> Discovery | None:
        """Wait for the walk, once; give what it found, or None where no helper could do it.

        See `WalkAhead.finish`.
        """
        if self._is_awaited:
            self._drop()
            return None
        self._is_awaited = True
        with contextlib.closing(self._walking):
            self._made = self._walking.finish(on_progress)
        return None if self._made is None else self._made.found

    def kept(self, found: Discovery) -> Filtered | None:
        """Give what is kept of `found`, if that is known."""
        return self._made.kept if self._made is not None and self._made.found == found else None

    def plan(self, kept: Filtered, order: PlanOrder) -> BackupPlan | None:
        """Give this plan if it was made. Then nobody works on it any more."""
        made = self._made
        if made is None or (made.kept, made.order) != (kept, order):
            self._drop()
            return None
        self._stop()
        return made.plan

    def _stop(self) -> None:
        if self._packing is not None:
            self._packing.stop(self._check)
            self._packing = None

    def _drop(self) -> None:
        self._stop()
        made, self._made = self._made, None
        if made is not None and made.plan is not None:
            for name in _PLANNED:
                shutil.rmtree(self._staging / name)

    def close(self) -> None:
        """End it, wherever it is; fine the second time."""
        self._walking.close()
        end_ready()  # its helpers, and with them the batches at work
        packing, self._packing = self._packing, None
        if packing is not None:
            left = iter(range(_LOOKS_AT_THE_END))
            with contextlib.suppress(StopIteration):  # one that hangs in the system
                packing.stop(lambda: next(left))
