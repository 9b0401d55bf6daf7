"""What a run did, as values: for the terminal, for scripts (JSON), for the Prefect UI (Markdown).

The JSON keys are a contract with scripts; keys may be added, never renamed. `to_json` gives
everything as it is; the other forms name at most 20 files of a kind and count the rest.
"""

from __future__ import annotations

from pybak.report.backup import (
    RESTORE_COMMAND,
    BackupReport,
    Comparison,
    FileCounts,
    PlanSummary,
)
from pybak.report.drill import DrillReport
from pybak.report.failure import Report, RunReport, error_code, error_message, failed_report
from pybak.report.inbox import InboxReport
from pybak.report.mirror import MirrorCounts, MirrorReport
from pybak.report.phrases import NAMED_FILES
from pybak.report.prune import JobPrune, NewFull, PruneReport, SnapshotVerdict
from pybak.report.rebuild import RebuildReport, RebuiltRun
from pybak.report.restore import RestoreCounts, RestoreReport
from pybak.report.status import CANCELLED, FAILED, PARTIAL, SUCCESS, UNCHANGED
from pybak.report.transfer import TransferredArchive, TransferReport
from pybak.report.verify import ArchiveCheck, VerifyReport

__all__ = [
    "CANCELLED",
    "FAILED",
    "NAMED_FILES",
    "PARTIAL",
    "RESTORE_COMMAND",
    "SUCCESS",
    "UNCHANGED",
    "ArchiveCheck",
    "BackupReport",
    "Comparison",
    "DrillReport",
    "FileCounts",
    "InboxReport",
    "JobPrune",
    "MirrorCounts",
    "MirrorReport",
    "NewFull",
    "PlanSummary",
    "PruneReport",
    "RebuildReport",
    "RebuiltRun",
    "Report",
    "RestoreCounts",
    "RestoreReport",
    "RunReport",
    "SnapshotVerdict",
    "TransferReport",
    "TransferredArchive",
    "VerifyReport",
    "error_code",
    "error_message",
    "failed_report",
]
