"""From a finished archive to the files that it is stored as: volumes, wrapped ones, or one file."""

from __future__ import annotations

import os
from typing import Any, Final

from pybak.backup.about import About
from pybak.backup.assemble import Assembly
from pybak.backup.hands import Hand, deal
from pybak.backup.plan import BackupPlan
from pybak.backup.workplace import Workplace
from pybak.clusters import DIRECT, HELPERS, THREADS
from pybak.volumes.write import FinishedVolume, plan_volumes, read_finished

_DIRECT_BYTES: Final = 64 << 20
"""Volumes of fewer bytes are written in the flow itself."""


class Cutting:
    """Has the files of one run's archive written in local folders.

    `payload_bytes` is what a volume holds of the archive, `threads` how many may be used where no
    cluster is.
    """

    def __init__(
        self, about: About, place: Workplace, payload_bytes: int | None, threads: int
    ) -> None:
        self._about = about
        self._place = place
        self._payload_bytes = payload_bytes
        self._threads = threads

    @property
    def is_needed(self) -> bool:
        """Whether the archive's files are written in a step of their own: volumes or wrapped."""
        about = self._about
        return self._place.shipment is None and (about.is_wrapped or about.split is not None)

    def plan(self, assembly: Assembly) -> int:
        """Plan the files of a finished archive; give how many must be written."""
        if not self.is_needed:
            return 0
        with self._place.writing():
            return len(
                plan_volumes(
                    self._place.staging, assembly.extents, size=assembly.size,
                    payload_bytes=self._payload_bytes, wrapped=self._about.is_wrapped,
                    name=self._place.destination.name, mtime_ns=self._about.mtime_ns,
                )
            )  # fmt: skip

    def call(self, hand: Hand, cluster: str) -> dict[str, Any]:
        """Give the arguments of a task that writes volumes."""
        return {
            "staging": self._place.staging,
            "target": self._place.target,
            "start": hand.start,
            "stop": hand.stop,
            "step": hand.step,
            "kinds": self._about.sum_kinds,
            "threads": self._threads if cluster == DIRECT else 1,
        }

    def finished(self, assembly: Assembly, count: int) -> list[FinishedVolume]:
        """Give the files that make up a finished archive; `count` were written by tasks."""
        if assembly.path is None:
            return read_finished(self._place.staging, count)
        path = os.fsencode(assembly.path)
        return [FinishedVolume(path, "", assembly.size, {}, assembly.parts)]


def volume_hands(count: int, plan: BackupPlan, size: int) -> tuple[str, list[Hand]]:
    """Give where volumes are written, and which by whom; few bytes are not worth a cluster."""
    if plan.cluster == DIRECT or size < _DIRECT_BYTES or count == 1:
        return DIRECT, [Hand(0, count, 1)]
    cluster = THREADS if plan.cluster == HELPERS else plan.cluster  # they write no volumes
    return cluster, list(deal(count, plan.workers))
