"""What a restore did, or would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from pybak.display import printable
from pybak.errors import ExitCode
from pybak.problems import DELETED, Problem
from pybak.report.forms import problems_json
from pybak.report.phrases import (
    because,
    duration,
    failures,
    found,
    joined,
    of_files,
)
from pybak.report.status import CANCELLED, EXIT_CODES, FAILED, PARTIAL
from pybak.report.told import Told
from pybak.units import format_count, format_size


class RestoreCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How a restore counted its files; folders are not among them."""

    restored: int = 0
    skipped: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """The files that were asked for."""
        return self.restored + self.skipped + self.failed

    def to_json(self) -> dict[str, int]:
        """Give the `files` object of the contract."""
        return {"total": self.total, **msgspec.structs.asdict(self)}


class RestoreReport(Told, frozen=True, kw_only=True):
    """What a restore did, or with `dry_run` would do.

    `archives` are all that hold what the snapshot does, the oldest first; `archive` is the newest.
    `notes` say what else is worth knowing of the archive. `deleted` counts files and folders that
    it does not hold and that were removed, `deleted_paths` names them, relative to the target.
    """

    status: str
    archive: str | None = None
    archives: tuple[str, ...] = ()
    target: str | None = None
    files: RestoreCounts = RestoreCounts()
    folders: int = 0
    deleted: int = 0
    deleted_paths: tuple[str, ...] = ()
    bytes_written: int = 0
    duration_seconds: float = 0.0
    errors: tuple[Problem, ...] = ()
    skipped: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
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
            "archive": self.archive,
            "archives": list(self.archives),
            "target": self.target,
            "files": self.files.to_json(),
            "folders": self.folders,
            "deleted": self.deleted,
            "deleted_paths": list(self.deleted_paths),
            "bytes_written": self.bytes_written,
            "duration_seconds": round(self.duration_seconds, 3),
            "stages": msgspec.to_builtins(list(self.stages)),
            "errors": problems_json(self.errors),
            "skipped": problems_json(self.skipped),
            "notes": list(self.notes),
            "dry_run": self.dry_run,
            "message": self.message,
        }

    def headline(self) -> str:
        """Say in one line how it went."""
        if self.status in (FAILED, CANCELLED):
            return f"Restore {because(self.status, self.message)}"
        if self.status == PARTIAL:
            failed = failures(self.files.failed, self.errors)
            if self.dry_run:
                return f"Restore, dry run: {failed}; nothing was written"
            return f"Restore is partial: {failed}; the rest is in place"
        return "Restore, dry run: nothing was written" if self.dry_run else "Restore complete"

    def _facts(self) -> Iterator[tuple[str, str]]:
        if self.archive:
            others = len(self.archives) - 1
            more = f"and {format_count(others, 'earlier one')}" if others > 0 else ""
            yield "Archive", joined(printable(self.archive), more)
        for note in self.notes:
            yield "", note
        if self.target:
            yield "To", printable(self.target)
        if self.status in (FAILED, CANCELLED) and not self.files.total:
            return
        done = found(self.files.restored, self.folders)
        label = "To restore" if self.dry_run else "Restored"
        yield label, joined(done, format_size(self.bytes_written))
        if self.deleted:
            label = "To delete" if self.dry_run else "Deleted"
            yield label, f"{format_count(self.deleted, 'entry', 'entries')} not in the archive"
        if not self.dry_run:
            yield "Time", duration(self.duration_seconds, self.bytes_written)

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        label = "To delete" if self.dry_run else "Deleted"
        reason = "is not in the archive"
        named = tuple(Problem(path, DELETED, reason) for path in self.deleted_paths)
        yield label, len(named), named
        yield "Skipped", self.files.skipped, self.skipped
        yield "Failed", self.files.failed, of_files(self.errors, self.message)
