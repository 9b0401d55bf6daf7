"""What the API is given: who starts runs, who has their logs, who opens archives.

The values are msgspec structs; as JSON their times are RFC 3339 in UTC. Services are called from
threads, several at once, and raise the errors of `pybak.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, BinaryIO, Protocol

import msgspec

from pybak.overview.facts import Schedule

ENDED = frozenset({"completed", "failed", "crashed", "cancelled"})
"""States of which there is no way back."""


class StartedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the orchestrator knows it, also before it is in the catalog.

    `state` is one of scheduled, pending, running, cancelling, paused, completed, failed, crashed,
    cancelled; `state_name` what the orchestrator calls it. `percent` is None where unknown.
    `report` is the run's report in Markdown. `fingerprint` is that of the request that started it.
    """

    flow_run_id: str
    kind: str
    job: str | None = None
    state: str = "scheduled"
    state_name: str = "Scheduled"
    message: str | None = None
    percent: float | None = None
    phase: str | None = None
    deployment: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    report: str | None = None
    fingerprint: str | None = None


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a run's log. `level` is one of debug, info, warning, error, critical."""

    at: datetime
    level: str
    message: str
    flow_run_id: str
    cursor: str


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """Lines, the oldest first; `next` asks for those after them, also for ones yet to come."""

    items: list[LogLine]
    next: str | None = None
    complete: bool = True
    """Whether these are all that there are now."""


class MemberFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file in an archive that can be had. `size` is in bytes."""

    archive_id: int
    path: str
    size: int
    modified_at: datetime | None = None
    encrypted: bool = False


class RunService(Protocol):
    """Starts, follows and stops runs."""

    def start(
        self,
        kind: str,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
    ) -> StartedRun:
        """Start a flow. What `parameters` does not say, its deployment says.

        A key that was used before gives the run of then, with its `fingerprint`. Raises
        PlanError where no deployment fits.
        """

    def find(self, flow_run_id: str) -> StartedRun | None:
        """Give one run of ours, with its report; None if there is none."""

    def active(self) -> Sequence[StartedRun]:
        """List the runs that are at work, or wait for it; a hundred at most."""

    def failed(self, since: datetime) -> Sequence[StartedRun]:
        """List the newest runs that ended badly since then, the last one first; fifty at most."""

    def schedules(self) -> Mapping[str, Schedule]:
        """Give by job when its next run is due, and whether the last one failed."""

    def cancel(self, flow_run_id: str) -> StartedRun | None:
        """Ask a run to stop; it goes on until it has. None if there is none."""


class LogSource(Protocol):
    """Where logs are."""

    def lines(
        self,
        *,
        flow_run_id: str | None,
        level: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        text: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> LogPage:
        """Give lines of one run, or of all recent ones, at `level` or above."""


class FileService(Protocol):
    """Opens archives."""

    def find(self, archive_id: int, path: bytes) -> MemberFile:
        """Give what is known of a file. Raises NotFoundError, and PlanError for what is none."""

    def send(self, archive_id: int, path: bytes, out: BinaryIO) -> None:
        """Write the content to `out`. Raises ArchiveError, after some of it, for damage."""
