"""What differs between two snapshots, as the catalog knows their members."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, select
from sqlmodel import col

from pybak.catalog.engine import Database
from pybak.catalog.facts import Snapshot
from pybak.catalog.models import Job, unescaped
from pybak.catalog.rows import stream
from pybak.entries import FILE, FOLDER

ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"
METADATA: Final = "metadata"

_COLUMNS: Final = "path, kind, size, mtime_ns, mode, uid, gid, changed, sha256, parts, archive_id"
_IS_IN: Final = "(job_id = ? AND first_seq <= ? AND (gone_seq IS NULL OR gone_seq > ?))"


class Side(NamedTuple):
    """A member as one of the snapshots has it; `digests` are those of `pybak.catalog.facts`."""

    kind: str
    size: int
    mtime_ns: int
    mode: int
    uid: int
    gid: int
    changed: bool
    sha256: str | None
    parts: tuple[tuple[int, str], ...]
    archive_id: int


class Difference(NamedTuple):
    """A member that two snapshots do not both have as it is.

    `kind` is ADDED, REMOVED, CHANGED (another content, or another kind of file) or METADATA: mode,
    owner or time of an equal content. Of `before` and `after` at most one is None.
    """

    path: bytes
    kind: str
    before: Side | None
    after: Side | None


def differences(database: Database, before: Snapshot, after: Snapshot) -> Iterator[Difference]:
    """Yield what changed from one snapshot to another, by name; they may be of two jobs.

    The time of a folder is no difference: it moves with what lies in it. Raises CatalogError.
    """
    with database.reading() as connection:
        first, second = _place(connection, before), _place(connection, after)
        # What both have in the same row has not changed, which is nearly all within one job.
        statement = (
            f"SELECT {_COLUMNS}, CASE WHEN {_IS_IN} THEN 1 ELSE 0 END, "  # noqa: S608 - our names
            f"CASE WHEN {_IS_IN} THEN 1 ELSE 0 END FROM file_version "
            f"WHERE ({_IS_IN} OR {_IS_IN}) AND NOT ({_IS_IN} AND {_IS_IN})"
        )
        parameters: tuple[int, ...] = (first + second) * 3
        if first[0] == second[0]:
            statement += " AND job_id = ?"  # by its index the rows come in order
            parameters += first[:1]
        rows = stream(connection, statement + " ORDER BY path", parameters)
        for path, group in groupby(rows, key=itemgetter(0)):
            sides: list[Side | None] = [None, None]
            for row in group:
                side = _side(row[1:-2])
                for number in (0, 1):
                    if row[number - 2]:
                        sides[number] = side
            kind = _kind(*sides)
            if kind is not None:
                yield Difference(os.fsencode(unescaped(path)), kind, *sides)


def _place(connection: Connection, snapshot: Snapshot) -> tuple[int, int, int]:
    query = select(col(Job.id)).where(col(Job.name) == snapshot.job)
    number = connection.execute(query).scalar()
    return (-1 if number is None else number, snapshot.seq, snapshot.seq)


def _side(row: tuple[Any, ...]) -> Side:
    kind, size, mtime, mode, uid, gid, changed, sha256, parts, archive = row
    loaded = json.loads(parts) if isinstance(parts, str) else parts
    pairs = tuple((length, digest) for length, digest in loaded or ())
    return Side(kind, size, mtime, mode, uid, gid, bool(changed), sha256, pairs, archive)


def _kind(before: Side | None, after: Side | None) -> str | None:
    if before is None or after is None:
        return None if before is after else ADDED if before is None else REMOVED
    if before.kind != after.kind or not _is_same_content(before, after):
        return CHANGED
    is_same = (before.mode, before.uid, before.gid) == (after.mode, after.uid, after.gid)
    if is_same and (before.kind == FOLDER or before.mtime_ns == after.mtime_ns):
        return None
    return METADATA


def _is_same_content(before: Side, after: Side) -> bool:
    """Compare contents by digest; where there is none to compare, by size and time."""
    if before.kind == FOLDER:
        return True
    if before.size != after.size:
        return False
    if before.kind == FILE:
        if before.sha256 and after.sha256:
            return before.sha256 == after.sha256
        sizes = [[size for size, _ in side.parts] for side in (before, after)]
        if before.parts and sizes[0] == sizes[1]:
            return before.parts == after.parts
    return before.mtime_ns == after.mtime_ns and not (before.changed or after.changed)
