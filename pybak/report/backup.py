"""What a backup did, and what it would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from os.path import basename
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from pybak.display import printable, shell_word
from pybak.errors import ExitCode
from pybak.problems import NOTES, Problem
from pybak.report.copies import CopyOutcome, missing, problems_of
from pybak.report.forms import problems_json
from pybak.report.phrases import (
    because,
    duration,
    excluded_lines,
    failures,
    found,
    grouped,
    joined,
    of_files,
    ratio,
)
from pybak.report.status import CANCELLED, EXIT_CODES, FAILED, PARTIAL, SUCCESS, UNCHANGED
from pybak.report.told import Told
from pybak.units import format_count, format_size
from pybak.volumes.model import Volume

FULL: Final = "full"
RUN_DIGITS: Final = 8
"""How much of a run's id people are shown."""
RESTORE_COMMAND: Final = "python flows/restore.py"
_ENCRYPTED: Final = "AES-256; without the password nobody can restore it"


class FileCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How a backup counted its files; folders are not among them."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    excluded: int = 0
    skipped: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """The files that the backup is about."""
        return self.new + self.changed + self.unchanged + self.failed

    def changes(self) -> str:
        """Say what differs from the run before."""
        return (
            f"{grouped(self.new)} new, {grouped(self.changed)} changed, "
            f"{grouped(self.unchanged)} unchanged"
        )

    def to_json(self) -> dict[str, int]:
        """Give the `files` object of the contract."""
        return {"total": self.total, **msgspec.structs.asdict(self)}


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was compared with.

    `reasons` tell why the mode is not what was asked for or due. `gone` counts the files that
    the base had and the run did not find, `duplicates` the new and changed ones whose content
    earlier archives hold, with `duplicate_bytes`.
    """

    mode: str = FULL
    reasons: tuple[str, ...] = ()
    base_run: str | None = None
    base_started_at: datetime | None = None
    gone: int = 0
    duplicates: int = 0
    duplicate_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Give the keys that tell of it."""
        return {
            "mode": self.mode,
            "full_because": list(self.reasons) if self.mode == FULL else [],
            "base_run": self.base_run,
            "gone": self.gone,
            "duplicates": self.duplicates,
            "duplicate_bytes": self.duplicate_bytes,
        }

    def facts(self, files: FileCounts) -> Iterator[tuple[str, str]]:
        """Say what was compared and what differs; nothing of a full run that was asked for."""
        if self.base_run is not None:
            since = f"compared with run {self.base_run[:RUN_DIGITS]}"
            if self.base_started_at is not None:
                since += f" of {self.base_started_at.astimezone():%Y-%m-%d %H:%M:%S}"
            yield "Mode", joined(self.mode, since, *self.reasons)
        elif self.reasons:
            yield "Mode", f"{self.mode}: {'; '.join(self.reasons)}"
        if self.base_run is not None or files.unchanged or files.changed:
            gone = f"{grouped(self.gone)} gone"
            changes = files.changes()
            yield "Changes", joined(changes, gone) if self.base_run is not None else changes
        if self.duplicates:
            what = f"{format_count(self.duplicates, 'file')} ({format_size(self.duplicate_bytes)})"
            yield "Stored once", f"{what} that earlier archives hold"


