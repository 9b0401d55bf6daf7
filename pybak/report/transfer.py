"""What a transfer of archives did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from pybak.display import ELLIPSIS, printable
from pybak.errors import ExitCode
from pybak.problems import NOT_FOUND, Problem
from pybak.report.forms import problems_json
from pybak.report.phrases import NAMED_FILES, because, duration, grouped, joined, of_files
from pybak.report.status import CANCELLED, EXIT_CODES, FAILED
from pybak.report.told import Told
from pybak.units import format_count, format_size

COPIED: Final = "copied"
MOVED: Final = "moved"
THERE: Final = "there"
"""The archive was at the destination already, and stays where it was besides."""


class TransferredArchive(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one archive.

    `status` is `copied`, `moved`, `there` or `failed`; in a dry run what it would be. `archive` is
    the place that it was taken from, `to` where it is now, `run_id` and `job` whose it is, if the
    catalog knows it. `bytes_sent` counts what was not there already. `code` is that of what went
    wrong, as a problem. `notes` are what is worth knowing of one that did not fail.
    """

    archive: str
    status: str
    to: str | None = None
    run_id: str | None = None
    job: str | None = None
    size: int = 0
    bytes_sent: int = 0
    code: str | None = None
    message: str | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give one element of `archives`."""
        value = msgspec.structs.asdict(self)
        del value["code"]
        return {**value, "notes": list(self.notes)}

    def problems(self) -> tuple[Problem, ...]:
        """Give what went wrong."""
        if self.code is None:
            return ()
        return (Problem(self.archive, self.code, self.message or ""),)

    def told(self, *, moves: bool = False) -> str:
        """Say it in a line; `moves` tells whether it was asked to be moved."""
        what = format_size(self.size)
        if self.status == THERE:
            is_itself = self.to == self.archive and not moves
            why = "is where it lies; no second copy was made" if is_itself else "is there already"
            what = joined(what, why)
        return f"{printable(self.archive)} ({what})"


class TransferReport(Told, frozen=True, kw_only=True):
    """What a transfer did, or with `dry_run` would do; `moves` tells whether it was a move."""

    status: str
    run_id: str | None = None
    to: str | None = None
    moves: bool = False
    dry_run: bool = False
    archives: tuple[TransferredArchive, ...] = ()
    duration_seconds: float = 0.0
    errors: tuple[Problem, ...] = ()
    message: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with; 10 if nothing of what was asked for is there."""
        codes = {one.code for one in self.archives}
        if self.status == FAILED and codes == {NOT_FOUND}:
            return ExitCode.NOT_FOUND
        return EXIT_CODES[self.status]

    @property
    def bytes_sent(self) -> int:
        """How many bytes went to the destination."""
        return sum(one.bytes_sent for one in self.archives)

    def problems(self) -> tuple[Problem, ...]:
        """Give what went wrong with any archive."""
        return tuple(problem for one in self.archives for problem in one.problems())

    def to_json(self) -> dict[str, Any]:
        """Give the object that `--json` prints."""
        return {
            "status": self.status,
            "run_id": self.run_id,
            "to": self.to,
            "moves": self.moves,
            "dry_run": self.dry_run,
            "archives": [one.to_json() for one in self.archives],
            "bytes_sent": self.bytes_sent,
            "duration_seconds": round(self.duration_seconds, 3),
            "stages": msgspec.to_builtins(list(self.stages)),
            "errors": [*problems_json(self.errors), *problems_json(self.problems())],
            "message": self.message,
        }

    def counts(self) -> dict[str, int]:
        """Give the numbers that the catalog keeps."""
        return {
            "archives": len(self.archives),
            "failed": len(self.problems()),
            "bytes_sent": self.bytes_sent,
        }

    def headline(self) -> str:
        """Say in one line how it went."""
        if self.status == CANCELLED or (self.status == FAILED and not self.archives):
            return f"Transfer {because(self.status, self.message)}"
        failed = len(self.problems())
        there = sum(one.status == THERE for one in self.archives)
        done = len(self.archives) - failed - there
        start = "Transfer, dry run" if self.dry_run else "Transfer"
        if there and not done and not failed:
            count, verb = format_count(there, "archive"), "is" if there == 1 else "are"
            return f"{start}: nothing to do: {count} {verb} there already"
        count, verbs = format_count(done, "archive"), ("was", "were")
        if self.dry_run:
            verbs, failing = ("is", "are"), "can't be"
            first = f"would {'move' if self.moves else 'copy'} {count}"
        else:
            failing, first = "failed", f"{count} {'moved' if self.moves else 'copied'}"
        told = joined(
            first,
            f"{grouped(there)} {verbs[there > 1]} there already" if there else "",
            f"{grouped(failed)} {failing}" if failed else "",
        )
        if self.dry_run:
            return f"{start}: {told}; nothing was changed"
        return f"{start} {self.status if failed else 'complete'}: {told}"

    def _facts(self) -> Iterator[tuple[str, str]]:
        good = [one for one in self.archives if one.code is None]
        shown = good if self.dry_run else good[:NAMED_FILES]
        for number, one in enumerate(shown):
            yield "" if number else "Archives", one.told(moves=self.moves)
            for note in one.notes:
                yield "Note", printable(note)
        if len(good) > len(shown):
            yield "", f"{ELLIPSIS} and {grouped(len(good) - len(shown))} more"
        if self.to is not None:
            yield "To", printable(self.to)
        if self.archives and not self.dry_run:
            yield "Sent", format_size(self.bytes_sent)
            yield "Time", duration(self.duration_seconds, self.bytes_sent)

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        errors = (*of_files(self.errors, self.message), *self.problems())
        yield "Failed", len(errors), errors
