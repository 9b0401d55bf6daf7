"""One mirror from the first look at its sides to its report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

import msgspec

from pybak import report
from pybak.casing import ignores_case
from pybak.catalog.locks import Lock, job_lock, waiting_seconds
from pybak.clusters import HELPERS, choose_cluster
from pybak.display import printable
from pybak.errors import (
    ExitCode,
    Interrupted,
    LockedError,
    PlanError,
    SourceError,
    StorageError,
    reason,
)
from pybak.home import home
from pybak.mirror.account import Outcome, sum_of
from pybak.mirror.fidelity import fidelity_of
from pybak.mirror.finish import close_up, finish, prepare
from pybak.mirror.helping import mirror_hand
from pybak.mirror.limit import max_delete
from pybak.mirror.plan import MirrorPlan, plan_mirror, surplus_of
from pybak.mirror.rehearse import Wishes, wishes_of
from pybak.mirror.rows import Inode, MirrorJob, inode_of, temporary_name
from pybak.mirror.sides import Sides, resolve_sides
from pybak.mirror.walk import Ahead, Progress, compare_trees
from pybak.options.mirror import MirrorOptions
from pybak.problems import DELETED, NO_MATCH, SOURCE_MISSING, Problem, unpack_problems
from pybak.read_run import TASKS_A_WORKER, open_work_folder
from pybak.report.mirror import MirrorCounts, MirrorReport
from pybak.resources import default_workers, usable_cpus
from pybak.restore.owners import sets_owner
from pybak.stoppable import Stoppable
from pybak.units import format_count
from pybak.workers.pool import HelpersUnavailableError, current_pool, helping

STOPPED: Final = "stopped on request; files copied so far are whole"
NOTHING_COPIED: Final = "nothing could be copied"

# Seconds of one core; the locked part can't be shared by threads.
_SECONDS_A_FILE: Final = 90e-6
_LOCKED_SECONDS_A_FILE: Final = 45e-6
_SECONDS_A_BYTE: Final = 0.6e-9
_LIVE_SECONDS: Final = 3600
_END_SECONDS: Final = 1.0
_SQLITE: Final = "sqlite"
_MODULE: Final = "pybak.mirror.helping"
_PROBE: Final = "0" * 12
_HOLD: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class EmptySourceError(SourceError):
    """The source holds no file and the destination does: most likely it is not mounted."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str) -> None:
        super().__init__(message, SOURCE_MISSING)


