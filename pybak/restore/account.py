"""What came of the members of a batch so far: counts, problems, and whether to go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from pybak.entries import FOLDER
from pybak.problems import Problem
from pybak.restore.items import Item
from pybak.restore.outcome import Outcome

ShouldStop = Callable[[], bool]
Progress = Callable[[int, int, bytes], None]
"""Called with files done, bytes written and the current name; both counts are of this batch."""

_ASK_EVERY = 0.05  # seconds between two looks at the cancel check and two progress reports


class Stopped(Exception):  # noqa: N818 - not an error
    """Someone asked to stop in the middle of a member."""


class Account:
    """Counts members and bytes, and takes down problems."""

    def __init__(self, should_stop: ShouldStop | None, progress: Progress | None) -> None:
        self._should_stop = should_stop
        self._progress = progress
        self._asked_at = time.monotonic()
        self.problems: list[Problem] = []
        self.restored = self.skipped = self.failed = self.size = self.deleted = 0
        self.stopped = False

    @property
    def _done(self) -> int:
        return self.restored + self.skipped + self.failed

    def ask(self, item: Item) -> None:
        """Tell how far it is, now and then, and raise Stopped if someone asked to stop."""
        now = time.monotonic()
        if now - self._asked_at >= _ASK_EVERY or not self._done:
            self._asked_at = now
            if self._should_stop and self._should_stop():
                raise Stopped
            if self._progress:
                self._progress(self._done, self.size, item.path)

    def note(self, item: Item, code: str, message: str) -> None:
        """Take down a problem."""
        self.problems.append(Problem(os.fsdecode(item.path), code, message))

    def fail(self, item: Item, code: str, message: str) -> None:
        """Take down why a member was not restored."""
        self.note(item, code, message)
        if item.kind != FOLDER:
            self.failed += 1

    def outcome(self, problems_file: Path) -> Outcome:
        """Tell the end, unless it was stopped, and give the counts."""
        if self._progress and not self.stopped:
            self._progress(self._done, self.size, b"")
        return Outcome(
            self.restored, self.skipped, self.failed, self.size, self.stopped, problems_file,
            self.deleted,
        )  # fmt: skip
