"""One restore from the first look at the archive to its report."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from pybak import problems, staging
from pybak.backup.plan import choose_cluster
from pybak.errors import Interrupted
from pybak.formats.zip_reader import Limits
from pybak.options import RestoreOptions
from pybak.paths import user_path
from pybak.problems import Problem, read_problems
from pybak.report import PARTIAL, SUCCESS, RestoreCounts, RestoreReport
from pybak.resources import default_workers, usable_cpus
from pybak.restore.finish import FoldersMade, close_up
from pybak.restore.outcome import Outcome
from pybak.restore.plan import RestorePlan, plan_restore, prepare
from pybak.restore.rehearse import rehearse
from pybak.staging import WorkFolder, remove_leftovers

_TASKS_A_WORKER = 4
# Seconds of one core, measured as those in `pybak.backup.plan`; the locked part can't be shared by
# threads.
_SECONDS_A_FILE = 90e-6
_LOCKED_SECONDS_A_FILE = 60e-6
_SECONDS_A_BYTE = 2.5e-9
_STOPPED = "stopped on request; files restored so far are whole"


class RestoreRun:
    """A restore and its work folder; a context manager that removes the latter.

    A restore that ends early, by an error or on request, leaves the target tidy.
    """

    def __init__(
        self, archive: Path, target: str, options: RestoreOptions, *, now: datetime | None = None
    ) -> None:
        """Take what is asked; the archive is not looked at yet.

        Raises PlanError if `target` can be no path, StorageError if there is no place for
        temporary files.
        """
        self.run_id = str(uuid4())
        self.started_at = now or datetime.now(UTC)
        self.archive = archive
        self.target = str(user_path(target))
        self.options = options
        self.workers = options.workers or default_workers(usable_cpus())
        self._folder = open_work_folder(self.run_id)
        self.staging = self._folder.path
        self._folder.subfolder("progress")
        self._plan: RestorePlan | None = None
        self._stopped = False

    def plan(self) -> RestorePlan:
        """Decide what goes where; write the batches."""
        self._plan = plan_restore(
            os.fsencode(self.archive),
            os.fsencode(self.target),
            work_dir=self.staging,
            tasks=self.workers * _TASKS_A_WORKER,
            overwrite=self.options.overwrite,
            include=self.options.include,
            exclude=self.options.exclude,
            limits=limits(self.options.max_ratio),
        )
        return self._plan

    def cluster(self, plan: RestorePlan) -> str:
        """Give where the batches are done."""
        return choose_cluster(
            self.options.cluster,
            seconds=plan.files * _SECONDS_A_FILE + plan.size * _SECONDS_A_BYTE,
            locked_seconds=plan.files * _LOCKED_SECONDS_A_FILE,
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

    def rehearse(self) -> RestoreReport:
        """Say what a restore would do, writing nothing in the target."""
        prepared = prepare(
            os.fsencode(self.archive),
            os.fsencode(self.target),
            overwrite=self.options.overwrite,
            include=self.options.include,
            exclude=self.options.exclude,
            limits=limits(self.options.max_ratio),
            may_write=False,
        )
        outcome, found = rehearse(prepared)
        return self._report(
            [outcome], [*prepared.problems, *found], folders=len(prepared.folders),
            failed=prepared.failed, skipped=prepared.skipped, dry_run=True,
        )  # fmt: skip

    def report(
        self, plan: RestorePlan, made: FoldersMade, outcomes: Iterable[Outcome]
    ) -> RestoreReport:
        """Sum up a finished restore. Raises Interrupted if a part of it was stopped."""
        outcomes = list(outcomes)
        if any(outcome.stopped for outcome in outcomes):
            raise Interrupted(_STOPPED)
        found = [*plan.problems, *made.problems]
        for outcome in outcomes:
            if outcome.problems_file is not None:
                found += read_problems(outcome.problems_file)
        return self._report(
            outcomes, found, folders=plan.folders, failed=plan.failed, skipped=plan.skipped
        )

    def _report(
        self, outcomes: Iterable[Outcome], found: Iterable[Problem], *, folders: int, failed: int,
        skipped: int, dry_run: bool = False,
    ) -> RestoreReport:  # fmt: skip
        outcomes = list(outcomes)
        errors = tuple(problem for problem in found if not problem.is_skip)
        return RestoreReport(
            status=PARTIAL if errors else SUCCESS,
            archive=str(self.archive),
            target=self.target,
            files=RestoreCounts(
                restored=sum(outcome.restored for outcome in outcomes),
                skipped=skipped + sum(outcome.skipped for outcome in outcomes),
                failed=failed + sum(outcome.failed for outcome in outcomes),
            ),
            folders=folders,
            bytes_written=sum(outcome.size for outcome in outcomes),
            duration_seconds=(datetime.now(UTC) - self.started_at).total_seconds(),
            errors=errors,
            skipped=tuple(p for p in found if p.code in problems.SKIPPED_CODES),
            dry_run=dry_run,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is not None and self._plan is not None:
                close_up(self._plan)
        finally:
            self._folder.remove()


def open_work_folder(run_id: str) -> WorkFolder:
    """Make a run's folder among the temporary files; remove what killed runs left there.

    Raises StorageError if it can't be made.
    """
    parent = Path(tempfile.gettempdir())
    remove_leftovers(parent)
    return WorkFolder.create(parent, run_id)


def limits(max_ratio: float | None) -> Limits:
    """Give the limits of a reader; None means its own."""
    return Limits() if max_ratio is None else Limits(ratio=max_ratio)
