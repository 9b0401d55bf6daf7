"""The final states of the flows, so that Prefect tells what the exit code tells."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from pybak import report
from pybak.errors import ExitCode, PyBakError

_outcome: report.Report | PyBakError | None = None

_NAMES = {report.UNCHANGED: "Unchanged", report.PARTIAL: "Partial"}


def final_state(finished: report.Report) -> State[Any]:
    """Give the state of a run that came to its end; it carries the report."""
    _keep(finished)
    headline = finished.to_text().splitlines()[0]
    if finished.status == report.FAILED:
        return Failed(message=headline, data=finished)
    if finished.status == report.CANCELLED:
        return Cancelled(message=headline, data=finished)
    return Completed(message=headline, name=_NAMES.get(finished.status), data=finished)


def ended_as(error: BaseException) -> str:
    """Give the status of a run that an error ended, as reports and the catalog call it."""
    return report.CANCELLED if _is_cancelled(error) else report.FAILED


def _is_cancelled(error: BaseException) -> bool:
    if isinstance(error, PyBakError):
        return error.exit_code in (ExitCode.INTERRUPTED, ExitCode.LOCKED)
    return isinstance(error, KeyboardInterrupt)


def error_state(error: PyBakError) -> State[Any]:
    """Give the state of a run that an error ended; it carries the error."""
    _keep(error)
    kind = Cancelled if _is_cancelled(error) else Failed
    return kind(message=str(error), data=error)


def _keep(outcome: report.Report | PyBakError | None) -> None:
    global _outcome
    _outcome = outcome


def take_outcome() -> report.Report | PyBakError | None:
    """Give what the last state made here carried, once.

    Prefect hands out the server's copy of a state, which carries nothing, where its answer was
    late and the state was sent a second time.
    """
    outcome = _outcome
    _keep(None)
    return outcome
