"""What a restore drill found: whether files came back from the archives as they were saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from pybak.display import printable
from pybak.errors import ExitCode
from pybak.problems import Problem
from pybak.report.forms import problems_json
from pybak.report.phrases import because, duration, grouped, joined, of_files
from pybak.report.status import CANCELLED, EXIT_CODES, FAILED
from pybak.report.told import Told
from pybak.units import format_count, format_size


class DrilledArchive(msgspec.Struct, frozen=True, kw_only=True):
    """How many files were restored from an archive, and how many of them are not as recorded."""

    archive: str
    files: int
    failed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Give one element of `archives`."""
        return msgspec.structs.asdict(self)


class DrillReport(Told, frozen=True, kw_only=True):
    """What a drill found; `status` is failed if any file did not come back as it was saved.

    `run_id` and `started_at` (aware) are of the snapshot, `drill_id` of the drill, `total` counts
    the files of the snapshot. `errors` name each file that failed and why. `seed` gives the same
    sample again. `bytes_restored` is the size of the sample.
    """

    status: str
    job: str | None = None
    drill_id: str | None = None
    run_id: str | None = None
    started_at: datetime | None = None
    total: int = 0
    archives: tuple[DrilledArchive, ...] = ()
    seed: str | None = None
    bytes_restored: int = 0
    duration_seconds: float = 0.0
    errors: tuple[Problem, ...] = ()
    message: str | None = None

    @property
    def files(self) -> int:
        """How many files were to be restored."""
        return sum(one.files for one in self.archives)

    @property
    def failed(self) -> int:
        """How many of them did not come back as they were saved."""
        return sum(one.failed for one in self.archives)

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return EXIT_CODES[self.status]

    def to_json(self) -> dict[str, Any]:
        """Give the object that `--json` prints."""
        return {
            "status": self.status,
            "job": self.job,
            "drill_id": self.drill_id,
            "run_id": self.run_id,
            "time": self.started_at.isoformat() if self.started_at else None,
            "files": {
                "total": self.total,
                "sampled": self.files,
                "good": self.files - self.failed,
                "failed": self.failed,
            },
            "archives": [one.to_json() for one in self.archives],
            "seed": self.seed,
            "bytes_restored": self.bytes_restored,
            "duration_seconds": round(self.duration_seconds, 3),
            "stages": msgspec.to_builtins(list(self.stages)),
            "errors": problems_json(self.errors),
            "message": self.message,
        }

    def headline(self) -> str:
        """Say in one line how it went."""
        if self.status == CANCELLED or not self.archives:
            return f"Drill {because(self.status, self.message)}"
        if self.status == FAILED:
            what = f"{grouped(self.failed)} of {format_count(self.files, 'file')}"
            if not self.failed:
                return f"Drill failed: {format_count(len(self.errors), 'problem')}"
            return f"Drill failed: {what} did not come back as saved"
        return f"Drill passed: {format_count(self.files, 'file')} came back as saved"

    def _facts(self) -> Iterator[tuple[str, str]]:
        if self.job:
            yield "Job", printable(self.job)
        if self.run_id and self.started_at:
            yield "Snapshot", f"run {self.run_id} of {self.started_at.astimezone():%Y-%m-%d %H:%M}"
        for one in self.archives:
            bad = f", {grouped(one.failed)} failed" if one.failed else ""
            yield "Archive", printable(one.archive)
            yield "", format_count(one.files, "file") + bad
        if self.archives:
            of_all = f"{grouped(self.files)} of {format_count(self.total, 'file')}"
            yield "Sample", joined(of_all, format_size(self.bytes_restored), f"seed {self.seed}")
            yield "Time", duration(self.duration_seconds, self.bytes_restored)

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        errors = of_files(self.errors, self.message)
        yield "Failed", len(errors), errors
