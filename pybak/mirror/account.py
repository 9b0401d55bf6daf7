"""What a part of a mirror did: counts, what is to be told of paths, and whether it is to stop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from pybak.mirror.rows import LOOKS, NEW, UPDATE, Row
from pybak.problems import NOTES, SKIPPED_CODES, VANISHED, Problem, pack_problems

ShouldStop = Callable[[], bool]
Progress = Callable[[int, int, bytes], object]
"""Called with files done, bytes copied and the current path; both counts are of this part."""

_ASK_EVERY: Final = 0.05


class Outcome(msgspec.Struct):
    """Counts of a part of a mirror; `looks` are those that got new metadata only.

    `vanished` are those of the `skipped` that are gone from the source. `size` is in bytes,
    `folders` are those that were made. `problems` is packed.
    """

    copied: int = 0
    updated: int = 0
    looks: int = 0
    skipped: int = 0
    vanished: int = 0
    failed: int = 0
    deleted: int = 0
    folders: int = 0
    folders_deleted: int = 0
    size: int = 0
    stopped: bool = False
    problems: bytes = b""

    @property
    def done(self) -> int:
        """The files that there is nothing left to do about."""
        return self.copied + self.updated + self.looks + self.failed

    @property
    def is_all_there(self) -> bool:
        """Whether nothing is missing that was to be copied."""
        return not (self.failed or self.vanished)


def sum_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Add the counts up; problems are left out."""
    total = Outcome()
    for name in total.__struct_fields__:
        if name != "problems":
            setattr(total, name, sum(getattr(outcome, name) for outcome in outcomes))
    total.stopped = bool(total.stopped)
    return total


class StoppedError(Exception):
    """Someone asked to stop in the middle of a file."""


class Account:
    """Takes down what a part does; `current` is the path at hand, `written` what it has so far."""

    def __init__(self, should_stop: ShouldStop, progress: Progress) -> None:
        self.outcome = Outcome()
        self.problems: list[Problem] = []
        self.current = b""
        self.written = 0
        self.should_stop = should_stop
        self._progress = progress
        self._ask_at = time.monotonic() + _ASK_EVERY

    def begin(self, path: bytes) -> None:
        """Turn to another path. Raises StoppedError."""
        self.current = path
        self.written = 0
        if time.monotonic() >= self._ask_at:
            self._ask()

    def ask(self, size: int) -> None:
        """Add bytes that were copied of the current path; tell now and then how far it is.

        Raises StoppedError.
        """
        self.written += size
        if time.monotonic() >= self._ask_at:
            self._ask()

    def _ask(self) -> None:
        self._ask_at = time.monotonic() + _ASK_EVERY
        if self.should_stop():
            raise StoppedError
        self._progress(self.outcome.done, self.outcome.size + self.written, self.current)

    def count(self, row: Row) -> None:
        """Count a row that was done."""
        outcome, what = self.outcome, row.what
        outcome.size += self.written
        if what == NEW:
            outcome.copied += 1
        elif what == UPDATE:
            outcome.updated += 1
        elif what == LOOKS:
            outcome.looks += 1

    def note(self, path: bytes, code: str, message: str) -> None:
        """Take down what is to be told of a path."""
        self.problems.append(Problem(os.fsdecode(path), code, message))

    def fail(self, code: str, message: str) -> None:
        """Take down what became of the current path, and count it."""
        self.note(self.current, code, message)
        if code in SKIPPED_CODES:
            self.outcome.skipped += 1
            self.outcome.vanished += code == VANISHED
        elif code not in NOTES:
            self.outcome.failed += 1

    def close(self) -> Outcome:
        """Give the counts and what is to be told."""
        self.outcome.problems = pack_problems(self.problems)
        self._progress(self.outcome.done, self.outcome.size, b"")
        return self.outcome
