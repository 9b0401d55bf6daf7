"""What a prune did, or would do, with the reason for each snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from pybak.display import ELLIPSIS, escape, printable
from pybak.errors import ExitCode
from pybak.problems import LOCKED, STORAGE, Problem
from pybak.report.forms import problems_json
from pybak.report.phrases import NAMED_FILES, because, grouped, joined, of_files
from pybak.report.status import CANCELLED, EXIT_CODES, FAILED, PARTIAL, SUCCESS
from pybak.report.told import Told
from pybak.units import format_count, format_duration, format_size


class SnapshotVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one snapshot. `started_at` is aware.

    `archive_deleted` tells whether its archive is gone, too; it stays if others need it.
    """

    run_id: str
    seq: int
    started_at: datetime
    status: str
    mode: str
    reasons: tuple[str, ...]
    archive: str | None = None
    size: int = 0
    tags: tuple[str, ...] = ()
    archive_deleted: bool = False

    def to_json(self) -> dict[str, Any]:
        """Give one element of `keep` or `remove`."""
        return {
            "run_id": self.run_id,
            "seq": self.seq,
            "time": self.started_at.isoformat(),
            "status": self.status,
            "mode": self.mode,
            "tags": list(self.tags),
            "archive": self.archive,
            "size": self.size,
            "archive_deleted": self.archive_deleted,
            "reasons": list(self.reasons),
        }

    def line(self) -> str:
        """Give it as a line for people, in local time."""
        partial = "" if self.status == SUCCESS else f", {self.status}"
        return (
            f"run {self.seq} of {self.started_at.astimezone():%Y-%m-%d %H:%M:%S}{partial}: "
            f"{escape('; '.join(self.reasons))}"
        )


class NewFull(msgspec.Struct, frozen=True, kw_only=True):
    """The full archive that took the place of a chain; in a dry run without name and size."""

    run_id: str
    seq: int
    archive: str | None = None
    size: int | None = None

    def line(self) -> str:
        """Give it as a line for people."""
        if self.archive is None or self.size is None:
            return f"of run {self.seq}"
        return f"of run {self.seq}: {printable(self.archive)}, {format_size(self.size)}"


class JobPrune(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one job's snapshots, the newest first.

    `status` is success, partial, failed, or locked: another run was at work. `deleted` names the
    archives that are gone, of snapshots in `remove` and of earlier ones. `bytes_freed` is what
    their files had. `consolidated` is the full archive that was made, if one was.
    """

    job: str
    status: str
    keep: tuple[SnapshotVerdict, ...] = ()
    remove: tuple[SnapshotVerdict, ...] = ()
    deleted: tuple[str, ...] = ()
    consolidated: NewFull | None = None
    bytes_freed: int = 0
    errors: tuple[Problem, ...] = ()
    message: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Give one element of `jobs`."""
        return {
            "job": self.job,
            "status": self.status,
            "keep": [one.to_json() for one in self.keep],
            "remove": [one.to_json() for one in self.remove],
            "deleted": list(self.deleted),
            "consolidated": (
                msgspec.structs.asdict(self.consolidated) if self.consolidated else None
            ),
            "bytes_freed": self.bytes_freed,
            "message": self.message,
        }

    def counts(self) -> dict[str, int]:
        """Give what the catalog keeps of it."""
        return {
            "kept": len(self.keep),
            "removed": len(self.remove),
            "deleted": len(self.deleted),
            "bytes_freed": self.bytes_freed,
        }

    def problems(self) -> tuple[Problem, ...]:
        """Give what went wrong, the reason why nothing was done among it."""
        if self.message is None:
            return self.errors
        code = LOCKED if self.status == LOCKED else STORAGE
        return (*self.errors, Problem("", code, self.message))


class PruneReport(Told, frozen=True, kw_only=True):
    """What a prune of one or more jobs did, or with `dry_run` would do."""

    status: str
    run_id: str | None = None
    jobs: tuple[JobPrune, ...] = ()
    duration_seconds: float = 0.0
    errors: tuple[Problem, ...] = ()
    dry_run: bool = False
    message: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return EXIT_CODES[self.status]

    @property
    def bytes_freed(self) -> int:
        """The bytes of all files that are gone."""
        return sum(job.bytes_freed for job in self.jobs)

    def to_json(self) -> dict[str, Any]:
        """Give the object that `--json` prints."""
        return {
            "status": self.status,
            "run_id": self.run_id,
            "dry_run": self.dry_run,
            "jobs": [job.to_json() for job in self.jobs],
            "bytes_freed": self.bytes_freed,
            "duration_seconds": round(self.duration_seconds, 3),
            "stages": msgspec.to_builtins(list(self.stages)),
            "errors": [
                *problems_json(self.errors),
                *(
                    {"job": job.job, **problem}
                    for job in self.jobs
                    for problem in problems_json(job.problems())
                ),
            ],
            "message": self.message,
        }

    def headline(self) -> str:
        """Say in one line how it went."""
        name = f" of {printable(self.jobs[0].job)}" if len(self.jobs) == 1 else ""
        if self.status in (FAILED, CANCELLED):
            return f"Prune{name} {because(self.status, self.message)}"
        kept = format_count(sum(len(job.keep) for job in self.jobs), "snapshot")
        removed = grouped(sum(len(job.remove) for job in self.jobs))
        if self.dry_run:
            done = f"would keep {kept} and remove {removed}; nothing was changed"
            return f"Prune{name}, dry run: {self._trouble()}{done}"
        if self.status == PARTIAL:
            return f"Prune{name} is partial: {self._trouble()}{kept} kept, {removed} removed"
        return f"Prune{name} complete: {kept} kept, {removed} removed"

    def _trouble(self) -> str:
        if self.status != PARTIAL:
            return ""
        count = len(self.errors) + sum(len(job.problems()) for job in self.jobs)
        return format_count(count, "problem") + "; "

    def _facts(self) -> Iterator[tuple[str, str]]:
        for job in self.jobs:
            if len(self.jobs) > 1:
                yield "Job", printable(job.job)
            if job.message is not None:
                continue
            yield from self._verdicts("Keep", job.keep)
            yield from self._verdicts("Remove", job.remove)
            if job.consolidated is not None:
                yield "New full", job.consolidated.line()
        if not self.jobs:
            return
        archives = sum(len(job.deleted) for job in self.jobs)
        freed = joined(format_size(self.bytes_freed), format_count(archives, "archive"))
        yield "To free" if self.dry_run else "Freed", freed
        if not self.dry_run:
            yield "Time", format_duration(self.duration_seconds)

    def _verdicts(
        self, label: str, verdicts: Sequence[SnapshotVerdict]
    ) -> Iterator[tuple[str, str]]:
        """Name all in a dry run, which is made to see them; else not more than of anything."""
        shown = verdicts if self.dry_run else verdicts[:NAMED_FILES]
        for number, verdict in enumerate(shown):
            yield "" if number else label, verdict.line()
        if len(verdicts) > len(shown):
            yield "", f"{ELLIPSIS} and {grouped(len(verdicts) - len(shown))} more"
        if not verdicts:
            yield label, "none"

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        for job in self.jobs:
            label = "Failed"
            if len(self.jobs) > 1:
                label = f"{'Left alone' if job.status == LOCKED else label}, {printable(job.job)}"
            problems = job.problems()
            yield label, len(problems), problems
        errors = of_files(self.errors, self.message)
        yield "Failed", len(errors), errors
