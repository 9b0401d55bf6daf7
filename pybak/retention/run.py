"""One prune, from the policy to the report: job by job, plan, then do.

What a kill leaves is described in `pybak.catalog.removal`: at any moment every snapshot that the
catalog lists has its archives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from pybak import report
from pybak.catalog import removal
from pybak.catalog.engine import Database
from pybak.catalog.facts import ArchiveFacts, Snapshot
from pybak.catalog.history import History
from pybak.catalog.locks import archives_lock, job_lock, waiting_seconds
from pybak.catalog.presence import has_catalog
from pybak.catalog.replacing import needs_of
from pybak.display import printable
from pybak.errors import (
    ArchiveError,
    LockedError,
    NotFoundError,
    PlanError,
    PyBakError,
    StorageError,
)
from pybak.options import PruneOptions
from pybak.problems import LOCKED, STORAGE, Problem
from pybak.retention.chain import Chain, find_chain, find_obstacle
from pybak.retention.check import (
    find_blocked,
    find_lost,
    kept_places,
    problems_of,
    wholly_blocked,
)
from pybak.retention.consolidate import consolidate
from pybak.retention.deleting import Deletion
from pybak.retention.files import Files
from pybak.retention.further import find_unready, further_folders
from pybak.retention.outcome import job_report, with_full
from pybak.retention.places import UnreachableError
from pybak.retention.plan import JobPlan, plan_prune
from pybak.retention.policy import Policy, Verdict, apply_policy, check_policy
from pybak.stoppable import Cancellable
from pybak.units import parse_duration


@dataclass(frozen=True)
class Prepared:
    """A plan that was compared with the storage: what stands in its way, and is left out of it.

    With a `chain` the plan is what is to be done when that has its full archive.
    """

    plan: JobPlan
    problems: tuple[Problem, ...]
    files: Files
    kept: Mapping[int, frozenset[str]]
    """By archive, the names of its places that can't be deleted from."""
    chain: Chain | None = None