class BackupReport(Told, frozen=True, kw_only=True):
    """What a backup did.

    `bytes_read` is what was read from the sources, `bytes_stored` the size of the archive.
    `errors` are the files that failed, `skipped` those that could not be taken and are no error.
    `excluded_by` counts excluded files and folders by reason. `history` tells what the run was
    compared with. `lost` counts the files of which
    the format can't keep something, by what that is (`pybak.backup.pack_zip`). `message` tells why
    a run failed.
    """

    status: str
    run_id: str | None = None
    job: str | None = None
    archive: str | None = None
    format: str | None = None
    encrypted: bool = False
    volumes: tuple[Volume, ...] = ()
    checksum_files: tuple[str, ...] = ()
    copies: tuple[CopyOutcome, ...] = ()
    lost: Mapping[str, int] = {}
    history: Comparison = Comparison()
    files: FileCounts = FileCounts()
    folders: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    duration_seconds: float = 0.0
    level: int | None = None
    excluded_by: Mapping[str, int] = {}
    errors: tuple[Problem, ...] = ()
    skipped: tuple[Problem, ...] = ()
    message: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with; what fails in every run is told by every run."""
        if self.status == UNCHANGED and self.errors:
            return EXIT_CODES[PARTIAL]
        return EXIT_CODES[self.status]

    def to_json(self) -> dict[str, Any]:
        """Give the object that `--json` prints."""
        return {
            "status": self.status,
            "run_id": self.run_id,
            "job": self.job,
            "archive": self.archive,
            "format": self.format,
            "encrypted": self.encrypted,
            "volumes": [volume.to_json() for volume in self.volumes],
            "checksum_files": list(self.checksum_files),
            "lost": dict(self.lost),
            "copies": [copy.to_json() for copy in self.copies],
            **self.history.to_json(),
            "files": self.files.to_json(),
            "folders": self.folders,
            "bytes_read": self.bytes_read,
            "bytes_stored": self.bytes_stored,
            "duration_seconds": round(self.duration_seconds, 3),
            "stages": msgspec.to_builtins(list(self.stages)),
            "level": self.level,
            "excluded_by": dict(self.excluded_by),
            "errors": problems_json(self.errors),
            "skipped": problems_json(self.skipped),
            "message": self.message,
        }

    def headline(self) -> str:
        """Say in one line how it went."""
        name = f" of {printable(self.job)}" if self.job else ""
        if self.status == PARTIAL:
            return f"Backup{name} is partial: {self._shortfall()}"
        if self.status in (FAILED, CANCELLED):
            return f"Backup{name} {because(self.status, self.message)}"
        if self.status == UNCHANGED:
            failing = f"; {failures(self.files.failed, self.errors)} again" if self.errors else ""
            return f"Backup{name}: nothing changed, so nothing was written{failing}"
        return f"Backup{name} complete"

    def _shortfall(self) -> str:
        """Say what is missing, and that all else is there."""
        copies = problems_of(self.copies)
        others = [error for error in self.errors if error not in copies]
        if not (others or self.files.failed) and copies:
            return f"{missing(self.copies)}; the archive itself is complete"
        failed = joined(failures(self.files.failed, others), missing(self.copies))
        return f"{failed}; the rest is saved"

    def _facts(self) -> Iterator[tuple[str, str]]:
        if self.archive:
            yield "Archive", printable(self.archive)
        made = [copy for copy in self.copies if copy.is_made]
        for number, copy in enumerate(made):
            yield "" if number else "Copies", printable(copy.archive)
            if copy.message:
                yield "Note", printable(copy.message)
        if self.volumes and self._is_split():
            yield "Volumes", self._volumes()
        for number, path in enumerate(self.checksum_files):
            yield "" if number else "Checksums", printable(path)
        if self.encrypted:
            yield "Encrypted", _ENCRYPTED
        if self.status in (FAILED, CANCELLED) and not self.files.total:
            return
        yield from files_facts(self.files, self.folders, self.bytes_read, self.history)
        if self.archive:
            yield (
                "Stored",
                format_size(self.bytes_stored) + ratio(self.bytes_read, self.bytes_stored),
            )
        yield "Time", duration(self.duration_seconds, self.bytes_read)
        for number, text in enumerate(lost_lines(self.lost)):
            yield "" if number else "Not kept", text
        yield from excluded_lines(self.files.excluded, self.excluded_by)

    def _is_split(self) -> bool:
        """Whether the volumes have numbers, also where there is only one."""
        first = self._volume_name(0).removesuffix(".zip")
        return len(self.volumes) > 1 or first == basename(self.archive or "") + ".001"

    def _volume_name(self, number: int) -> str:
        return unquote(self.volumes[number].uri.rpartition("/")[2])

    def _volumes(self) -> str:
        first, last = printable(self._volume_name(0)), printable(self._volume_name(-1))
        return f"{len(self.volumes)}, {first}" + (f" to {last}" if len(self.volumes) > 1 else "")

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        notes = [problem for problem in self.skipped if problem.code in NOTES]
        skipped = [problem for problem in self.skipped if problem.code not in NOTES]
        yield "Skipped", self.files.skipped, skipped
        yield "In the archive, but not complete", len(notes), notes
        yield "Failed", self.files.failed, of_files(self.errors, self.message)

    def _next_step(self) -> tuple[str, str] | None:
        if not self.archive or self.status not in (SUCCESS, PARTIAL):
            return None
        password = " -p" if self.encrypted else ""
        # An archive of changes gives all files only together with those before it.
        what = self.archive if self.history.base_run is None else self.run_id or self.archive
        return "Restore with:", f"{RESTORE_COMMAND} {shell_word(what)} --to DIR{password}"


def files_facts(
    files: FileCounts, folders: int, size_bytes: int, history: Comparison
) -> Iterator[tuple[str, str]]:
    """Say how many files there are, and what differs from the run before.

    `size_bytes` are those read, or to be read: of all files only where nothing is compared.
    """
    size = format_size(size_bytes)
    count = found(files.total, folders)
    yield "Files", count if history.base_run is not None else joined(count, size)
    yield from history.facts(files)
    if history.base_run is not None and size_bytes:
        yield "Read", size


_LOST_TEXTS: Final[Mapping[str, str]] = {
    "hard_links": "hard links of {}, each stored as a copy; tar formats keep them",
    "attributes": "extended attributes or ACLs of {}; tar formats keep them",
    "holes": "holes of {}, stored as zeros; tar formats keep them",
    "dates": "dates of {}, outside 1980 to 2107: programs may show them clamped",
    "large_attributes": "extended attributes of {}, too large for a tar header",
}


def lost_lines(lost: Mapping[str, int]) -> Iterator[str]:
    """Say what the format did not keep, one line for each kind."""
    for what, count in lost.items():
        text = _LOST_TEXTS.get(what, f"{what} of {{}}")
        yield text.format(format_count(count, "file"))


class PlanSummary(Told, frozen=True, kw_only=True):
    """What a backup would do, for `--dry-run`; nothing has been written.

    `destination` is the archive's path, without a volume's number, `copies` those of its copies;
    `split` the most bytes of a
    volume; `checksums` the kinds of checksum files beside it. `is_unchanged` tells that no archive
    would be written.
    """

    sources: tuple[str, ...]
    destination: str
    files: FileCounts
    folders: int
    bytes: int
    batches: int
    workers: int
    engine: str
    job: str | None = None
    format: str | None = None
    encrypted: bool = False
    split: int | None = None
    checksums: tuple[str, ...] = ()
    history: Comparison = Comparison()
    is_unchanged: bool = False
    level: int | None = None
    cluster: str | None = None
    excluded_by: Mapping[str, int] = {}
    copies: tuple[str, ...] = ()
    errors: tuple[Problem, ...] = ()
    skipped: tuple[Problem, ...] = ()

    @property
    def status(self) -> str:
        """`partial` when files are known already that could not be taken."""
        if self.is_unchanged:
            return UNCHANGED
        return PARTIAL if self.errors or self.files.failed else SUCCESS

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return EXIT_CODES[PARTIAL if self.errors else self.status]

    def to_json(self) -> dict[str, Any]:
        """Give the keys of a backup's report, with `dry_run` and a `plan`; `archive` is null."""
        report = BackupReport(
            status=self.status,
            job=self.job,
            format=self.format,
            encrypted=self.encrypted,
            history=self.history,
            files=self.files,
            folders=self.folders,
            level=self.level,
            excluded_by=self.excluded_by,
            errors=self.errors,
            skipped=self.skipped,
            stages=self.stages,
        )
        plan = {
            "sources": list(self.sources),
            "destination": self.destination,
            "copies": list(self.copies),
            "split": self.split,
            "checksums": list(self.checksums),
            "bytes": self.bytes,
            "batches": self.batches,
            "workers": self.workers,
            "engine": self.engine,
            "cluster": self.cluster,
        }
        return {**report.to_json(), "dry_run": True, "plan": plan}

    def headline(self) -> str:
        """Say in one line how it went."""
        name = f" of {printable(self.job)}" if self.job else ""
        problems = ""
        if self.errors or self.files.failed:
            problems = f"{failures(self.files.failed, self.errors)}; "
        if self.is_unchanged:
            problems += "nothing changed; "
        return f"Backup{name}, dry run: {problems}nothing was written"

    def _facts(self) -> Iterator[tuple[str, str]]:
        for number, source in enumerate(self.sources):
            yield "" if number else "From", printable(source)
        yield "To", printable(self.destination)
        for number, copy in enumerate(self.copies):
            yield "" if number else "Copies", printable(copy)
        if self.format:
            yield "Format", self.format
        if self.split:
            yield "Volumes", f"of at most {format_size(self.split)}, numbered from .001"
        if self.checksums:
            yield "Checksums", joined(*self.checksums)
        if self.encrypted:
            yield "Encrypted", _ENCRYPTED
        yield from files_facts(self.files, self.folders, self.bytes, self.history)
        batches = format_count(self.batches, "batch", "batches")
        by = f", {self.cluster}" if self.cluster else ""
        yield "Work", f"{batches} by {format_count(self.workers, 'worker')}{by}"
        level = self.engine if self.level is None else f"level {self.level} ({self.engine})"
        yield "Compression", level
        yield from excluded_lines(self.files.excluded, self.excluded_by)

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        yield "Skipped", self.files.skipped, self.skipped
        yield "Failed", self.files.failed, self.errors
