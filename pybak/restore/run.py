"""One restore from the first look at its archives to its report."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType

from pybak import problems
from pybak.clusters import HELPERS
from pybak.errors import Interrupted
from pybak.options import RestoreOptions
from pybak.paths import user_path
from pybak.problems import Problem, read_problems
from pybak.read_run import ReadRun
from pybak.report import PARTIAL, SUCCESS, RestoreCounts, RestoreReport
from pybak.restore.finish import FoldersMade, close_up
from pybak.restore.helping import MODULE
from pybak.restore.outcome import Outcome
from pybak.restore.plan import RestorePlan, Wish, plan_restore, prepare
from pybak.restore.plan_ahead import PLAN, PlanOrder
from pybak.restore.rehearse import rehearse
from pybak.restore.snapshot import Share, whole
from pybak.storage.opening import is_remote
from pybak.volumes.find import VolumeSet
from pybak.workers.ahead import CallAhead
from pybak.workers.pool import HelpersUnavailableError, end_ready, make_ready

# Seconds of one core, measured as those in `pybak.backup.costs`; the locked part can't be shared by
# threads.
_SECONDS_A_FILE = 90e-6
_LOCKED_SECONDS_A_FILE = 60e-6
_SECONDS_A_BYTE = 2.5e-9

_WORTH_PLANNING_AHEAD = 8 << 20
"""Bytes of archives; fewer are listed before a helper process has started."""

_MOST_NAMES = 500_000
"""Names of members that a helper is told; each is a few hundred bytes of memory on the way."""


class RestoreRun(ReadRun):
    """A restore and its work folder; a context manager that removes the latter.

    A restore that ends early, by an error or on request, leaves the target tidy. Passwords are
    handed to those methods that need one and kept nowhere.
    """

    stopped = "stopped on request; files restored so far are whole"

    def __init__(
        self,
        snapshot: Sequence[Share] | VolumeSet | Path,
        target: str,
        options: RestoreOptions,
        *,
        now: datetime | None = None,
    ) -> None:
        """Take what is asked: a snapshot, or one archive; nothing is looked at yet.

        Raises PlanError if `target` can be no path, StorageError if there is no place for
        temporary files.
        """
        self.target = str(user_path(target))
        super().__init__(options, now=now)
        self.shares = (
            [whole(snapshot)] if isinstance(snapshot, VolumeSet | Path) else list(snapshot)
        )
        self.archive = self.shares[-1].archive if self.shares else None
        self.options = options
        self._folder.subfolder("progress")
        self._plan: RestorePlan | None = None
        self._ahead: CallAhead | None = None

    @property
    def wish(self) -> Wish:
        """What the options ask for."""
        return Wish(
            overwrite=self.options.overwrite,
            include=self.options.include,
            exclude=self.options.exclude,
            owner=self.options.owner,
            deletes=self.options.delete,
            limits=self.limits,
        )

    def plan_ahead(self, password: bytes | None = None) -> bool:
        """Begin to plan by a helper process; `plan` then waits for that.

        False where there is too little to list or too much to hand over, or no second core for it.
        Helpers that will unpack are made ready behind it.
        """
        if self.workers == 1 or not self._is_here or self._size < _WORTH_PLANNING_AHEAD:
            return False
        if sum(len(share.names or ()) for share in self.shares) > _MOST_NAMES:
            return False
        order = PlanOrder(
            self.shares, os.fsencode(self.target), self.wish, self.staging, self.tasks, password
        )
        with contextlib.suppress(HelpersUnavailableError):
            self._ahead = CallAhead(PLAN, pickle.dumps(order), then=self._planned)
        return self._ahead is not None

    def _planned(self, _: bytes) -> None:
        if self.options.cluster in ("auto", HELPERS):
            make_ready(self.workers, module=MODULE)

    def plan(self, password: bytes | None = None) -> RestorePlan:
        """Decide what goes where; write the batches.

        What was begun by `plan_ahead` is taken over; the password must be the same.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            with contextlib.closing(ahead):
                answer = ahead.finish(self.check_cancelled)
            if answer is not None:
                self._plan = pickle.loads(answer)  # noqa: S301 - our own process made it
        if self._plan is None:
            self._plan = plan_restore(
                self.shares,
                os.fsencode(self.target),
                self.wish,
                work_dir=self.staging,
                tasks=self.tasks,
                password=password,
                should_stop=self.is_stopping,
            )
        if self.cluster(self._plan) != HELPERS:
            end_ready()
        return self._plan

    @property
    def _volumes(self) -> list[bytes]:
        return [path for one in self.shares for path in one.volumes]

    @property
    def _is_here(self) -> bool:
        """Whether all archives are files that helpers can read."""
        return not any(map(is_remote, self._volumes))

    @property
    def _size(self) -> int:
        """The bytes of the archives, as far as they can be seen."""
        size = 0
        for path in self._volumes:
            with contextlib.suppress(OSError, ValueError):
                size += os.stat(path).st_size
        return size

    def cluster(self, plan: RestorePlan) -> str:
        """Give where the batches are done."""
        return self.choose_cluster(
            seconds=plan.files * _SECONDS_A_FILE + plan.size * _SECONDS_A_BYTE,
            locked_seconds=plan.files * _LOCKED_SECONDS_A_FILE,
            helpers_fit=self._is_here,
        )

    def rehearse(self, password: bytes | None = None) -> RestoreReport:
        """Say what a restore would do, writing nothing in the target."""
        prepared = prepare(
            self.shares, os.fsencode(self.target), self.wish, password=password, may_write=False
        )
        outcome, found = rehearse(prepared, password=password)
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
            raise Interrupted(self.stopped)
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
        found = list(found)
        errors = tuple(problem for problem in found if not problem.is_skip)
        return RestoreReport(
            status=PARTIAL if errors else SUCCESS,
            archive=self.archive,
            archives=tuple(share.archive for share in self.shares),
            target=self.target,
            files=RestoreCounts(
                restored=sum(outcome.restored for outcome in outcomes),
                skipped=skipped + sum(outcome.skipped for outcome in outcomes),
                failed=failed + sum(outcome.failed for outcome in outcomes),
            ),
            folders=folders,
            deleted=sum(outcome.deleted for outcome in outcomes),
            bytes_written=sum(outcome.size for outcome in outcomes),
            duration_seconds=self.duration_seconds,
            errors=errors,
            skipped=tuple(p for p in found if p.code in problems.SKIPPED_CODES),
            notes=tuple(p.message for p in found if p.code == problems.CHANGES_ONLY),
            deleted_paths=tuple(sorted(p.path for p in found if p.code == problems.DELETED)),
            dry_run=dry_run,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ahead is not None:
            self._ahead.close()
        end_ready()
        try:
            if kind is not None and self._plan is not None:
                close_up(self._plan)
        finally:
            super().__exit__(kind, error, trace)
