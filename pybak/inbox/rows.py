"""A row of the table `processed_file` as values: a file on its way, and one that was stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from pybak.catalog.rows import clamped, unwrapped, wrapped
from pybak.inbox import states
from pybak.inbox.encode import Read
from pybak.inbox.found import Found, hidden_name

_AT_ONCE: Final = 500
"""Parameters of a statement; old SQLites take 999."""


class Intent(msgspec.Struct, frozen=True):
    """A row that is not at its end: what its file looked like, and where it goes.

    `row` is 0 before it is written. `name` is empty for one that is discarded.
    """

    found: Found
    name: str
    destination: str
    also: tuple[str, ...]
    format: str
    encrypted: bool
    kept: bool
    state: str = states.PLANNED
    row: int = 0
    sha256: str | None = None
    stored_size: int | None = None
    stored_sha256: str | None = None
    run_id: str = ""

    @property
    def hidden(self) -> bytes:
        """What the file is called while it is taken, without its folder."""
        return hidden_name(self.run_id, os.path.basename(self.found.path))

    @property
    def places(self) -> tuple[str, ...]:
        """All the places that it goes to."""
        return (self.destination, *self.also)

    @property
    def expected(self) -> Read:
        """What lies at its places, once it is made."""
        return Read(self.stored_size or 0, self.stored_sha256 or "")

    @property
    def as_stored(self) -> Stored:
        """What others of its content repeat, once it is made."""
        return Stored(
            self.row, self.found.path, self.name, self.found.size, self.sha256 or "", self.expected
        )


class Stored(msgspec.Struct, frozen=True):
    """A file that was stored before: its row, its path in its inbox, its name at the destination.

    `size` and `sha256` are what it had in the inbox, `expected` what lies at the destination.
    `is_itself` says of a file that it is this one: it was stored before, and kept then.
    """

    row: int
    path: bytes
    name: str
    size: int
    sha256: str
    expected: Read
    is_itself: bool = False


def name_key(name: str) -> str:
    """Give by what a name is found: PostgreSQL has no index of long ones."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def values_of(intent: Intent) -> dict[str, Any]:
    """Give the columns of an intent that tell what its file is and where it goes."""
    found = intent.found
    return {
        "path": os.fsdecode(found.path), "size": found.size, "mtime_ns": clamped(found.mtime_ns),
        "ctime_ns": clamped(found.ctime_ns), "inode": wrapped(found.inode),
        "device": wrapped(found.device), "mode": found.mode, "destination": intent.destination,
        "also": list(intent.also), "name": intent.name, "name_key": name_key(intent.name),
        "format": intent.format, "encrypted": intent.encrypted, "state": intent.state,
        "kept": intent.kept,
    }  # fmt: skip


def intent_of(row: Any) -> Intent:
    """Give the intent of a whole row."""
    found = Found(
        os.fsencode(row.path), row.size, row.mtime_ns, row.ctime_ns, unwrapped(row.inode),
        unwrapped(row.device), row.mode,
    )  # fmt: skip
    return Intent(
        found=found, name=row.name or "", destination=row.destination, also=tuple(row.also or ()),
        format=row.format, encrypted=bool(row.encrypted), kept=bool(row.kept), state=row.state,
        row=row.id, sha256=row.sha256, stored_size=row.stored_size,
        stored_sha256=row.stored_sha256, run_id=row.run_id,
    )  # fmt: skip


def stored_columns(table: Any) -> tuple[Any, ...]:
    """Give the columns that `stored_of` takes."""
    return (
        table.id, table.path, table.name, table.size, table.sha256, table.stored_size,
        table.stored_sha256,
    )  # fmt: skip


def stored_of(columns: Any) -> Stored:
    """Give what was stored of a file."""
    row, path, name, size, sha256, stored_size, stored_sha256 = columns
    expected = Read(stored_size or 0, stored_sha256 or "")
    return Stored(row, os.fsencode(path), name, size, sha256 or "", expected)


def chunks(items: Sequence[Any]) -> Iterable[list[Any]]:
    """Cut what a statement asks for into as much as it can take."""
    iterator = iter(items)
    while some := list(islice(iterator, _AT_ONCE)):
        yield some
