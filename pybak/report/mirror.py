"""What a mirror did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from pybak.display import ELLIPSIS, printable
from pybak.errors import ExitCode
from pybak.problems import DELETED, Problem
from pybak.report.forms import problems_json
from pybak.report.phrases import (
    NAMED_FILES,
    because,
    duration,
    excluded_lines,
    failures,
    found,
    grouped,
    joined,
    of_files,
)
from pybak.report.status import CANCELLED, EXIT_CODES, FAILED, PARTIAL, UNCHANGED
from pybak.report.told import Told
from pybak.units import format_count, format_size

_GONE: Final = "is not in the source"


class MirrorCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How a mirror counted what it found in the source; folders are not among them.

    `updated` were replaced, `metadata` got only another owner, mode, time or attributes. `excluded`
    and `deleted` are no part of the total.
    """

    copied: int = 0
    updated: int = 0
    metadata: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    excluded: int = 0
    deleted: int = 0

    @property
    def done(self) -> int:
        """What was changed in the destination, deleted files apart."""
        return self.copied + self.updated + self.metadata

    @property
    def total(self) -> int:
        """What was found and not excluded."""
        return self.done + self.unchanged + self.skipped + self.failed

    def to_json(self) -> dict[str, int]:
        """Give the `files` object of the contract."""
        return {"total": self.total, **msgspec.structs.asdict(self)}


class MirrorReport(Told, frozen=True, kw_only=True):
    """What a mirror did, or with `dry_run` would do, and then `would` names it: what, and path.

    `deleted_paths` are below the destination, files and folders. `message` says why it failed.
    """

    status: str
    run_id: str | None = None
    job: str | None = None
    source: str | None = None
    destination: str | None = None
    files: MirrorCounts = MirrorCounts()
    folders_made: int = 0
    folders_deleted: int = 0
    bytes_found: int = 0
    bytes_copied: int = 0
    duration_seconds: float = 0.0
    excluded_by: dict[str, int] = msgspec.field(default_factory=dict)
    errors: tuple[Problem, ...] = ()
    skipped: tuple[Problem, ...] = ()
    deleted_paths: tuple[str, ...] = ()
    would: tuple[tuple[str, str], ...] = ()
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
            "run_id": self.run_id,
            "job": self.job,
            "source": self.source,
            "destination": self.destination,
            "files": self.files.to_json(),
            "folders": {"made": self.folders_made, "deleted": self.folders_deleted},
            "bytes_found": self.bytes_found,
            "bytes_copied": self.bytes_copied,
            "duration_seconds": round(self.duration_seconds, 3),
            "stages": msgspec.to_builtins(list(self.stages)),
            "excluded_by": dict(self.excluded_by),
            "errors": problems_json(self.errors),
            "skipped": problems_json(self.skipped),
            "deleted_paths": list(self.deleted_paths),
            "would": [{"action": what, "path": path} for what, path in self.would],
            "dry_run": self.dry_run,
            "message": self.message,
        }

    def counts(self) -> dict[str, int]:
        """Give the numbers that the catalog keeps."""
        return {**self.files.to_json(), "bytes_copied": self.bytes_copied}

    def headline(self) -> str:
        """Say in one line how it went."""
        if self.status in (FAILED, CANCELLED):
            return f"Mirror {because(self.status, self.message)}"
        start = "Mirror, dry run" if self.dry_run else "Mirror"
        if self.status == UNCHANGED:
            return f"{start}: unchanged, nothing to do"
        if self.status == PARTIAL:
            trouble = failures(self.files.failed, self.errors)
            rest = "nothing was changed" if self.dry_run else "the rest is in place"
            return f"{start} is partial: {trouble}; {rest}"
        return f"{start}: nothing was changed" if self.dry_run else "Mirror complete"

    def _facts(self) -> Iterator[tuple[str, str]]:
        if self.source is not None and self.destination is not None:
            yield "From", printable(self.source)
            yield "To", printable(self.destination)
        files = self.files
        if not (files.total or files.excluded or files.deleted or self.folders_made):
            return
        yield "Found", joined(format_count(files.total, "file"), format_size(self.bytes_found))
        yield from self._done()
        yield from excluded_lines(files.excluded, self.excluded_by)
        if not self.dry_run:
            yield "Time", duration(self.duration_seconds, self.bytes_copied)

    def _done(self) -> Iterator[tuple[str, str]]:
        files, dry = self.files, self.dry_run
        if files.copied or self.folders_made or files.updated:
            told = found(files.copied, 0)
            made = format_count(self.folders_made, "new folder") if self.folders_made else ""
            size = format_size(self.bytes_copied) if self.bytes_copied else ""
            yield "To copy" if dry else "Copied", joined(told, made)
            if files.updated:
                yield "To update" if dry else "Updated", grouped(files.updated)
            if size:
                yield "Bytes", size
        if files.metadata:
            yield "To touch up" if dry else "Touched up", f"{grouped(files.metadata)} (metadata)"
        if files.unchanged or not files.done:
            yield "Unchanged", grouped(files.unchanged)
        if files.deleted or self.folders_deleted:
            folders = format_count(self.folders_deleted, "folder") if self.folders_deleted else ""
            told = joined(format_count(files.deleted, "file"), folders)
            yield "To delete" if dry else "Deleted", told
        if self.would:
            shown = self.would[:NAMED_FILES]
            for number, (what, path) in enumerate(shown):
                yield "" if number else "Would", f"{what} {printable(path)}"
            if len(self.would) > len(shown):
                yield "", f"{ELLIPSIS} and {grouped(len(self.would) - len(shown))} more"

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        if self.deleted_paths:
            gone = [Problem(path, DELETED, _GONE) for path in self.deleted_paths]
            yield "To delete" if self.dry_run else "Deleted", len(gone), gone
        errors = of_files(self.errors, self.message)
        yield "Failed", max(self.files.failed, len(errors)), errors
        yield "Skipped", max(self.files.skipped, len(self.skipped)), self.skipped
