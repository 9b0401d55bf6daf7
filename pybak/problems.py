"""Files that a run could not take as they are: what happened to which path.

A *failed* file makes a run partial. A *skipped* one (it vanished, or the format can't hold
it) is named and counted but changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

UNREADABLE: Final = "unreadable"
IO_ERROR: Final = "io_error"
CHANGED: Final = "changed"
TYPE_CHANGED: Final = "type_changed"
SOURCE_MISSING: Final = "source_missing"
STORAGE: Final = "storage"
DAMAGED: Final = "damaged"
NO_MATCH: Final = "no_match"
"""An include pattern that matched nothing."""

VANISHED: Final = "vanished"
UNSUPPORTED: Final = "unsupported"
"""The archive format has no place for this kind of file."""
EXISTS: Final = "exists"
"""Restore left a file alone that was there already."""
SKIPPED_CODES: Final = frozenset({VANISHED, UNSUPPORTED, EXISTS})


class Problem(msgspec.Struct, frozen=True):
    """One path and what was wrong with it. `path` may hold surrogate escapes (PEP 383)."""

    path: str
    code: str
    message: str

    @property
    def is_skip(self) -> bool:
        """Whether this leaves the run complete."""
        return self.code in SKIPPED_CODES


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write problems to `path`, one JSON object a line, replacing what was there."""
    with path.open("w", encoding="ascii") as out:
        for problem in problems:
            record = {"path": problem.path, "code": problem.code, "message": problem.message}
            out.write(json.dumps(record) + "\n")


def read_problems(path: Path) -> Iterator[Problem]:
    """Yield the problems that `write_problems` wrote; a missing file holds none."""
    if not path.exists():
        return
    with path.open(encoding="ascii") as lines:
        for line in lines:
            yield Problem(**json.loads(line))
