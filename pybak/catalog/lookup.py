"""Find members: by a name that may be a part of theirs, by a path on disk, by their archive."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

from sqlalchemy import Connection
from sqlmodel import col, select

from pybak.catalog.engine import Database
from pybak.catalog.facts import ArchiveFacts, Version
from pybak.catalog.history import History
from pybak.catalog.models import PRESENT, Archive, Run, escaped, unescaped
from pybak.catalog.rows import stream
from pybak.entries import FOLDER


class Named(NamedTuple):
    """A member of a job's snapshots."""

    job: str
    path: bytes


def find_members(connection: Connection, name: bytes, *, folder: bytes) -> list[Named]:
    """Give the members of all jobs that are called `name`, or else what that may mean.

    Member names are the ends of paths on disk. So `name`, taken from `folder` if it is not
    absolute, is cut at its start until something is called so; if nothing is, members are given
    that end with it. A name alone never means only a part of the last name of a path.
    """
    wanted = name.strip(b"/")
    candidates = list(dict.fromkeys([wanted, *_ends(os.path.normpath(os.path.join(folder, name)))]))
    found = list(_query(connection, candidates, wanted))
    for candidate in candidates:
        if exact := [one for one in found if one.path == candidate]:
            return exact
    return [one for one in found if one.path.endswith(b"/" + wanted)]


def _ends(path: bytes) -> Iterator[bytes]:
    """Yield a path without its first folder, then without the second and so on."""
    rest = path.strip(b"/")
    while rest:
        yield rest
        _, _, rest = rest.partition(b"/")


def _query(connection: Connection, candidates: list[bytes], end: bytes) -> Iterator[Named]:
    marks = ", ".join("?" * len(candidates))
    tail = escaped(os.fsdecode(end))
    for sign in "!%_":
        tail = tail.replace(sign, "!" + sign)
    statement = (
        "SELECT DISTINCT job.name, path FROM file_version JOIN job ON job.id = job_id "  # noqa: S608
        f"WHERE path IN ({marks}) OR path LIKE ? ESCAPE '!' ORDER BY job.name, path"
    )
    names = [escaped(os.fsdecode(candidate)) for candidate in candidates]
    for job, path in stream(connection, statement, (*names, "%/" + tail)):
        yield Named(unescaped(job), os.fsencode(unescaped(path)))


def known_archives(database: Database, job: str | None) -> list[tuple[str, ArchiveFacts | None]]:
    """List the archives that backups made, of all jobs or one, the newest first.

    With each comes what the catalog knows of it; nothing where only the run was recorded. A run
    whose snapshot was removed names no archive, though others may need it.
    """
    stored = (
        select(Run.started_at, Run.seq, Archive.name, Archive.id)
        .join(Archive, col(Archive.run_id) == col(Run.run_id))
        .where(Run.kind == "backup", Archive.state == PRESENT)
    )
    bare = select(Run.started_at, Run.seq, Run.archive).where(
        Run.kind == "backup",
        col(Run.archive).is_not(None),
        col(Run.run_id).not_in(select(Archive.run_id)),
    )
    if job is not None:
        stored, bare = stored.where(Run.job == job), bare.where(Run.job == job)
    with database.session() as session:
        rows = [*session.exec(stored), *((*row, None) for row in session.exec(bare))]
    rows.sort(key=itemgetter(0, 1), reverse=True)
    facts = History(database).archives_by_id(row[3] for row in rows if row[3] is not None)
    by_id = {one.id: one for one in facts}
    return [(name, by_id.get(number)) for _, _, name, number in rows]


def members_of_archive(
    database: Database,
    archive_id: int,
    wants: Callable[[bytes, bool], bool],
    containing: Iterable[bytes] = (),
) -> Iterator[Version]:
    """Yield the members of an archive of which `wants` is True, by name, each once.

    So are later files that have only their content there. `wants` is given the name and whether it
    is a folder's; with `containing` it is only asked for names in which one of these stands.
    """
    fragments = tuple(escaped(os.fsdecode(fragment)) for fragment in containing)
    find = "strpos" if database.is_postgres else "instr"
    near = " OR ".join([f"{find}(path, ?) > 0"] * len(fragments))
    statement = (
        "SELECT path, kind, size, mtime_ns, mode, uid, gid, changed, sha256, first_seq, gone_seq, "  # noqa: S608 - our own words
        f"member FROM file_version WHERE archive_id = ?{f' AND ({near})' if near else ''} "
        "ORDER BY path, member IS NOT NULL, mtime_ns, first_seq"
    )
    last: tuple[str, int | None] | None = None
    with database.reading() as connection:
        for row in stream(connection, statement, (archive_id, *fragments)):
            path, kind, _, mtime, *_, member = row
            this = (path, None if member is None else mtime)
            if this == last:  # a later row of the same record
                continue
            last = this
            name = os.fsencode(unescaped(path))
            if wants(name, kind == FOLDER):
                size, mtime, mode, uid, gid, changed, sha256, first, gone = row[2:-1]
                yield Version(
                    name, kind, size, mtime, mode, uid, gid, bool(changed), sha256, (), archive_id,
                    first, gone, None if member is None else os.fsencode(unescaped(member)),
                )  # fmt: skip