class PruneRun(Cancellable):
    """A prune of one job or of all; a context manager.

    After `request_cancel` it stops behind the archive that is being deleted.
    """

    stopped = "stopped on request; the next prune goes on where this one ended"

    def __init__(
        self,
        options: PruneOptions,
        *,
        catalog_url: str,
        password: bytes | None = None,
        now: datetime | None = None,
        timezone: tzinfo | None = None,
    ) -> None:
        """Take what is asked; the catalog is opened when it is first needed.

        `password` is what encrypted archives are consolidated with. `timezone` decides where days
        begin, by default that of this machine. Raises PlanError for a policy that says nothing
        about what to keep.
        """
        self.run_id = str(uuid4())
        self.started_at = now or datetime.now(UTC)
        self.options = options
        self._policy = policy_of(options)
        check_policy(self._policy)
        self._wait = waiting_seconds(wait=options.wait, limit=options.wait_limit)
        self._url = catalog_url
        self._password = password
        self._timezone = timezone
        self._database = Database(catalog_url)
        self._history = History(self._database)

    def __enter__(self) -> Self:
        """Give the run itself."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close the catalog."""
        self._database.close()

    def jobs(self, job: str | None) -> list[str]:
        """List the jobs to prune: the one that is named, or all that have a snapshot.

        Makes no catalog where there is none. Raises NotFoundError for a name without any, or
        where no job has any, and CatalogError.
        """
        known = self._history.jobs() if has_catalog(self._url) else []
        if job is None and not known:
            raise NotFoundError(
                "no backup is known; make a lost catalog anew with "
                "`python flows/rebuild.py DESTINATION`"
            )
        if job is None:
            return known
        if job not in known:
            hint = f"; known are {', '.join(map(printable, known))}" if known else ""
            raise NotFoundError(f"{printable(job)}: no backup of this job{hint}")
        return [job]

    @contextmanager
    def locked(self, job: str, on_wait: Callable[[str], object]) -> Iterator[None]:
        """Keep every other run away from a job and its archives.

        Raises LockedError, Interrupted, and StorageError where there are no locks: a backup that
        builds on what is being deleted would be lost.
        """
        with (
            job_lock(
                job, wait=self._wait, catalog_url=self._url, run_id=self.run_id,
                cancelled=self.is_stopping, on_wait=on_wait,
            ) as first,
            archives_lock(
                job, shared=False, wait=self._wait, catalog_url=self._url, run_id=self.run_id,
                cancelled=self.is_stopping, on_wait=on_wait,
            ) as second,
        ):  # fmt: skip
            if not (first.is_safe and second.is_safe):
                raise StorageError(first.problem or second.problem or "no locks can be held")
            yield

    def plan(self, job: str, *, chains: bool | None = None) -> Prepared:
        """Judge the snapshots of a job and look at what is to be deleted; change nothing.

        `chains` tells whether to look for one to consolidate, by default as the options say.
        Raises StorageError if nothing of what is to be deleted can be, because of where it lies.
        """
        snapshots = self._history.snapshots(job)
        needs = needs_of(self._database, job)
        archives = self._history.archives_of_job(job)
        files = Files(removal.taken_places(self._database, job))
        faults = _find_faults(files, archives)
        lost = find_lost(snapshots, needs, archives, faults)
        verdicts = self._judge(snapshots, lost)
        problems: list[Problem] = []
        chain = None
        if self.options.consolidate if chains is None else chains:
            chain = find_chain(verdicts, needs, [files.readable(one) for one in archives], lost)
            if chain is not None:
                chain = chain._replace(further=further_folders(chain, archives, files))
                obstacle = find_unready(chain, archives, files) or find_obstacle(
                    chain, self._password
                )
                if obstacle is not None:
                    problems.append(obstacle)
                    chain = None
        if chain is not None:
            needs = needs.after(chain.snapshot.seq, chain.own.id)
        plan = plan_prune(job, verdicts, needs, archives)
        blocked = find_blocked(plan, archives, files)
        spared = wholly_blocked(blocked)
        if plan.delete and all(one.id in spared for one in plan.delete):
            going = {one.id for one in plan.delete}
            of_place = (one.obstacle for one in blocked if one.archive.id in going)
            if (first := next((one for one in of_place if one.of_place), None)) is not None:
                raise StorageError(f"{first.message}; {_NOTHING}")
        kept = {entry.snapshot.run_id for entry in plan.keep}
        problems += [
            Problem(snapshot.archive or "", STORAGE, f"{lost[snapshot.run_id]}; {_ADVICE}")
            for snapshot in reversed(snapshots)
            if snapshot.run_id in lost and snapshot.run_id in kept
        ]
        return Prepared(
            plan.sparing(spared), (*problems, *problems_of(blocked)), files, kept_places(blocked),
            chain,
        )  # fmt: skip

    def _judge(self, snapshots: Sequence[Snapshot], lost: Mapping[str, str]) -> list[Verdict]:
        """Apply the policy, as if what can't be restored were not there.

        So it uses up no count. It goes when it would have gone anyway.
        """
        verdicts = self._apply(snapshots)
        if not lost:
            return verdicts
        sound = self._apply(one for one in snapshots if one.run_id not in lost)
        by_run = {verdict.snapshot.run_id: verdict for verdict in sound}
        return [
            by_run.get(verdict.snapshot.run_id)
            or replace(verdict, reasons=(*verdict.reasons, lost[verdict.snapshot.run_id]))
            for verdict in verdicts
        ]

    def _apply(self, snapshots: Iterable[Snapshot]) -> list[Verdict]:
        return apply_policy(snapshots, self._policy, now=self.started_at, timezone=self._timezone)

    def rehearse(self, jobs: Sequence[str]) -> report.PruneReport:
        """Say what would be done to all these jobs; change nothing."""
        shown = []
        for job in jobs:
            try:
                shown.append(self.show(self.plan(job)))
            except StorageError as error:
                if len(jobs) == 1:
                    raise
                shown.append(self.left_alone(job, error))
        return self.report(shown)

    def show(self, prepared: Prepared) -> report.JobPrune:
        """Say what `prune` would do."""
        plan = prepared.plan
        if prepared.chain is not None:
            plan = plan.replacing(prepared.chain.own)
        size = sum(
            prepared.files.freed_by_deleting(one, prepared.kept.get(one.id, ()))
            for one in plan.going
        )
        shown = job_report(
            plan, gone={one.id for one in plan.going}, size=size, problems=prepared.problems
        )
        return with_full(shown, prepared.chain, None)

    def prune(self, prepared: Prepared) -> report.JobPrune:
        """Do what was planned, under the same locks.

        One archive that can't be made or deleted says nothing about the others. Raises Interrupted
        after `request_cancel`; what is left then is for the next prune.
        """
        chain = prepared.chain
        if chain is None:
            return self._delete(prepared)
        job = prepared.plan.job
        try:
            made = consolidate(
                self._database, chain, prepared.files, password=self._password,
                run_id=self.run_id, stop_if_asked=self.check_cancelled,
            )  # fmt: skip
        except (ArchiveError, PlanError, StorageError) as error:
            failed = Problem(chain.own.name, report.error_code(error, "prune"), str(error))
            again = self.plan(job, chains=False)
            return self._delete(replace(again, problems=(failed, *again.problems)))
        done = self._delete(self.plan(job, chains=False), has_begun=True)
        return with_full(done, chain, made)

    def _delete(self, prepared: Prepared, *, has_begun: bool = False) -> report.JobPrune:
        """Mark what goes, and delete it.

        Where a storage lets these credentials delete nothing at all, nothing is changed, and that
        raises StorageError; unless the run `has_begun` to change something.
        """
        plan = prepared.plan
        marked = None
        if plan.remove or plan.delete:
            marked = removal.mark_deleting(
                self._database,
                plan.job,
                runs=[entry.snapshot.run_id for entry in plan.remove],
                archives=[one.id for one in plan.delete],
            )
        gone: set[int] = set()
        deletion = Deletion(prepared.files, prepared.kept)
        for archive in plan.going:
            if self.is_stopping():
                break
            if deletion.delete(archive):
                gone.add(archive.id)
        deletion.sync()
        refusal = deletion.refusal
        if refusal is not None and not gone and not has_begun:
            if marked is not None:
                removal.take_back_marks(self._database, marked)
            raise StorageError(f"{refusal}; {_NOTHING}") from refusal
        removal.finish_removal(self._database, gone)
        self.check_cancelled()
        problems = (*prepared.problems, *deletion.problems())
        return job_report(plan, gone=gone, size=deletion.freed, problems=problems)

    def left_alone(self, job: str, error: PyBakError) -> report.JobPrune:
        """Sum up a job where nothing was done."""
        status = LOCKED if isinstance(error, LockedError) else report.FAILED
        return report.JobPrune(job=job, status=status, message=str(error))

    def report(self, jobs: Sequence[report.JobPrune]) -> report.PruneReport:
        """Sum up the whole run."""
        good = all(job.status == report.SUCCESS for job in jobs)
        return report.PruneReport(
            status=report.SUCCESS if good else report.PARTIAL,
            run_id=self.run_id,
            jobs=tuple(jobs),
            duration_seconds=(datetime.now(UTC) - self.started_at).total_seconds(),
            dry_run=self.options.dry_run,
        )


_ADVICE: Final = "put it back, or make a new full backup"
_NOTHING: Final = "nothing was removed"


def policy_of(options: PruneOptions) -> Policy:
    """Give the policy that options describe."""
    return Policy(
        last=options.keep_last,
        hourly=options.keep_hourly,
        daily=options.keep_daily,
        weekly=options.keep_weekly,
        monthly=options.keep_monthly,
        yearly=options.keep_yearly,
        within=parse_duration(options.keep_within) if options.keep_within else None,
        tags=tuple(options.keep_tag),
    )


def _find_faults(files: Files, archives: Iterable[ArchiveFacts]) -> dict[int, str]:
    """Say, by archive, what is wrong with its files. Raises StorageError if it can't be told."""
    faults = {}
    for one in archives:
        try:
            fault = None if one.is_leaving else files.fault(one)
        except UnreachableError as error:
            raise StorageError(f"{error}; {_NOTHING}", retryable=error.retryable) from error
        if fault is not None:
            faults[one.id] = fault
    return faults
