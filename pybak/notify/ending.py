"""How a run ended, as every notice tells it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pybak.errors import LockedError
from pybak.report import CANCELLED, FAILED, PARTIAL, SUCCESS, UNCHANGED, failed_report

if TYPE_CHECKING:
    from pybak.report import Report

GOOD: Final = "good"
PROBLEM: Final = "problem"
NEITHER: Final = "neither"


@dataclass(frozen=True)
class Ending:
    """How a run ended: `kind` is the flow, `what` the job or the sources. Times are aware.

    `is_busy` tells that nothing was done since another run is at work. `notes` are warnings that
    the report does not have, such as of a hook. `flow_run` is the id of Prefect's flow run.
    """

    kind: str
    what: str
    machine: str
    started_at: datetime
    ended_at: datetime
    report: Report
    is_busy: bool = False
    notes: tuple[str, ...] = ()
    flow_run: str | None = None

    @property
    def status(self) -> str:
        """One of the words of `pybak.report.status`."""
        return self.report.status

    @property
    def seconds(self) -> float:
        """How long it took, in seconds."""
        return max((self.ended_at - self.started_at).total_seconds(), 0.0)

    @property
    def verdict(self) -> str:
        """GOOD, PROBLEM, or NEITHER for a run that was stopped or found another one at work."""
        if self.status == CANCELLED:
            return NEITHER
        return PROBLEM if self.report.exit_code else GOOD

    @property
    def is_done(self) -> bool:
        """Whether the run did something: not unchanged, and not held up by another."""
        return self.status != UNCHANGED and not self.is_busy

    @property
    def run_id(self) -> str | None:
        """The run's id in the catalog, if it came so far."""
        # A drill's `run_id` is that of the snapshot that it tried.
        found: Any = getattr(self.report, "drill_id", None) or getattr(self.report, "run_id", None)
        return found if isinstance(found, str) else None

    @property
    def archive(self) -> str | None:
        """The archive that was written, if any."""
        found: Any = getattr(self.report, "archive", None)
        return found if isinstance(found, str) else None


def report_of(kind: str, error: BaseException) -> Report:
    """Give the report of a run that an error ended, whatever error it is."""
    return failed_report(kind, error)


def is_busy(error: BaseException) -> bool:
    """Whether a run gave up since another one is at work."""
    return isinstance(error, LockedError)


WORDS: Final = {
    SUCCESS: "OK",
    UNCHANGED: "unchanged",
    PARTIAL: "PARTIAL",
    FAILED: "FAILED",
    CANCELLED: "cancelled",
}
"""What a subject says of each status."""
