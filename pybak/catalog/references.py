"""What a snapshot's members are made of, told so that later archives can refer to it.

A reference names a run, whose archive holds the content, and the member there
(`pybak.formats.manifest.Reference`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, select
from sqlmodel import col

from pybak.catalog.engine import Database
from pybak.catalog.facts import Digest, Snapshot
from pybak.catalog.models import Archive, escaped, unescaped
from pybak.catalog.rows import Row, by_name, stream, unwrapped
from pybak.entries import FILE
from pybak.formats.manifest import Reference

_NAMES_AT_ONCE: Final = 500
_JOB: Final = "(SELECT id FROM job WHERE name = ?)"
_IN_SNAPSHOT: Final = "first_seq <= ? AND (gone_seq IS NULL OR gone_seq > ?)"


class Content(NamedTuple):
    """A file's content: its size in bytes, its digest, and where it lies."""

    size: int
    digest: Digest
    run_id: str
    member: bytes


def contents(database: Database, snapshot: Snapshot, sizes: AbstractSet[int]) -> Iterator[Content]:
    """Yield the contents of the files of a snapshot that have one of these sizes, by name.

    Those that moved while they were read are left out.
    """
    statement = (
        "SELECT size, sha256, parts, archive_id, COALESCE(member, path) FROM file_version "  # noqa: S608 - our own words
        f"WHERE job_id = {_JOB} AND {_IN_SNAPSHOT} AND kind = ? AND NOT changed ORDER BY path"
    )
    with database.reading() as connection:
        runs = _runs(connection, snapshot.job)
        for size, sha256, parts, archive, member in stream(
            connection, statement, (*_place(snapshot), FILE)
        ):
            if size in sizes and (sha256 or parts) and archive in runs:
                yield Content(
                    size, (sha256, tuple(_parts(parts))), runs[archive],
                    os.fsencode(unescaped(member)),
                )  # fmt: skip


def references(
    database: Database, snapshot: Snapshot, names: Iterable[bytes]
) -> Iterator[Reference]:
    """Yield what a later snapshot says that has these members as this one has them."""
    texts = (escaped(os.fsdecode(name)) for name in names)
    with database.reading() as connection:
        named = by_name(connection)
        head = (
            "SELECT path, kind, size, mtime_ns, ctime_ns, inode, device, mode, uid, gid, changed, "  # noqa: S608 - our own words
            f"sha256, parts, member, archive_id FROM {named.table} WHERE {named.job_id} = {_JOB} "
            f"AND {_IN_SNAPSHOT} AND path IN"
        )
        runs = _runs(connection, snapshot.job)
        while chunk := tuple(islice(texts, _NAMES_AT_ONCE)):
            statement = f"{head} ({', '.join('?' * len(chunk))}) ORDER BY path"
            for row in stream(connection, statement, (*_place(snapshot), *chunk)):
                if row[-1] in runs:
                    yield _reference(row, runs[row[-1]])


def _reference(row: Row, run: str) -> Reference:
    path, kind, size, mtime, ctime, inode, device, mode, uid, gid, changed, *rest = row
    sha256, parts, member, _ = rest
    return Reference(
        path=unescaped(path), type=kind, size=size, mtime_ns=mtime, ctime_ns=ctime,
        inode=unwrapped(inode), mode=mode, uid=uid, gid=gid, run=run,
        member=None if member is None else unescaped(member), sha256=sha256, parts=_parts(parts),
        changed=bool(changed), dev=None if device is None else unwrapped(device),
    )  # fmt: skip


def other_versions(
    database: Database, snapshot: Snapshot, older: Snapshot
) -> Iterator[tuple[bytes, Row | None]]:
    """Yield each member of which two snapshots of a job have different versions.

    With its name comes what `older` has: kind, size, mtime_ns, ctime_ns, inode, device, mode, uid,
    gid and changed, as `History.states` gives them; None where it has none.
    """
    columns = "path, kind, size, mtime_ns, ctime_ns, inode, device, mode, uid, gid, changed"
    statement = (
        f"SELECT {columns} FROM file_version WHERE job_id = {_JOB} AND {_IN_SNAPSHOT} "  # noqa: S608 - our own words
        f"AND NOT ({_IN_SNAPSHOT})"
    )
    job, seq, _ = _place(snapshot)
    with database.reading() as connection:
        known: set[str] = set()
        for row in stream(connection, statement, (job, older.seq, older.seq, seq, seq)):
            known.add(row[0])
            yield os.fsencode(unescaped(row[0])), row[1:]
        for path, *_ in stream(connection, statement, (job, seq, seq, older.seq, older.seq)):
            if path not in known:
                yield os.fsencode(unescaped(path)), None


def archive_names(database: Database, job: str) -> dict[str, str]:
    """Give by run what the archives of a job are called, without their folders."""
    query = select(Archive.run_id, Archive.name)  # type: ignore[call-overload]
    with database.reading() as connection:
        rows = connection.execute(query.where(col(Archive.job) == job).order_by(Archive.id)).all()
    return {run: os.path.basename(name) for run, name in rows}


def _place(snapshot: Snapshot) -> tuple[str, int, int]:
    return escaped(snapshot.job), snapshot.seq, snapshot.seq


def _runs(connection: Connection, job: str) -> dict[int, str]:
    query = select(Archive.id, Archive.run_id)  # type: ignore[call-overload]
    return {row[0]: row[1] for row in connection.execute(query.where(col(Archive.job) == job))}


def _parts(value: Any) -> list[tuple[int, str]]:
    """Give parts as the drivers hand them out: SQLite as text, PostgreSQL as lists."""
    loaded = json.loads(value) if isinstance(value, str) else value
    return [(size, digest) for size, digest in loaded or ()]
