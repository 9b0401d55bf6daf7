"""What a log line is, and what every source of them can do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Final, Protocol

import msgspec

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
FINAL: Final = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
"""The types of states in which a flow run has ended."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line as Prefect keeps it. `time` is aware, `text` is as it was logged: of any length."""

    id: str
    time: datetime
    level: int
    text: str
    logger: str
    task_run: str | None = None


class LogSource(Protocol):
    """Where log lines are read."""

    @property
    def where(self) -> str:
        """Its place for people."""

    def lines(
        self, flow_run: str, *, least: int = 0, since: datetime | None = None
    ) -> Iterator[LogLine]:
        """Yield the lines of a flow run by time, those of level `least` and above.

        With `since` only those from then on. A flow run that is not known has none.
        """

    def state(self, flow_run: str) -> str | None:
        """Give the type of the state that a flow run is in; None for one that is not known."""

    def task_names(self, flow_run: str) -> dict[str, str]:
        """Give the names of a flow run's task runs, by their ids."""

    def close(self) -> None:
        """Let go of it."""