class MirrorRun(Stoppable):
    """A mirror and its work folder; a context manager that removes the latter.

    Whoever began it and the flow that took it over both leave it; the second time does nothing.
    """

    stopped = STOPPED

    def __init__(
        self,
        source: str,
        destination: str,
        options: MirrorOptions,
        *,
        job: str | None = None,
        now: datetime | None = None,
    ) -> None:
        """Look at both sides; nothing is read yet.

        Raises as `resolve_sides`, PlanError for patterns that can't be read and for --delete with
        one file, StorageError without a place for temporary files.
        """
        self.options = options
        self.sides: Sides = resolve_sides(source, destination)
        if options.delete and self.sides.only is not None:
            raise PlanError(
                f"{printable(source)}: is one file, and --delete is for folders; leave it out"
            )
        self.source = os.fsdecode(os.path.join(self.sides.source, self.sides.only or b""))
        self.source = self.source.rstrip("/") or "/"
        self.destination = self.sides.name
        self.job = job or self.destination
        self.run_id = str(uuid4())
        self.started_at = now or datetime.now(UTC)
        self.workers = options.workers or default_workers(usable_cpus())
        self._stack = ExitStack()
        self._plan: MirrorPlan | None = None
        self._ahead: Ahead | None = None
        self._locks: list[Lock] = []
        self._locks_held = ExitStack()
        self._job = self._job_for_steps()
        self._job.rules()
        self._folder = open_work_folder(self.run_id)
        self.staging = self._folder.path
        self._folder.subfolder("progress")
        self._job.save(self.staging)

    def _job_for_steps(self) -> MirrorJob:
        options, sides = self.options, self.sides
        gives = sets_owner(options.owner, is_root=os.geteuid() == 0)
        kept = fidelity_of(sides.target)
        return MirrorJob(
            source=sides.source, target=sides.target, only=sides.only,
            token=self.run_id.replace("-", "")[:16],
            sets_owner=gives, privileged=gives and os.geteuid() == 0,
            copies_all=options.all, compares_content=options.compare_content,
            verifies=options.verify, deletes=options.delete,
            include=options.include, exclude=options.exclude,
            step_ns=kept.step_ns, keeps_looks=kept.keeps_looks, keeps_links=kept.keeps_links,
            keeps_inodes=kept.keeps_inodes,
            live_since=self.started_at.timestamp() - _LIVE_SECONDS,
        )  # fmt: skip

    def _hold_roots(self) -> None:
        """Let the steps work in the folders that are there now, and in no others."""
        target = self._held(self.sides.target)
        probe = temporary_name(self._job.token, _PROBE)
        own: list[Inode] = []
        for path in (self.staging, home()):
            with suppress(OSError):
                own.append(inode_of(path.stat()))
        self._job = msgspec.structs.replace(
            self._job,
            source_root=self._held(self.sides.source),
            target_root=target,
            left_out=own if target is None else [*own, target],
            ignores_case=ignores_case(
                self.sides.target, may_write=not self.options.dry_run, probe=probe
            ),
        )
        self._job.save(self.staging)

    def _held(self, path: bytes) -> Inode | None:
        """Keep a folder open, so that no other gets its inode; None if there is none."""
        try:
            fd = os.open(path, _HOLD)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{printable(path)}: {reason(error).lower()}") from error
        self._stack.callback(os.close, fd)
        return inode_of(os.fstat(fd))

    @contextmanager
    def locked(
        self, catalog_url: str, on_wait: Callable[[str], object], warn: Callable[[str], object]
    ) -> Iterator[None]:
        """Keep other runs of the job, and other mirrors to this destination, apart from this one.

        Raises LockedError, Interrupted.
        """
        if self._ahead is not None:  # then they are kept apart already
            _warn_of(self._locks, warn)
            yield
            return
        wait = waiting_seconds(wait=self.options.wait, limit=self.options.wait_limit)
        with ExitStack() as stack:
            _warn_of(self._lock(stack, catalog_url, wait, on_wait), warn)
            yield

    def _lock(
        self, stack: ExitStack, catalog_url: str, wait: float | None,
        on_wait: Callable[[str], object] = lambda _told: None,
    ) -> list[Lock]:  # fmt: skip
        return [
            stack.enter_context(
                job_lock(
                    name, wait=wait, catalog_url=catalog_url, run_id=self.run_id,
                    cancelled=self.is_stopping, on_wait=on_wait,
                )
            )
            for name in sorted({self.job, self.destination})
        ]  # fmt: skip

    # -- the steps

    def compare_ahead(self, catalog_url: str) -> bool:
        """Begin to compare, which goes on beside whatever is done until `compare`; False if not.

        The locks are taken first, and kept until the end. It is not begun where what is to be
        compared is not there yet, or where it would be waited for: with a command to run before,
        if another run has a lock, if all is to be read, and for a catalog on a server.
        """
        options = self.options
        if options.before or options.compare_content or not catalog_url.startswith(_SQLITE):
            return False
        with ExitStack() as stack:
            try:
                self._locks = self._lock(stack, catalog_url, wait=None)
                self._hold_roots()
                self._ahead = Ahead(
                    self.staging, workers=self.workers,
                    start_helper=lambda: self._start_helpers(1),
                )  # fmt: skip
            except (LockedError, StorageError):  # told when it is met again
                return False
            self._locks_held = stack.pop_all()
        return True

    def compare(self, on_progress: Progress = lambda _files, _size: None) -> MirrorPlan:
        """Compare both sides and decide what is to be done; nothing is changed.

        Raises EmptySourceError, StorageError, Interrupted.
        """

        def progress(files: int, size: int) -> None:
            self.check_cancelled()
            on_progress(files, size)

        if self._ahead is not None:
            self._compared = self._ahead.finish(progress)
        else:
            self._hold_roots()
            self._compared = compare_trees(
                self.staging, workers=self.workers, start_helpers=self._start_helpers,
                on_progress=progress,
            )  # fmt: skip
        self.check_cancelled()
        self._refuse_empty()
        self._plan = plan_mirror(
            self._compared, self.staging, tasks=self.workers * TASKS_A_WORKER,
            limit=max_delete(self.options.max_delete), may_empty=self.options.allow_empty,
        )  # fmt: skip
        return self._plan

    def _refuse_empty(self) -> None:
        count = self._compared.total.surplus_count
        if count and not self._compared.tally.found and not self.options.allow_empty:
            raise EmptySourceError(
                f"{printable(self.source)}: holds no file to be copied, and the destination holds "
                f"{format_count(count, 'entry', 'entries')} that --delete would remove; see that "
                "it is mounted, or add --allow-empty"
            )

    def _start_helpers(self, count: int | None = None) -> bool:
        """Have helper processes from now on, unless the options speak against it.

        The first `count` of them start at once, all by default.
        """
        if self.options.cluster not in ("auto", HELPERS):
            return False
        if current_pool() is not None:
            return True
        try:
            self._stack.enter_context(helping(count or self.workers, module=_MODULE))
        except HelpersUnavailableError:
            return False
        return True

    def prepare(self, plan: MirrorPlan) -> None:
        """Make the destination and clear the way. Raises StorageError."""
        prepare(self.staging, plan)

    def cluster(self, plan: MirrorPlan) -> str:
        """Give where the hands are copied."""
        chosen = choose_cluster(
            self.options.cluster,
            seconds=plan.files * _SECONDS_A_FILE + plan.size * _SECONDS_A_BYTE,
            locked_seconds=plan.files * _LOCKED_SECONDS_A_FILE,
            workers=self.workers,
            processes_fit=True,
            helpers_fit=True,
        )
        if chosen == HELPERS:
            self._start_helpers()
        return chosen

    def finish(self, plan: MirrorPlan, outcomes: Sequence[Outcome]) -> Outcome:
        """Do what comes after the copies, and depends on their outcomes. Raises StorageError."""
        try:
            outcome = finish(self.staging, plan, sum_of(outcomes), should_stop=self.is_stopping)
        except OSError as error:
            raise StorageError(f"{printable(self.destination)}: {reason(error).lower()}") from error
        self._plan = None
        return outcome

    def run(self, plan: MirrorPlan) -> list[Outcome]:
        """Do all of a plan here, hand after hand."""
        self.prepare(plan)
        outcomes = [
            mirror_hand(self.staging, f"{n:04d}", hand) for n, hand in enumerate(plan.hands)
        ]
        return [*outcomes, self.finish(plan, outcomes)]

    # -- what is told

    def report(self, plan: MirrorPlan, outcomes: Sequence[Outcome]) -> MirrorReport:
        """Sum up a finished run. Raises Interrupted if a part of it was stopped."""
        self.check_cancelled()
        done = sum_of(outcomes)
        if done.stopped:
            raise Interrupted(STOPPED)
        found = [p for outcome in outcomes for p in unpack_problems(outcome.problems)]
        return self._report(plan, done, found)

    def rehearse(self, plan: MirrorPlan) -> MirrorReport:
        """Tell what would be done; nothing was changed."""
        wishes = wishes_of(plan)
        done = Outcome(
            copied=wishes.copied, updated=wishes.updated, looks=wishes.looks,
            deleted=wishes.deleted, folders_deleted=wishes.folders_deleted,
            folders=plan.folders_made, size=plan.size,
        )  # fmt: skip
        deleted = [
            Problem(os.fsdecode(row.path), DELETED, "is not in the source")
            for row in surplus_of(plan)
        ]
        return self._report(plan, done, deleted, wishes)

    def _report(
        self, plan: MirrorPlan, done: Outcome, found: Iterable[Problem],
        wishes: Wishes | None = None,
    ) -> MirrorReport:  # fmt: skip
        tally = self._compared.tally
        told = [*self._compared.problems, *plan.problems, *self._unmatched(), *found]
        errors = tuple(problem for problem in told if not problem.is_skip)
        files = MirrorCounts(
            copied=done.copied,
            updated=done.updated,
            metadata=done.looks,
            unchanged=plan.unchanged,
            excluded=sum(tally.excluded.values()),
            skipped=tally.skipped + done.skipped,
            failed=tally.failed + done.failed,
            deleted=done.deleted,
        )
        nothing = plan.is_nothing and not errors
        status = report.UNCHANGED if nothing else report.PARTIAL if errors else report.SUCCESS
        if (
            plan.files
            and (errors or done.vanished)
            and not (files.done or files.unchanged or files.deleted or done.folders_deleted)
        ):
            status = report.FAILED
        return MirrorReport(
            status=status,
            run_id=self.run_id,
            job=self.job,
            source=self.source,
            destination=self.destination,
            files=files,
            folders_made=done.folders,
            folders_deleted=done.folders_deleted,
            bytes_found=tally.size,
            bytes_copied=done.size,
            duration_seconds=(datetime.now(UTC) - self.started_at).total_seconds(),
            excluded_by=tally.excluded,
            errors=errors,
            skipped=tuple(p for p in told if p.is_skip and p.code != DELETED),
            deleted_paths=tuple(p.path for p in told if p.code == DELETED),
            would=wishes.names if wishes is not None else (),
            dry_run=self.options.dry_run,
            message=None if status != report.FAILED else NOTHING_COPIED,
        )

    def _unmatched(self) -> Iterator[Problem]:
        for text in self._compared.total.unmatched:
            message = "this include pattern matched nothing; it is for paths below the source"
            yield Problem(text, NO_MATCH, message)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        plan, self._plan = self._plan, None
        with self._locks_held:
            try:
                if self._ahead is not None and self._ahead.is_at_work:
                    self.request_cancel()
                    self._ahead.wait(_END_SECONDS)
                self._stack.close()
                if kind is not None and plan is not None:
                    close_up(self.staging, plan)
            finally:
                self._folder.remove()


def _warn_of(locks: Iterable[Lock], warn: Callable[[str], object]) -> None:
    for lock in locks:
        if lock.problem:
            warn(lock.problem)
