"""What a rebuild of the catalog found, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from pybak.display import printable
from pybak.errors import ExitCode
from pybak.problems import Problem
from pybak.report.forms import problems_json
from pybak.report.phrases import because, duration, joined, of_files
from pybak.report.status import CANCELLED, EXIT_CODES, FAILED, PARTIAL
from pybak.report.told import Told
from pybak.units import format_count

DROPPED: Final = "dropped"


class RebuiltRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that an archive told of. `started_at` is aware; `copies` are its further places."""

    archive: str
    run_id: str
    job: str
    seq: int
    mode: str
    status: str
    started_at: datetime
    members: int
    size: int = 0
    copies: tuple[str, ...] = ()

    def told(self) -> str:
        """Say it in a line."""
        when = f"{self.started_at.astimezone():%Y-%m-%d %H:%M:%S}"
        name = f"{printable(self.job)} {self.seq}"
        what = joined(name, when, self.mode, format_count(self.members, "member"))
        return f"{what}, {printable(self.archive)}"

    def to_json(self) -> dict[str, Any]:
        """Give one element of `runs`."""
        return {
            **msgspec.structs.asdict(self),
            "started_at": self.started_at.isoformat(),
            "copies": list(self.copies),
        }


class DroppedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job of the old catalog of which no archive was found; `folders` are where it had them."""

    job: str
    backups: int
    folders: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{printable(self.job)}: is not in the new catalog: {self.told()}"

    def told(self) -> str:
        """Say it without the job's name."""
        where = ", ".join(map(printable, self.folders))
        count = format_count(self.backups, "backup")
        return f"{count} of the old catalog, in {where}; name that folder too to keep them"

    def to_json(self) -> dict[str, Any]:
        """Give one element of `dropped`."""
        return {"job": self.job, "backups": self.backups, "folders": list(self.folders)}


class RebuildReport(Told, frozen=True, kw_only=True):
    """What a rebuild did, or with `dry_run` would do.

    `kept` is where the old catalog is now. `skipped` are files that are no archives of ours, or
    copies of those; `errors` are archives that could not be read, and runs that lack something.
    `dropped` are jobs that the old catalog knows and the new one does not; `notes` what else is
    worth knowing.
    """

    status: str
    catalog: str | None = None
    kept: str | None = None
    runs: tuple[RebuiltRun, ...] = ()
    skipped: tuple[Problem, ...] = ()
    errors: tuple[Problem, ...] = ()
    dropped: tuple[DroppedJob, ...] = ()
    notes: tuple[str, ...] = ()
    bytes_read: int = 0
    duration_seconds: float = 0.0
    dry_run: bool = False
    message: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return EXIT_CODES[self.status]

    def to_json(self) -> dict[str, Any]:
        """Give the object that `--json` prints."""
        return {
            "status": self.status,
            "catalog": self.catalog,
            "kept": self.kept,
            "runs": [run.to_json() for run in self.runs],
            "dropped": [one.to_json() for one in self.dropped],
            "skipped": problems_json(self.skipped),
            "errors": problems_json(self.errors),
            "notes": list(self.notes),
            "bytes_read": self.bytes_read,
            "duration_seconds": round(self.duration_seconds, 3),
            "stages": msgspec.to_builtins(list(self.stages)),
            "dry_run": self.dry_run,
            "message": self.message,
        }

    def headline(self) -> str:
        """Say in one line how it went."""
        if self.status in (FAILED, CANCELLED):
            return f"Rebuild {because(self.status, self.message)}"
        if self.dry_run:
            return "Rebuild, dry run: nothing was written"
        if self.status == PARTIAL:
            count = format_count(len(self.errors), "problem")
            return f"Catalog rebuilt, but not all of it: {count}"
        return "Catalog rebuilt"

    def _facts(self) -> Iterator[tuple[str, str]]:
        if self.catalog:
            yield "Catalog", printable(self.catalog)
        if self.kept:
            yield "Old one", printable(self.kept)
        if not self.runs:
            return
        jobs = len({run.job for run in self.runs})
        members = sum(run.members for run in self.runs)
        yield (
            "Found" if self.dry_run else "Recorded",
            joined(
                format_count(len(self.runs), "run"),
                format_count(jobs, "job"),
                format_count(members, "file version"),
            ),
        )
        if self.dry_run:
            for number, run in enumerate(self.runs):
                yield "" if number else "Runs", run.told()
        for note in self.notes:
            yield "Note", note
        yield "Time", duration(self.duration_seconds, self.bytes_read)

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        dropped = [Problem(one.job, DROPPED, one.told()) for one in self.dropped]
        yield "Jobs that the new catalog does not have", len(dropped), dropped
        yield "Skipped", len(self.skipped), self.skipped
        errors = of_files(self.errors, self.message)
        yield "Problems", len(errors), errors
