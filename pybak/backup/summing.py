"""What a run reports: what it would do, what it did, that there was nothing to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pybak.backup.about import About
from pybak.backup.assemble import Assembly
from pybak.backup.conclude import Accounts, Outcome, Taken
from pybak.backup.copies import Copies
from pybak.backup.filter import Filtered
from pybak.backup.mode import Chosen
from pybak.backup.plan import BackupPlan
from pybak.backup.selection import Selection
from pybak.formats.streams import engine_name
from pybak.report import PARTIAL, UNCHANGED, BackupReport, Comparison, PlanSummary
from pybak.report.copies import CopyOutcome, problems_of
from pybak.storage import local, remote
from pybak.volumes.write import WRAPPED_SUFFIX


class Summing:
    """Sums up one run. All problems are held in memory. `selection` is None before the plan."""

    def __init__(
        self,
        about: About,
        kept: Filtered,
        chosen: Chosen,
        selection: Selection | None,
        accounts: Accounts,
    ) -> None:
        self._about = about
        self._kept = kept
        self._chosen = chosen
        self._selection = selection
        self._accounts = accounts

    def planned(self, plan: BackupPlan, path: Path | str, copies: Copies) -> PlanSummary:
        """Describe a plan whose archive would be at `path`."""
        about, outcome = self._about, self._accounts.planned()
        name = self._archive_name(path)
        return PlanSummary(
            job=about.job_given,
            sources=about.sources,
            destination=name,
            copies=tuple(copies.names(name)),
            format=about.format,
            encrypted=about.is_encrypted,
            split=about.split,
            checksums=tuple(about.sum_kinds),
            history=self._history(),
            is_unchanged=self._selection is not None and self._selection.is_empty,
            files=outcome.files,
            folders=self._kept.folders,
            bytes=plan.bytes,
            batches=plan.batches,
            workers=plan.workers,
            cluster=plan.cluster,
            engine=engine_name(plan.format, plan.level),
            level=plan.level,
            excluded_by=dict(self._kept.excluded),
            errors=(*outcome.errors, *problems_of(copies.troubles())),
            skipped=outcome.skipped,
        )

    def finished(
        self,
        assembly: Assembly,
        stored: local.Published | remote.Published,
        now: datetime | None = None,
    ) -> BackupReport:
        """Sum up a run whose archive is published; `now` (aware) is its end."""
        taken = Taken(assembly.files, assembly.problems, assembly.absent)
        outcome = self._accounts.outcome(taken)
        return msgspec.structs.replace(
            self._report(outcome, now),
            status=outcome.status,
            archive=self._archive_name(stored.path),
            volumes=stored.volumes,
            checksum_files=tuple(str(path) for path in stored.checksum_files),
            lost=assembly.lost,
            bytes_read=assembly.bytes_read + self._bytes_compared,
            bytes_stored=sum(volume.size for volume in stored.volumes),
        )

    def unchanged(self, now: datetime | None = None) -> BackupReport:
        """Sum up a run that found nothing to write."""
        return msgspec.structs.replace(
            self._report(self._accounts.planned(), now),
            status=UNCHANGED,
            bytes_read=self._bytes_compared,
        )

    def _report(self, outcome: Outcome, now: datetime | None) -> BackupReport:
        """Give what all reports of this run have in common."""
        about = self._about
        return BackupReport(
            status=outcome.status,
            run_id=about.run_id,
            job=about.job_given,
            format=about.format,
            encrypted=about.is_encrypted,
            history=self._history(),
            files=outcome.files,
            folders=self._kept.folders,
            duration_seconds=_seconds_of(about, now),
            level=about.options.level,
            excluded_by=dict(self._kept.excluded),
            errors=outcome.errors,
            skipped=outcome.skipped,
        )

    def _history(self) -> Comparison:
        """Say what the run was compared with."""
        base, selected = self._chosen.base, self._selection
        return Comparison(
            mode=self._chosen.mode,
            reasons=self._chosen.reasons,
            base_run=base.run_id if base is not None else None,
            base_started_at=base.started_at if base is not None else None,
            gone=selected.gone if selected is not None else 0,
            duplicates=selected.stored if selected is not None else 0,
            duplicate_bytes=selected.stored_bytes if selected is not None else 0,
        )

    @property
    def _bytes_compared(self) -> int:
        return self._selection.bytes_read if self._selection is not None else 0

    def _archive_name(self, path: Path | str) -> str:
        """Give what people name to get the archive back: the file, or the set without number."""
        is_whole = self._about.is_wrapped and self._about.split is None
        return f"{path}{WRAPPED_SUFFIX if is_whole else ''}"


def with_copies(about: About, report: BackupReport, copies: Sequence[CopyOutcome]) -> BackupReport:
    """Give the report with what became of the copies, just made."""
    problems = problems_of(copies)
    return msgspec.structs.replace(
        report, copies=tuple(copies), errors=(*report.errors, *problems),
        status=PARTIAL if problems else report.status,
        duration_seconds=_seconds_of(about),
    )  # fmt: skip


def _seconds_of(about: About, now: datetime | None = None) -> float:
    return ((now or datetime.now(UTC)) - about.started_at).total_seconds()
