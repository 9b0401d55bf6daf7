"""What a round of an inbox did."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from pybak.display import ELLIPSIS, printable
from pybak.errors import ExitCode
from pybak.problems import Problem
from pybak.report.forms import problems_json
from pybak.report.phrases import (
    NAMED_FILES,
    because,
    duration,
    grouped,
    joined,
    of_files,
    ratio,
)
from pybak.report.status import CANCELLED, EXIT_CODES, FAILED, PARTIAL, SUCCESS, UNCHANGED
from pybak.report.told import Told
from pybak.units import format_count, format_size

if TYPE_CHECKING:
    from pybak.inbox.found import Found
    from pybak.inbox.tally import Tally

DONE: Final = "done"
DUPLICATE: Final = "duplicate"
REMOVED: Final = "removed"
"""Stored by an earlier round that kept it; now it is removed."""


class InboxFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file that was dealt with: `status` is DONE, DUPLICATE or REMOVED.

    `path` is that below the inbox, and may hold surrogate escapes. `destination` is where its copy
    lies; of a duplicate, where that of the file lies that it repeats, which was called
    `duplicate_of`.
    """

    path: str
    status: str
    destination: str
    size: int = 0
    stored_size: int = 0
    sha256: str | None = None
    duplicate_of: str | None = None


class InboxCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many files came to what; `known` were done by an earlier round and kept."""

    done: int = 0
    duplicates: int = 0
    waiting: int = 0
    known: int = 0
    failed: int = 0
    skipped: int = 0
    excluded: int = 0

    def to_json(self) -> dict[str, int]:
        """Give the object `files` of the contract."""
        total = self.done + self.duplicates + self.waiting + self.known + self.failed
        return {"total": total, **msgspec.structs.asdict(self)}


class InboxReport(Told, frozen=True, kw_only=True):
    """What a round did, or with `dry_run` would do; `kept` tells whether sources stayed."""

    status: str
    run_id: str | None = None
    source: str | None = None
    destination: str | None = None
    also: tuple[str, ...] = ()
    kept: bool = False
    dry_run: bool = False
    files: InboxCounts = InboxCounts()
    results: tuple[InboxFile, ...] = ()
    bytes_read: int = 0
    bytes_stored: int = 0
    duration_seconds: float = 0.0
    errors: tuple[Problem, ...] = ()
    waiting: tuple[Problem, ...] = ()
    skipped: tuple[Problem, ...] = ()
    message: str | None = None

    @classmethod
    def of(
        cls,
        tally: Tally,
        *,
        run_id: str,
        source: str,
        places: Sequence[str],
        kept: bool,
        duration_seconds: float,
    ) -> Self:
        """Make the report of a round that came to its end."""
        done, duplicates = tally.count(DONE), tally.count(DUPLICATE)
        status = SUCCESS if done or duplicates or tally.count(REMOVED) else UNCHANGED
        return cls(
            status=PARTIAL if tally.failed else status, run_id=run_id, source=source,
            destination=places[0], also=tuple(places[1:]), kept=kept,
            files=_counts(tally, done, duplicates),
            results=tuple(tally.results),
            bytes_read=tally.bytes_read, bytes_stored=tally.bytes_stored,
            duration_seconds=duration_seconds, errors=tuple(tally.failed),
            waiting=tuple(tally.waiting), skipped=tuple(tally.skipped),
        )  # fmt: skip

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return EXIT_CODES[self.status]

    def to_json(self) -> dict[str, Any]:
        """Give the object that `--json` prints."""
        return {
            "status": self.status,
            "run_id": self.run_id,
            "source": self.source,
            "destination": self.destination,
            "also": list(self.also),
            "kept": self.kept,
            "dry_run": self.dry_run,
            "files": self.files.to_json(),
            "results": [msgspec.structs.asdict(one) for one in self.results],
            "bytes_read": self.bytes_read,
            "bytes_stored": self.bytes_stored,
            "duration_seconds": round(self.duration_seconds, 3),
            "stages": msgspec.to_builtins(list(self.stages)),
            "errors": problems_json(self.errors),
            "waiting": problems_json(self.waiting),
            "skipped": problems_json(self.skipped),
            "message": self.message,
        }

    def counts(self) -> dict[str, int]:
        """Give the numbers that the catalog keeps."""
        return {
            **self.files.to_json(),
            "bytes_read": self.bytes_read,
            "bytes_stored": self.bytes_stored,
        }

    def headline(self) -> str:
        """Say in one line how it went."""
        if self.status == CANCELLED or (self.status == FAILED and self.message):
            return f"Inbox {because(self.status, self.message)}"
        files = self.files
        start = "Inbox, dry run" if self.dry_run else "Inbox"
        done = files.done
        removed = sum(one.status == REMOVED for one in self.results)
        what = joined(
            self._done(done) if done else "",
            format_count(files.duplicates, "duplicate") if files.duplicates else "",
            f"{format_count(removed, 'file')} stored earlier removed" if removed else "",
            f"{grouped(files.waiting)} waiting" if files.waiting else "",
            f"{grouped(files.failed)} failed" if files.failed else "",
        )
        if not (done or files.duplicates or files.failed or removed):
            return f"{start}: nothing to do" + (f" ({what})" if what else "")
        if self.dry_run:
            return f"{start}: {what}; nothing was changed"
        return f"{start} {'partial' if self.status == PARTIAL else 'complete'}: {what}"

    def _done(self, count: int) -> str:
        if self.dry_run:
            return f"would take {format_count(count, 'file')}"
        return f"{format_count(count, 'file')} stored"

    def _facts(self) -> Iterator[tuple[str, str]]:
        if self.source is not None:
            yield "From", printable(self.source)
        for number, place in enumerate(filter(None, (self.destination, *self.also))):
            yield "" if number else "To", printable(place)
        done = [one for one in self.results if one.status == DONE]
        for number, one in enumerate(done[:NAMED_FILES]):
            size = format_size(one.size)
            if not self.dry_run:
                size += f" to {format_size(one.stored_size)}"
            yield "" if number else "Files", f"{printable(one.path)} ({size})"
        if len(done) > NAMED_FILES:
            yield "", f"{ELLIPSIS} and {grouped(len(done) - NAMED_FILES)} more"
        if self.files.known:
            yield "Known", f"{format_count(self.files.known, 'file')} done earlier"
        if self.files.excluded:
            yield "Excluded", grouped(self.files.excluded)
        if done and not self.dry_run:
            read = sum(one.size for one in done)
            stored = f"{format_size(self.bytes_stored)}{ratio(read, self.bytes_stored)}"
            yield "Stored", stored
            yield "Sources", "were kept" if self.kept else "were removed"
            yield "Time", duration(self.duration_seconds, self.bytes_read)

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        errors = of_files(self.errors, self.message)
        yield "Failed", len(errors), errors
        same = [
            Problem(one.path, DUPLICATE, f"repeats {printable(one.duplicate_of or '')}, "
                    f"which lies at {printable(one.destination)}")
            for one in self.results
            if one.status == DUPLICATE
        ]  # fmt: skip
        yield "Duplicates", len(same), same
        gone = [
            Problem(one.path, REMOVED, f"was stored earlier, at {printable(one.destination)}")
            for one in self.results
            if one.status == REMOVED
        ]
        yield "Removed", len(gone), gone
        yield "Waiting", len(self.waiting), self.waiting
        yield "Skipped", len(self.skipped), self.skipped


def rehearsed(
    tally: Tally,
    pending: Sequence[Found],
    names: Sequence[str],
    *,
    run_id: str,
    source: str,
    places: Sequence[str],
    kept: bool,
    duration_seconds: float,
) -> InboxReport:
    """Make the report of what a round would do with the files that are `pending`."""
    return InboxReport(
        status=PARTIAL if tally.failed else SUCCESS if pending else UNCHANGED, run_id=run_id,
        source=source, destination=places[0], also=tuple(places[1:]), kept=kept, dry_run=True,
        files=_counts(tally, len(pending), 0),
        results=tuple(
            InboxFile(
                path=os.fsdecode(found.path), status=DONE, destination=f"{places[0]}/{name}",
                size=found.size,
            )
            for found, name in zip(pending, names, strict=True)
        ),
        duration_seconds=duration_seconds, errors=tuple(tally.failed),
        waiting=tuple(tally.waiting), skipped=tuple(tally.skipped),
    )  # fmt: skip


def _counts(tally: Tally, done: int, duplicates: int) -> InboxCounts:
    return InboxCounts(
        done=done, duplicates=duplicates, waiting=len(tally.waiting), known=tally.known,
        failed=len(tally.failed), skipped=len(tally.skipped), excluded=tally.excluded,
    )  # fmt: skip
