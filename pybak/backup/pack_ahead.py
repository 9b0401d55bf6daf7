"""The first batches of a plan, compressed while the command still imports Prefect.

One core is left for that. The flow's tasks find the segments there, as those of a try before.
"""

from __future__ import annotations

import itertools
import os
import threading
from typing import Final

from pybak.backup.plan import BackupPlan
from pybak.errors import PyBakError
from pybak.workers.messages import Order
from pybak.workers.pool import HelperPool

_CORES_LEFT: Final = 1


class PackAhead:
    """Has helpers of `pool` compress one batch after the other, from now on until `stop`."""

    def __init__(self, pool: HelperPool, plan: BackupPlan) -> None:
        self._pool = pool
        self._plan = plan
        self._numbers = itertools.count()
        self._is_stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"pack-ahead-{number}", daemon=True)
            for number in range(max(1, plan.workers - _CORES_LEFT))
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        staging = self._plan.staging
        while not self._is_stopped.is_set():
            number = next(self._numbers)
            if number >= self._plan.batches:
                return
            progress = staging / "progress" / f"ahead-{number:07d}"
            order = Order(
                folder=os.fsencode(staging), progress=os.fsencode(progress),
                start=number, stop=number + 1, step=1, password=None,
            )  # fmt: skip
            try:
                self._pool.compress(order)
            except PyBakError:
                return  # the flow meets it again, and tells

    def stop(self) -> None:
        """Wait for the batches at work, and begin no other; fine the second time."""
        self._is_stopped.set()
        for thread in self._threads:
            thread.join()
