"""What a prune made of one job, put into its report."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from pybak import report
from pybak.problems import Problem
from pybak.retention.chain import Chain
from pybak.retention.consolidate import Consolidated
from pybak.retention.plan import Entry, JobPlan


def with_full(
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


def job_report(
    plan: JobPlan, *, gone: Collection[int], size: int, problems: Sequence[Problem]
) -> report.JobPrune:
    """Say what became of a job; `gone` are the archives that were deleted, of `size` bytes."""
    return report.JobPrune(
        job=plan.job,
        status=report.PARTIAL if problems else report.SUCCESS,
        keep=tuple(_verdict(entry, gone) for entry in plan.keep),
        remove=tuple(_verdict(entry, gone) for entry in plan.remove),
        deleted=tuple(one.name for one in plan.going if one.id in gone),
        bytes_freed=size,
        errors=tuple(problems),
    )


def _verdict(entry: Entry, gone: Collection[int]) -> report.SnapshotVerdict:
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
