"""One prune, from the policy to the report: job by job, plan, then do.

What a kill leaves is described in `pybak.catalog.removal`: at any moment every snapshot that the
catalog lists has its archives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

import msgspec

from pybak import report
from pybak.catalog import removal
from pybak.catalog.engine import Database
from pybak.catalog.history import History, Snapshot
from pybak.catalog.locks import archives_lock, job_lock, waiting_seconds
from pybak.catalog.presence import has_catalog
from pybak.catalog.replacing import spans_of
from pybak.display import printable
from pybak.errors import (
    ArchiveError,
    Interrupted,
    LockedError,
    NotFoundError,
    PlanError,
    PyBakError,
    StorageError,
)
from pybak.options import PruneOptions
from pybak.problems import LOCKED, STORAGE, Problem
from pybak.retention import files
from pybak.retention.check import find_blocked, find_lost
from pybak.retention.consolidate import (
    Chain,
    Consolidated,
    consolidate,
    find_chain,
    needs_after,
    uncopyable,
)
from pybak.retention.plan import Entry, JobPlan, plan_prune
from pybak.retention.policy import Policy, Verdict, apply_policy, check_policy
from pybak.units import parse_duration


@dataclass(frozen=True)
class Prepared:
    """A plan that was compared with the storage: what stands in its way, and is left out of it.

    With a `chain` the plan is what is to be done when that has its full archive.
    """

    plan: JobPlan
    problems: tuple[Problem, ...]
    taken: Mapping[int, frozenset[str]]
    chain: Chain | None = None


class PruneRun:
    """A prune of one job or of all; a context manager."""

    def __init__(
        self,
        options: PruneOptions,
        *,
        catalog_url: str,
        now: datetime | None = None,
        timezone: tzinfo | None = None,
    ) -> None:
        """Take what is asked; the catalog is opened when it is first needed.

        `timezone` decides where days begin, by default that of this machine. Raises PlanError for
        a policy that says nothing about what to keep.
        """
        self.run_id = str(uuid4())
        self.started_at = now or datetime.now(UTC)
        self.options = options
        self._policy = policy_of(options)
        check_policy(self._policy)
        self._wait = waiting_seconds(wait=options.wait, limit=options.wait_limit)
        self._url = catalog_url
        self._timezone = timezone
        self._database = Database(catalog_url)
        self._history = History(self._database)
        self._cancelled = threading.Event()

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

    def request_cancel(self) -> None:
        """Have the run stop after the archive that is being deleted."""
        self._cancelled.set()

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
                cancelled=self._cancelled.is_set, on_wait=on_wait,
            ) as first,
            archives_lock(
                job, shared=False, wait=self._wait, catalog_url=self._url, run_id=self.run_id,
                cancelled=self._cancelled.is_set, on_wait=on_wait,
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
        needs: Mapping[str, frozenset[int]] = self._history.needs(snapshots)
        archives = self._history.archives_of_job(job)
        taken = removal.taken_places(self._database, job)
        faults = {
            one.id: fault
            for one in archives
            if not one.is_leaving and (fault := files.fault(one, taken.get(one.id, ())))
        }
        lost = find_lost(snapshots, needs, archives, faults)
        verdicts = self._judge(snapshots, lost)
        problems: list[Problem] = []
        chain = None
        if self.options.consolidate if chains is None else chains:
            chain = find_chain(verdicts, needs, archives, lost)
            if chain is not None and (obstacle := uncopyable(chain)) is not None:
                problems.append(obstacle)
                chain = None
        if chain is not None:
            needs = needs_after(spans_of(self._database, job), snapshots, chain)
        plan = plan_prune(job, verdicts, needs, archives)
        blocked = find_blocked(plan, archives, taken)
        if plan.delete and all(one.id in blocked for one in plan.delete):
            of_place = (blocked[one.id] for one in plan.delete if blocked[one.id].of_place)
            if (first := next(of_place, None)) is not None:
                raise StorageError(f"{first.message}; nothing was removed")
        kept = {entry.snapshot.run_id for entry in plan.keep}
        problems += [
            Problem(snapshot.archive or "", STORAGE, f"{lost[snapshot.run_id]}; {_ADVICE}")
            for snapshot in reversed(snapshots)
            if snapshot.run_id in lost and snapshot.run_id in kept
        ]
        problems += [
            Problem(one.name, STORAGE, blocked[one.id].message)
            for one in (*plan.unfinished, *plan.delete)
            if one.id in blocked
        ]
        return Prepared(plan.sparing(blocked), tuple(problems), taken, chain)

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
        going = (*plan.unfinished, *plan.delete)
        shown = _job_report(
            plan, gone={one.id for one in going}, size=plan.size, problems=prepared.problems
        )
        return _with_full(shown, prepared.chain, None)

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
                self._database, chain, run_id=self.run_id, now=self.started_at,
                stop_if_asked=self._stop_if_asked,
            )  # fmt: skip
        except (ArchiveError, PlanError, StorageError) as error:
            failed = Problem(chain.own.name, report.error_code(error, "prune"), str(error))
            again = self.plan(job, chains=False)
            return self._delete(replace(again, problems=(failed, *again.problems)))
        return _with_full(self._delete(self.plan(job, chains=False)), chain, made)

    def _stop_if_asked(self) -> None:
        if self._cancelled.is_set():
            raise Interrupted(_STOPPED)

    def _delete(self, prepared: Prepared) -> report.JobPrune:
        plan = prepared.plan
        if plan.remove or plan.delete:
            removal.mark_deleting(
                self._database,
                plan.job,
                runs=[entry.snapshot.run_id for entry in plan.remove],
                archives=[one.id for one in plan.delete],
            )
        gone: list[int] = []
        problems = list(prepared.problems)
        places: set[str] = set()
        freed = 0
        for archive in (*plan.unfinished, *plan.delete):
            if self._cancelled.is_set():
                break
            try:
                deleted = files.delete(archive, prepared.taken.get(archive.id, ()))
            except StorageError as error:
                problems.append(Problem(archive.name, STORAGE, str(error)))
                continue
            gone.append(archive.id)
            places |= deleted.folders
            freed += deleted.size
        files.sync(places)
        removal.finish_removal(self._database, gone)
        self._stop_if_asked()
        return _job_report(plan, gone=set(gone), size=freed, problems=problems)

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
_STOPPED: Final = "stopped on request; the next prune goes on where this one ended"


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


def _with_full(
    done: report.JobPrune, chain: Chain | None, made: Consolidated | None
) -> report.JobPrune:
    """Tell of the full archive that was made, or is to be."""
    if chain is None:
        return done
    full = report.NewFull(
        run_id=chain.snapshot.run_id,
        seq=chain.snapshot.seq,
        archive=made.name if made else None,
        size=made.size if made else None,
    )
    return msgspec.structs.replace(done, consolidated=full)


def _job_report(
    plan: JobPlan, *, gone: set[int], size: int, problems: Sequence[Problem]
) -> report.JobPrune:
    archives = (*plan.unfinished, *plan.delete)
    return report.JobPrune(
        job=plan.job,
        status=report.PARTIAL if problems else report.SUCCESS,
        keep=tuple(_verdict(entry, gone) for entry in plan.keep),
        remove=tuple(_verdict(entry, gone) for entry in plan.remove),
        deleted=tuple(one.name for one in archives if one.id in gone),
        bytes_freed=size,
        errors=tuple(problems),
    )


def _verdict(entry: Entry, gone: set[int]) -> report.SnapshotVerdict:
    snapshot, archive = entry.snapshot, entry.archive
    return report.SnapshotVerdict(
        run_id=snapshot.run_id,
        seq=snapshot.seq,
        started_at=snapshot.started_at,
        status=snapshot.status,
        mode=snapshot.mode,
        tags=snapshot.tags,
        archive=snapshot.archive or (archive.name if archive else None),
        size=archive.size if archive else 0,
        reasons=entry.reasons,
        archive_deleted=archive is not None and archive.id in gone,
    )
