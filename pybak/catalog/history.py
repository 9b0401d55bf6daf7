"""Read what the catalog knows: snapshots, what they hold, and which archives they need."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Select
from sqlmodel import col, select

from pybak.catalog.engine import Database
from pybak.catalog.models import DELETING, Archive, FileError, Job, Run, Volume, escaped, unescaped
from pybak.catalog.rows import Row, stream
from pybak.catalog.snapshots import FULL
from pybak.report.status import PARTIAL, SUCCESS

Digest = tuple[str | None, tuple[tuple[int, str], ...]]
"""SHA-256 in hex, or of a large file size and SHA-256 of each part."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a job's files that one backup run recorded. Times are aware, in UTC."""

    run_id: str
    job: str
    seq: int
    status: str
    mode: str
    started_at: datetime
    finished_at: datetime | None = None
    archive: str | None = None
    base_run: str | None = None
    full_run: str | None = None
    tags: tuple[str, ...] = ()
    counts: dict[str, Any] = {}


class StoredVolume(msgspec.Struct, frozen=True):
    """A file of an archive; `parts` are sizes in bytes and SHA-256 of runs of a large one."""

    uri: str
    size: int
    sha256: str | None
    parts: tuple[tuple[int, str], ...] = ()


class ArchiveFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An archive of the catalog. `is_leaving` once its removal is decided."""

    id: int
    run_id: str
    job: str
    name: str
    format: str
    encrypted: bool
    size: int
    members: int
    is_leaving: bool
    volumes: tuple[StoredVolume, ...] = ()


class Version(NamedTuple):
    """A member as some snapshots have it: from `first_seq` to before `gone_seq`."""

    path: bytes
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
    first_seq: int
    gone_seq: int | None


VERSION_COLUMNS = (
    "path, kind, size, mtime_ns, mode, uid, gid, changed, sha256, parts, archive_id, first_seq, "
    "gone_seq"
)
_IDS_AT_ONCE = 500
_IN_SNAPSHOT = "job_id = ? AND first_seq <= ? AND (gone_seq IS NULL OR gone_seq > ?)"


class History:
    """The catalog read as a history of snapshots."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def database(self) -> Database:
        """Where it is read from."""
        return self._database

    def snapshots(self, job: str | None = None) -> list[Snapshot]:
        """List the snapshots of a job, or of all, the oldest first."""
        query = _snapshots()
        if job is not None:
            query = query.where(Run.job == job)
        return self._of(query.order_by(col(Run.job), col(Run.seq)))

    def jobs(self) -> list[str]:
        """List the names of all jobs that have a snapshot."""
        with self._session() as session:
            query = select(Run.job).where(col(Run.is_snapshot)).distinct()
            return sorted(session.exec(query))

    def newest(self, job: str, *, mode: str | None = None) -> Snapshot | None:
        """Give the newest snapshot of a job, or the newest that was made in one mode."""
        query = _snapshots().where(Run.job == job)
        if mode is not None:
            query = query.where(Run.mode == mode)
        return _first(self._of(query.order_by(col(Run.seq).desc()).limit(1)))

    def newest_full(self, job: str) -> Snapshot | None:
        """Give the newest snapshot of a job that is the difference to none."""
        return self.newest(job, mode=FULL)

    def at(self, job: str, moment: datetime) -> Snapshot | None:
        """Give the newest snapshot of a job that was begun at `moment` (aware) or before."""
        when = moment.astimezone(UTC)
        query = _snapshots().where(Run.job == job, col(Run.started_at) <= when)
        order = (col(Run.started_at).desc(), col(Run.seq).desc())
        return _first(self._of(query.order_by(*order).limit(1)))

    def found_by(self, job: str, seq: int) -> Snapshot | None:
        """Give the snapshot that the run `seq` of a job found unchanged; None if it was removed."""
        query = (
            select(Run)
            .where(Run.job == job, Run.kind == "backup", Run.seq < seq)
            .where(col(Run.status).in_((SUCCESS, PARTIAL)))
        )
        with self._session() as session:
            run = session.exec(query.order_by(col(Run.seq).desc()).limit(1)).first()
        return _snapshot(run) if run is not None and run.is_snapshot else None

    def find(self, run: str) -> list[Snapshot]:
        """Give the snapshots of the run with this id, or of all whose id starts like this."""
        exact = self._of(_snapshots().where(Run.run_id == run))
        if exact or not run:
            return exact
        starts = col(Run.run_id).startswith(run, autoescape=True)
        return self._of(_snapshots().where(starts).order_by(col(Run.started_at)))

    def recorded(self, run_id: str) -> Snapshot | None:
        """Give what a run recorded, also where its snapshot was removed since."""
        query = select(Run).where(Run.run_id == run_id, col(Run.mode).is_not(None))
        return _first(self._of(query))

    def archives(self, snapshot: Snapshot) -> list[ArchiveFacts]:
        """List the archives that hold what is in a snapshot, in the order they were made."""
        statement = f"SELECT DISTINCT archive_id FROM file_version WHERE {_IN_SNAPSHOT}"  # noqa: S608
        with self._database.reading() as connection:
            place = self._place(connection, snapshot)
            ids = [row[0] for row in stream(connection, statement, place)] if place else []
        return self.archives_by_id(ids)

    def archives_of_job(self, job: str) -> list[ArchiveFacts]:
        """List all archives of a job, in the order they were made."""
        with self._session() as session:
            ids = session.exec(select(Archive.id).where(Archive.job == job)).all()
        return self.archives_by_id(number for number in ids if number is not None)

    def archives_by_id(self, ids: Iterable[int]) -> list[ArchiveFacts]:
        """Give these archives with their volumes, in the order they were made."""
        wanted = sorted(set(ids))
        volumes: dict[int, list[StoredVolume]] = defaultdict(list)
        archives: list[Archive] = []
        with self._session() as session:
            for at in range(0, len(wanted), _IDS_AT_ONCE):
                some = wanted[at : at + _IDS_AT_ONCE]
                known = select(Volume).where(col(Volume.archive_id).in_(some))
                for row in session.exec(known.order_by(col(Volume.number))):
                    parts = tuple((size, digest) for size, digest in row.parts or ())
                    facts = StoredVolume(row.uri, row.size, row.sha256, parts)
                    volumes[row.archive_id].append(facts)
                query = select(Archive).where(col(Archive.id).in_(some))
                archives += session.exec(query.order_by(col(Archive.id)))
        return [
            ArchiveFacts(
                id=row.id, run_id=row.run_id, job=row.job, name=row.name, format=row.format,
                encrypted=row.encrypted, size=row.size, members=row.members,
                is_leaving=row.state == DELETING, volumes=tuple(volumes[row.id]),
            )
            for row in archives
            if row.id is not None
        ]  # fmt: skip

    def needs(self, snapshots: Iterable[Snapshot]) -> dict[str, frozenset[int]]:
        """Give, by run id, the numbers of the archives that each snapshot needs.

        One pass over the versions of each job, however many snapshots there are.
        """
        by_job: dict[str, list[Snapshot]] = defaultdict(list)
        for snapshot in snapshots:
            by_job[snapshot.job].append(snapshot)
        statement = (
            "SELECT archive_id, first_seq, gone_seq FROM file_version WHERE job_id = ? "
            "GROUP BY archive_id, first_seq, gone_seq"
        )
        found: dict[str, frozenset[int]] = {}
        with self._database.reading() as connection:
            for job, members in by_job.items():
                number = _job_id(connection, job)
                spans = list(stream(connection, statement, (number,)))
                for snapshot in members:
                    seq = snapshot.seq
                    found[snapshot.run_id] = frozenset(
                        archive
                        for archive, first, gone in spans
                        if first <= seq and (gone is None or gone > seq)
                    )
        return found

    def states(self, snapshot: Snapshot) -> Iterator[Row]:
        """Yield every member of a snapshot as comparing needs it, in no order.

        A row is the name, kind, size, mtime_ns, ctime_ns, inode and device (as stored, see
        `pybak.catalog.rows.wrapped`), mode, uid, gid, changed, the number of the run that
        recorded it, and what `digests` takes.
        """
        statement = (
            "SELECT path, kind, size, mtime_ns, ctime_ns, inode, device, mode, uid, gid, "  # noqa: S608 - our own names
            f"changed, first_seq, id FROM file_version WHERE {_IN_SNAPSHOT}"
        )
        with self._database.reading() as connection:
            if place := self._place(connection, snapshot):
                for row in stream(connection, statement, place):
                    yield (os.fsencode(unescaped(row[0])), *row[1:])

    def starts(self, job: str) -> dict[int, datetime]:
        """Give when each run of a job that recorded something began, by its number.

        Runs that found nothing new are left out: a short schedule makes hundreds a day.
        """
        query = select(Run.seq, Run.started_at).where(Run.job == job, col(Run.mode).is_not(None))
        with self._session() as session:
            return dict(session.exec(query).all())

    def digests(self, ids: Iterable[int]) -> dict[int, Digest]:
        """Give the SHA-256 of versions, or that of each of their parts, by what `states` gave."""
        found = {}
        with self._database.reading() as connection:
            for ident in ids:
                statement = "SELECT sha256, parts FROM file_version WHERE id = ?"
                for sha256, parts in stream(connection, statement, (ident,)):
                    found[ident] = (sha256, _parts(parts))
        return found

    def versions(self, snapshot: Snapshot) -> Iterator[Version]:
        """Yield every member of a snapshot by name."""
        statement = f"SELECT {VERSION_COLUMNS} FROM file_version WHERE {_IN_SNAPSHOT} ORDER BY path"  # noqa: S608
        with self._database.reading() as connection:
            if place := self._place(connection, snapshot):
                yield from map(version_of, stream(connection, statement, place))

    def names(
        self, snapshot: Snapshot, containing: Iterable[bytes] = ()
    ) -> Iterator[tuple[bytes, int]]:
        """Yield the name of every member of a snapshot and its archive's number, in no order.

        With `containing` only names in which one of these stands.
        """
        statement = f"SELECT path, archive_id FROM file_version WHERE {_IN_SNAPSHOT}"  # noqa: S608
        fragments = tuple(escaped(os.fsdecode(fragment)) for fragment in containing)
        find = "strpos" if self._database.is_postgres else "instr"
        if fragments:
            statement += f" AND ({' OR '.join([f'{find}(path, ?) > 0'] * len(fragments))})"
        with self._database.reading() as connection:
            if place := self._place(connection, snapshot):
                for path, archive in stream(connection, statement, place + fragments):
                    yield os.fsencode(unescaped(path)), archive

    def versions_of(self, path: bytes, job: str | None = None) -> list[tuple[str, Version]]:
        """List all versions of the member `path`, with their job, the oldest first."""
        statement = (
            f"SELECT (SELECT name FROM job WHERE job.id = job_id), {VERSION_COLUMNS} "  # noqa: S608
            "FROM file_version WHERE path = ? ORDER BY job_id, first_seq"
        )
        with self._database.reading() as connection:
            rows = stream(connection, statement, (escaped(os.fsdecode(path)),))
            found = [(unescaped(row[0]), version_of(row[1:])) for row in rows]
        return [(name, version) for name, version in found if job in (None, name)]

    def all_versions(self, job: str) -> Iterator[Version]:
        """Yield every version of every member of a job, by name, the oldest first."""
        statement = (
            f"SELECT {VERSION_COLUMNS} FROM file_version WHERE job_id = ? "  # noqa: S608
            "ORDER BY path, first_seq"
        )
        with self._database.reading() as connection:
            number = _job_id(connection, job)
            yield from map(version_of, stream(connection, statement, (number,)))

    def gone_since(self, full_seq: int, snapshot: Snapshot) -> Iterator[bytes]:
        """Yield the names that archives since the run `full_seq` hold and a snapshot lacks."""
        statement = (
            "SELECT DISTINCT path FROM file_version WHERE job_id = ? AND first_seq >= ? "  # noqa: S608 - our own names
            f"AND first_seq <= ? EXCEPT SELECT path FROM file_version WHERE {_IN_SNAPSHOT}"
        )
        with self._database.reading() as connection:
            if place := self._place(connection, snapshot):
                since = (place[0], full_seq, snapshot.seq)
                for (path,) in stream(connection, statement, since + place):
                    yield os.fsencode(unescaped(path))

    def errors(self, run_id: str) -> list[FileError]:
        """List what a run could not save."""
        with self._session() as session:
            query = select(FileError).where(FileError.run_id == run_id)
            return list(session.exec(query.order_by(col(FileError.id))))

    def _session(self) -> Any:
        return self._database.session()

    def _of(self, query: Select[Any]) -> list[Snapshot]:
        with self._session() as session:
            return [_snapshot(run) for run in session.exec(query)]

    def _place(self, connection: Connection, snapshot: Snapshot) -> tuple[int, int, int] | None:
        number = _job_id(connection, snapshot.job)
        return (number, snapshot.seq, snapshot.seq) if number is not None else None


