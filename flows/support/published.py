"""How far a run is, told to Prefect: a progress artifact of its flow run.

It is what Prefect's UI draws and the REST API gives for runs that no terminal shows. A run that is
over within seconds makes none. Progress is a courtesy: the first failure is the last attempt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pybak.errors import PyBakError
from pybak.progress_line import BYTES_A_FILE
from pybak.units import format_count

if TYPE_CHECKING:
    from pybak.prefect_api import PrefectApi

EVERY_SECONDS: Final = 2.0


class PublishedProgress:
    """Takes what a `ProgressLine` takes, and sends it to Prefect's server every two seconds."""

    is_live = True

    def __init__(
        self,
        flow_run_id: str,
        *,
        connect: Callable[[], PrefectApi | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the flow run; nothing is sent in its first two seconds."""
        self._flow_run_id = flow_run_id
        self._connect = connect or _connected
        self._clock = clock
        self._due = clock() + EVERY_SECONDS
        self._api: PrefectApi | None = None
        self._artifact: str | None = None
        self._is_silent = False
        self._phase = ""
        self._totals: tuple[int, int] | None = None

    @staticmethod
    def of_this_run() -> PublishedProgress | None:
        """Give that of the flow run that runs here; None outside one."""
        from prefect.runtime import flow_run

        return PublishedProgress(flow_run.id) if flow_run.id else None

    def phase(
        self, name: str, *, total_files: int | None = None, total_bytes: int | None = None
    ) -> None:
        """Begin a phase; without totals it has no measure."""
        self._phase = name
        self._totals = None
        if total_files is not None and total_bytes is not None:
            self._totals = (total_files, total_bytes)
        self.update(0, 0)

    def update(self, files: int, size_bytes: int = 0, _current: object = None) -> None:
        """Say how much is done in this phase."""
        if self._is_silent or self._clock() < self._due:
            return
        told = self._phase
        percent = 0.0
        if self._totals is not None:
            total = self._totals[1] + self._totals[0] * BYTES_A_FILE
            done = size_bytes + files * BYTES_A_FILE
            percent = min(100.0, round(100 * done / total, 1)) if total else 0.0
        elif files:
            told = f"{told}: {format_count(files, 'file')}".lstrip(": ")
        try:
            self._send({"data": percent, "description": told})
        except PyBakError:
            self._is_silent = True
        self._due = self._clock() + EVERY_SECONDS

    def _send(self, content: dict[str, Any]) -> None:
        if self._api is None:
            self._api = self._connect()
        if self._api is None:
            self._is_silent = True
        elif self._artifact is None:
            made = {"type": "progress", "flow_run_id": self._flow_run_id, **content}
            self._artifact = self._api.post("/artifacts/", made)["id"]
        else:
            self._api.patch(f"/artifacts/{self._artifact}", content)

    def write(self, text: str) -> None:
        """Do nothing: what is said in words is in the log."""

    def close(self) -> None:
        """Close the connection."""
        self._is_silent = True
        if self._api is not None:
            self._api.close()


def _connected() -> PrefectApi | None:
    from pybak.prefect_api import PrefectApi

    return PrefectApi.from_environment(os.environ)
