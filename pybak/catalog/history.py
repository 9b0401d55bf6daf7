"""Read what the catalog knows: snapshots, what they hold, and which archives they need."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select
from sqlmodel import Session, col, select

from pybak.catalog.engine import Database
from pybak.catalog.facts import (
    VERSION_COLUMNS,
    ArchiveFacts,
    CopyFacts,
    Digest,
    Snapshot,
    StoredVolume,
    Version,
    parts_of,
    version_of,
)
from pybak.catalog.models import (
    DELETING,
    Archive,
    ArchiveCopy,
    CopyVolume,
    FileError,
    Job,
    Run,
    Volume,
    escaped,
    unescaped,
)
from pybak.catalog.needs import read_needs
from pybak.catalog.rows import Row, by_name, stream
from pybak.catalog.snapshots import FULL
from pybak.problems import STORAGE
from pybak.report.status import PARTIAL, SUCCESS

_IDS_AT_ONCE = 500
_MOST_FRAGMENTS = 200
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
        """Give the newest snapshot of a job that was begun at `moment` (aware) or before.

        A whole second is its end, so that the time of a snapshot as it is shown means that one.
        """
        when = moment.astimezone(UTC)
        if not when.microsecond:
            when = when.replace(microsecond=999_999)
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
        """List the archives that a snapshot needs, in the order they were made.

        They hold its members, or tell of them (`pybak.catalog.needs`).
        """
        return self.archives_by_id(self.needs([snapshot])[snapshot.run_id])

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
        copies: dict[int, list[CopyFacts]] = defaultdict(list)
        with self._session() as session:
            for at in range(0, len(wanted), _IDS_AT_ONCE):
                some = wanted[at : at + _IDS_AT_ONCE]
                known = select(Volume).where(col(Volume.archive_id).in_(some))
                for row in session.exec(known.order_by(col(Volume.number))):
                    volumes[row.archive_id].append(_volume(row))
                for copy, facts in _copies(session, some):
                    copies[copy].append(facts)
                query = select(Archive).where(col(Archive.id).in_(some))
                archives += session.exec(query.order_by(col(Archive.id)))
        return [
            ArchiveFacts(
                id=row.id, run_id=row.run_id, job=row.job, name=row.name, format=row.format,
                encrypted=row.encrypted, size=row.size, members=row.members,
                is_leaving=row.state == DELETING, volumes=tuple(volumes[row.id]),
                copies=tuple(copies[row.id]),
            )
            for row in archives
            if row.id is not None
        ]  # fmt: skip

    def needs(self, snapshots: Iterable[Snapshot]) -> dict[str, frozenset[int]]:
        """Give, by run id, the numbers of the archives that each snapshot needs.

        For a few snapshots: a set for each of many takes too much memory (`pybak.catalog.needs`).
        """
        by_job: dict[str, list[Snapshot]] = defaultdict(list)
        for snapshot in snapshots:
            by_job[snapshot.job].append(snapshot)
        found: dict[str, frozenset[int]] = {}
        with self._database.reading() as connection:
            for job, members in by_job.items():
                needs = read_needs(connection, job)
                for one in members:
                    found[one.run_id] = needs.of(one.seq)
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
                    found[ident] = (sha256, parts_of(parts))
        return found

    def versions(self, snapshot: Snapshot) -> Iterator[Version]:
        """Yield every member of a snapshot by name."""
        statement = f"SELECT {VERSION_COLUMNS} FROM file_version WHERE {_IN_SNAPSHOT} ORDER BY path"  # noqa: S608
        with self._database.reading() as connection:
            if place := self._place(connection, snapshot):
                yield from map(version_of, stream(connection, statement, place))

    def names(
        self, snapshot: Snapshot, containing: Iterable[bytes] = ()
    ) -> Iterator[tuple[bytes, int, bool]]:
        """Yield the name of every member of a snapshot and its archive's number, in no order.

        The last value tells whether only its content is there (`references`). With `containing`
        only names in which one of these stands, or more, if these are very many.
        """
        statement = (
            "SELECT path, archive_id, member IS NOT NULL "  # noqa: S608 - our own names
            f"FROM file_version WHERE {_IN_SNAPSHOT}"
        )
        fragments = tuple(escaped(os.fsdecode(fragment)) for fragment in containing)
        find = "strpos" if self._database.is_postgres else "instr"
        if len(fragments) > _MOST_FRAGMENTS:  # SQLite takes no statement so deep
            fragments = ()
        if fragments:
            statement += f" AND ({' OR '.join([f'{find}(path, ?) > 0'] * len(fragments))})"
        with self._database.reading() as connection:
            if place := self._place(connection, snapshot):
                for path, archive, is_reference in stream(connection, statement, place + fragments):
                    yield os.fsencode(unescaped(path)), archive, bool(is_reference)

    def references(self, snapshot: Snapshot) -> Iterator[Version]:
        """Yield the members of a snapshot that have only their content in an archive, by name."""
        statement = (
            f"SELECT {VERSION_COLUMNS} FROM file_version "  # noqa: S608 - our own names
            f"WHERE {_IN_SNAPSHOT} AND member IS NOT NULL ORDER BY path"
        )
        with self._database.reading() as connection:
            if place := self._place(connection, snapshot):
                yield from map(version_of, stream(connection, statement, place))

    def made_by(self, job: str) -> dict[int, tuple[int, str]]:
        """Give the archive that each run of a job made, and the run's id, by the run's number."""
        runs = select(Run.run_id, Run.seq).where(Run.job == job, col(Run.mode).is_not(None))
        made = select(Archive.id, Archive.run_id).where(
            Archive.job == job, Archive.state != DELETING
        )
        with self._session() as session:
            seqs = dict(session.exec(runs).all())
            found = [(number, run) for number, run in session.exec(made) if number is not None]
        return {seqs[run]: (number, run) for number, run in found if run in seqs}

    def versions_of(self, path: bytes, job: str | None = None) -> list[tuple[str, Version]]:
        """List all versions of the member `path`, with their job, the oldest first."""
        with self._database.reading() as connection:
            named = by_name(connection)
            statement = (
                f"SELECT (SELECT name FROM job WHERE job.id = job_id), {VERSION_COLUMNS} "  # noqa: S608
                f"FROM {named.table} WHERE {named.job_id} IN (SELECT id FROM job) AND path = ? "
                "ORDER BY job_id, first_seq"
            )
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

    def lack(self, snapshot: Snapshot) -> str | None:
        """Say what a snapshot lacks since the catalog was made anew; None if nothing.

        A rebuild that misses an archive leaves that with the run's own.
        """
        found = self.errors(snapshot.run_id)
        own = (one for one in found if one.code == STORAGE and one.path == snapshot.archive)
        return next((one.message for one in own), None)

    def _session(self) -> Any:
        return self._database.session()

    def _of(self, query: Select[Any]) -> list[Snapshot]:
        with self._session() as session:
            return [_snapshot(run) for run in session.exec(query)]

    def _place(self, connection: Connection, snapshot: Snapshot) -> tuple[int, int, int] | None:
        number = _job_id(connection, snapshot.job)
        return (number, snapshot.seq, snapshot.seq) if number is not None else None


def _volume(row: Volume | CopyVolume) -> StoredVolume:
    parts = tuple((size, digest) for size, digest in row.parts or ())
    return StoredVolume(row.uri, row.size, row.sha256, parts)


def _copies(session: Session, archives: list[int]) -> Iterator[tuple[int, CopyFacts]]:
    """Yield the further places of archives, each with the archive's number."""
    query = select(ArchiveCopy).where(col(ArchiveCopy.archive_id).in_(archives))
    copies = session.exec(query.order_by(col(ArchiveCopy.id))).all()
    numbers = [copy.id for copy in copies]
    volumes: dict[int, list[StoredVolume]] = defaultdict(list)
    for at in range(0, len(numbers), _IDS_AT_ONCE):
        known = select(CopyVolume).where(
            col(CopyVolume.copy_id).in_(numbers[at : at + _IDS_AT_ONCE])
        )
        for row in session.exec(known.order_by(col(CopyVolume.number))):
            volumes[row.copy_id].append(_volume(row))
    for copy in copies:
        if copy.id is not None:
            yield (
                copy.archive_id,
                CopyFacts(
                    id=copy.id, name=copy.name, is_leaving=copy.state == DELETING,
                    volumes=tuple(volumes[copy.id]),
                ),
            )  # fmt: skip


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
