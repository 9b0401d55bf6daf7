"""One check of archives, from the first look to the report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from pybak import report, staging
from pybak.backup.plan import choose_cluster
from pybak.errors import Interrupted
from pybak.options import VerifyOptions
from pybak.problems import read_problems
from pybak.resources import default_workers, usable_cpus
from pybak.restore.run import limits, open_work_folder
from pybak.verify.check import Checked, VerifyPlan, plan_verify

_TASKS_A_WORKER = 4
# Seconds of one core, measured as those in `pybak.backup.plan`.
_SECONDS_A_FILE = 25e-6
_SECONDS_A_BYTE = 1.8e-9

DAMAGED = "damaged"
_STOPPED = "stopped on request; the check is not complete"


class VerifyRun:
    """A check of one or more archives and its work folder; a context manager."""

    def __init__(self, options: VerifyOptions, *, now: datetime | None = None) -> None:
        """Take what is asked; nothing is looked at yet.

        Raises StorageError if there is no place for temporary files.
        """
        self.run_id = str(uuid4())
        self.started_at = now or datetime.now(UTC)
        self.options = options
        self.workers = options.workers or default_workers(usable_cpus())
        self._folder = open_work_folder(self.run_id)
        self.staging = self._folder.path
        self._stopped = False

    def plan(self, archive: Path, number: int) -> VerifyPlan:
        """Check the structure of the `number`th archive; write the batches of its members."""
        folder = self.work_folder(number)
        (folder / "progress").mkdir(parents=True, exist_ok=True)
        return plan_verify(
            os.fsencode(archive),
            work_dir=folder,
            tasks=self.workers * _TASKS_A_WORKER,
            limits=limits(self.options.max_ratio),
        )

    def work_folder(self, number: int) -> Path:
        """Where the batches of the `number`th archive lie."""
        return self.staging / f"{number:04d}"

    def cluster(self, plan: VerifyPlan) -> str:
        """Give where the batches are done."""
        return choose_cluster(
            self.options.cluster,
            seconds=plan.members * _SECONDS_A_FILE + plan.size * _SECONDS_A_BYTE,
            locked_seconds=plan.members * _SECONDS_A_FILE,
            workers=self.workers,
            processes_fit=True,
        )

    def request_cancel(self) -> None:
        """Ask the stages to stop soon."""
        self._stopped = True
        staging.request_cancel(self.staging)

    def is_stopping(self) -> bool:
        """Whether `request_cancel` was called."""
        return self._stopped

    def check_cancelled(self) -> None:
        """Raise Interrupted once `request_cancel` was called."""
        if self._stopped:
            raise Interrupted(_STOPPED)

    def check(
        self, archive: Path, plan: VerifyPlan, results: Iterable[Checked]
    ) -> report.ArchiveCheck:
        """Sum up the check of one archive. Raises Interrupted if a part of it was stopped."""
        damaged = list(plan.problems)
        size = 0
        for result in results:
            if result.stopped:
                raise Interrupted(_STOPPED)
            damaged += read_problems(result.problems_file)
            size += result.size
        return report.ArchiveCheck(
            archive=str(archive),
            status=DAMAGED if damaged else report.SUCCESS,
            members=plan.members,
            damaged=tuple(damaged),
            bytes_read=size,
        )

    def report(self, checks: Sequence[report.ArchiveCheck]) -> report.VerifyReport:
        """Sum up the whole run."""
        good = all(check.status == report.SUCCESS for check in checks)
        return report.VerifyReport(
            status=report.SUCCESS if good else report.FAILED,
            archives=tuple(checks),
            duration_seconds=(datetime.now(UTC) - self.started_at).total_seconds(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.remove()
