"""The first batches of a plan, compressed while the command still imports Prefect.

One core is left for that. The flow's tasks find the segments there, as those of a try before.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pybak.backup.plan import BackupPlan
from pybak.errors import PyBakError
from pybak.resources import usable_cpus
from pybak.workers.messages import Order
from pybak.workers.pool import HelperPool

_CORES_LEFT: Final = 1
_MOST_SECONDS: Final = 10.0
_MOST_BYTES: Final = 4 << 30
_SHARE_OF_ROOM: Final = 4
"""What there may be of segments, at most: nobody takes them away yet. Part of the free space."""
_LOOK_SECONDS: Final = 0.1


class PackAhead:
    """Has helpers of `pool` compress one batch after the other, from now on until `stop`."""

    def __init__(self, pool: HelperPool, plan: BackupPlan) -> None:
        self._pool = pool
        self._staging = plan.staging
        self._numbers = itertools.count()
        self._end = _batches_in_reach(plan)
        self._ends_at = time.monotonic() + _MOST_SECONDS
        self._is_stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        with contextlib.suppress(RuntimeError):  # as many as there can be
            for number in range(min(plan.workers, usable_cpus()) - _CORES_LEFT):
                name = f"pack-ahead-{number}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def _work(self) -> None:
        while not self._is_stopped.is_set() and time.monotonic() < self._ends_at:
            number = next(self._numbers)
            if number >= self._end or not self._is_done(number):
                return

    def _is_done(self, number: int) -> bool:
        progress = self._staging / "progress" / f"ahead-{number:07d}"
        order = Order(
            folder=os.fsencode(self._staging), progress=os.fsencode(progress),
            start=number, stop=number + 1, step=1,
        )  # fmt: skip
        try:
            self._pool.compress(order)
        except PyBakError:  # the flow meets it again, and tells
            with contextlib.suppress(OSError):
                progress.unlink(missing_ok=True)
            return False
        return True

    def stop(self, on_wait: Callable[[], object]) -> None:
        """Begin no other batch, and wait for those at work; fine the second time.

        `on_wait` is called meanwhile; what it raises ends the waiting.
        """
        self._is_stopped.set()
        for thread in self._threads:
            while thread.is_alive():
                on_wait()
                thread.join(_LOOK_SECONDS)


def _batches_in_reach(plan: BackupPlan) -> int:
    """Give how many batches may lie there compressed."""
    most = min(_MOST_BYTES, _free(plan.staging) // _SHARE_OF_ROOM)
    return min(plan.batches, most * plan.batches // max(plan.bytes, 1))


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