def _snapshots() -> Any:
    return select(Run).where(col(Run.is_snapshot))


def _snapshot(run: Run) -> Snapshot:
    return Snapshot(
        run_id=run.run_id, job=run.job, seq=run.seq, status=run.status, mode=run.mode or FULL,
        started_at=run.started_at,
        finished_at=run.finished_at,
        archive=run.archive, base_run=run.base_run, full_run=run.full_run,
        tags=tuple(run.tags), counts=dict(run.counts),
    )  # fmt: skip


def _first(found: list[Snapshot]) -> Snapshot | None:
    return found[0] if found else None


def _job_id(connection: Connection, name: str) -> int | None:
    query = select(Job.id).where(Job.name == name)
    number: int | None = connection.execute(query).scalar()
    return number


def _parts(value: Any) -> tuple[tuple[int, str], ...]:
    """Give parts as the drivers hand them out: SQLite as text, PostgreSQL as lists."""
    if not value:
        return ()
    loaded = json.loads(value) if isinstance(value, str) else value
    return tuple((size, digest) for size, digest in loaded)


def version_of(row: Row) -> Version:
    """Give the version that a row of VERSION_COLUMNS tells."""
    path, kind, size, mtime, mode, uid, gid, changed, sha256, parts, archive, first, gone = row
    return Version(
        os.fsencode(unescaped(path)), kind, size, mtime, mode, uid, gid, bool(changed), sha256,
        _parts(parts), archive, first, gone,
    )  # fmt: skip
