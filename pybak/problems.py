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
WRONG_PASSWORD: Final = "wrong_password"  # noqa: S105 - a code
"""An archive is encrypted, and the password is wrong or there is none."""
NOT_FOUND: Final = "not_found"
LOCKED: Final = "locked"
"""Another run was at work on the job."""
NO_MATCH: Final = "no_match"
"""An include pattern that matched nothing."""

VANISHED: Final = "vanished"
WAITING: Final = "waiting"
"""An inbox leaves a file for its next round."""
UNSUPPORTED: Final = "unsupported"
"""The archive format has no place for this kind of file."""
EXISTS: Final = "exists"
"""Restore left a file alone that was there already."""
DELETED: Final = "deleted"
"""What source or archive do not hold was removed, as it was asked for: a note, no problem."""
DELETE_LIMIT: Final = "delete_limit"
"""A mirror deleted nothing: it would have been more than it may, or not all was copied."""
ATTRIBUTES: Final = "attributes"
"""A file is in the archive without some of its extended attributes: a note, no problem."""
CHANGES_ONLY: Final = "changes_only"
"""The one archive that is restored holds what changed since another run: a note, no problem."""
UNSAVED: Final = frozenset({UNREADABLE, IO_ERROR, TYPE_CHANGED, SOURCE_MISSING})
"""What of its source a backup does not hold; the other errors are of copies, or of patterns."""
NOTES: Final = frozenset({DELETED, ATTRIBUTES, CHANGES_ONLY})
SKIPPED_CODES: Final = frozenset({VANISHED, UNSUPPORTED, EXISTS, WAITING})


class Problem(msgspec.Struct, frozen=True):
    """One path and what was wrong with it. `path` may hold surrogate escapes (PEP 383)."""

    path: str
    code: str
    message: str

    @property
    def is_skip(self) -> bool:
        """Whether this leaves the run complete."""
        return self.code in SKIPPED_CODES or self.code in NOTES


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write problems to `path`, one JSON object a line, replacing what was there."""
    with path.open("wb") as out:
        out.writelines(map(_line, problems))


def _line(problem: Problem) -> bytes:
    # The json module escapes what is no UTF-8 in a path; msgspec refuses it.
    return json.dumps(msgspec.structs.asdict(problem)).encode("ascii") + b"\n"


def pack_problems(problems: Iterable[Problem]) -> bytes:
    """Give problems as the bytes of what `write_problems` writes."""
    return b"".join(map(_line, problems))


def unpack_problems(lines: bytes) -> list[Problem]:
    """Give back what `pack_problems` took."""
    return [Problem(**json.loads(line)) for line in lines.splitlines()]


def read_problems(path: Path) -> Iterator[Problem]:
    """Yield the problems that `write_problems` wrote; a missing file holds none."""
    if not path.exists():
        return
    with path.open(encoding="ascii") as lines:
        for line in lines:
            yield Problem(**json.loads(line))
