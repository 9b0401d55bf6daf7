"""What an inbox run counts and names while it works; the report is made of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from pybak.problems import Problem
from pybak.report.inbox import InboxFile


@dataclass
class Tally:
    """The files of one run so far."""

    results: list[InboxFile] = field(default_factory=list)
    waiting: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)
    known: int = 0
    excluded: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0

    def count(self, status: str) -> int:
        """Give how many files came to `status`."""
        return sum(result.status == status for result in self.results)

    def wait(self, path: bytes, code: str, message: str) -> None:
        """Count a file that is left for the next round."""
        self.waiting.append(Problem(os.fsdecode(path), code, message))

    def fail(self, path: bytes, code: str, message: str) -> None:
        """Count a file that failed."""
        self.failed.append(Problem(os.fsdecode(path), code, message))
