"""The report of a run that an error ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pybak.display import escape
from pybak.errors import (
    ArchiveError,
    Interrupted,
    LockedError,
    NotFoundError,
    PlanError,
    PyBakError,
    SourceError,
    StorageError,
    WrongPasswordError,
)
from pybak.problems import (
    DAMAGED,
    LOCKED,
    NOT_FOUND,
    SOURCE_MISSING,
    STORAGE,
    WRONG_PASSWORD,
    Problem,
)
from pybak.report.backup import FULL, BackupReport, Comparison, PlanSummary
from pybak.report.drill import DrillReport
from pybak.report.inbox import InboxReport
from pybak.report.mirror import MirrorReport
from pybak.report.prune import PruneReport
from pybak.report.rebuild import RebuildReport
from pybak.report.restore import RestoreReport
from pybak.report.status import CANCELLED, FAILED
from pybak.report.transfer import TransferReport
from pybak.report.verify import VerifyReport

RunReport = (
    BackupReport
    | RestoreReport
    | VerifyReport
    | PruneReport
    | RebuildReport
    | DrillReport
    | TransferReport
    | MirrorReport
    | InboxReport
)
Report = RunReport | PlanSummary


def failed_report(command: str, error: BaseException) -> RunReport:
    """Give the report of a run that an error ended; `command` is the name of a flow.

    Its exit code is that of the status; the error itself may have a finer one.
    """
    interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
    message = error_message(error)
    status = CANCELLED if interrupted or isinstance(error, LockedError) else FAILED
    errors = () if interrupted else (Problem("", error_code(error, command), message),)
    if command == "restore":
        return RestoreReport(status=status, errors=errors, message=message)
    if command == "verify":
        return VerifyReport(status=status, errors=errors, message=message)
    if command == "prune":
        return PruneReport(status=status, errors=errors, message=message)
    if command == "rebuild":
        return RebuildReport(status=status, errors=errors, message=message)
    if command == "drill":
        return DrillReport(status=status, errors=errors, message=message)
    if command == "mirror":
        return MirrorReport(status=status, errors=errors, message=message)
    if command == "transfer":
        return TransferReport(status=status, errors=errors, message=message)
    if command == "inbox":
        return InboxReport(status=status, errors=errors, message=message)
    asked = error if isinstance(error, PyBakError) else PyBakError()
    return BackupReport(
        status=status, job=asked.job, history=Comparison(mode=asked.mode or FULL), errors=errors,
        message=message,
    )  # fmt: skip


@contextmanager
def failing_as(*, job: str | None, mode: str) -> Iterator[None]:
    """Let an error that ends a backup know what was asked for."""
    try:
        yield
    except PyBakError as error:
        error.job, error.mode = job, mode
        raise


def error_message(error: BaseException) -> str:
    """Give an error's one line, safe to print."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return escape(str(error)) or type(error).__name__


def error_code(error: BaseException, command: str) -> str:
    """Give the code by which JSON calls an error that ended `command`."""
    match error:
        case SourceError():
            return error.code
        case StorageError():
            return STORAGE
        case WrongPasswordError():
            return WRONG_PASSWORD
        case ArchiveError():
            return DAMAGED
        case NotFoundError():
            return SOURCE_MISSING if command == "backup" else NOT_FOUND
        case PlanError():
            return "usage"
        case LockedError():
            return LOCKED
        case _:
            return "internal"
