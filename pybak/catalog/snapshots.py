"""Write the snapshot that a backup run made: archive, volumes, file versions and errors.

All of it goes into one transaction with the end of the run's row, so that a kill leaves the
catalog as it was. The source is the archive's manifest; rebuilding a catalog from storage calls
the same code with the same manifest, and so comes to the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select, update
from sqlmodel import col

from pybak.catalog.collected import CollectedVersions
from pybak.catalog.copies import StoredCopy, add_copies
from pybak.catalog.failures import CatalogError
from pybak.catalog.models import (
    DELETING,
    PRESENT,
    Archive,
    FileError,
    Job,
    Run,
    Volume,
    escaped,
)
from pybak.catalog.rows import (
    Row,
    by_name,
    chunked,
    execute,
    execute_many,
    insert_versions,
    is_postgres,
    row_of_reference,
)
from pybak.catalog.rows import row_of as version_row
from pybak.display import printable
from pybak.entries import FILE
from pybak.formats.manifest import Reference
from pybak.formats.manifest_facts import FullFact
from pybak.volumes.model import Volume as StoredVolume

FULL: Final = "full"
ADD_IT: Final = "run `python flows/rebuild.py DESTINATION` to have it there"


class OvertakenError(CatalogError):
    """A snapshot is not written, for the history went on without it; the archive is whole."""


class StoredArchive(msgspec.Struct, frozen=True, kw_only=True):
    """An archive as it lies in storage; `name` is what people name to get it back.

    `copies` are the further places where it lies.
    """

    name: str
    format: str
    encrypted: bool
    members: int
    created_at: datetime
    volumes: Sequence[StoredVolume]
    copies: Sequence[StoredCopy] = ()


class SnapshotEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What the row of the run is to say. Times are aware.

    `base_seq` is the number of the snapshot that the archive is the difference to, None for a
    full one. `errors` are paths, codes of `pybak.problems` and messages.
    """

    run_id: str
    job: str
    seq: int
    status: str
    mode: str
    base_run: str | None
    base_seq: int | None
    full_run: str | None
    finished_at: datetime | None
    counts: Mapping[str, Any]
    tags: Sequence[str] = ()
    errors: Iterable[tuple[str, str, str]] = ()
    message: str | None = None


def write_snapshot(
    connection: Connection,
    end: SnapshotEnd,
    archive: StoredArchive,
    records: Iterable[FullFact] | CollectedVersions,
    gone: Iterable[str],
    references: Iterable[Reference] = (),
) -> None:
    """Complete a run that is in the catalog by the snapshot that it made.

    `records` are the members of its archive, collected ones only of a full one; `references` are
    what older archives hold of the snapshot in a new way, `gone` the names that its base or an
    archive since the full run holds and the snapshot lacks; they are read in this order. A
    reference to an archive that the catalog does not know is left out. Runs inside the caller's
    transaction.

    Raises CatalogError if the row of the run is not there, as where another program put a new
    catalog into the place of this one meanwhile, and OvertakenError where a later run of the job is
    in the history already, or the base is not any more: the open rows are then not those that the
    archive is the difference to.
    """
    job_id = job_number(connection, end.job)
    _check_turn(connection, job_id, end, archive.name)
    archive_id = _add_archive(connection, end.run_id, end.job, archive)
    _to_base(connection, job_id, end)
    postgres = is_postgres(connection)
    content = 0

    def counted(records: Iterable[FullFact]) -> Iterator[Row]:
        nonlocal content
        for record in records:
            content += record.size if record.type == FILE else 0
            yield version_row(record, is_postgres=postgres)

    if isinstance(records, CollectedVersions):
        assert end.base_seq is None
        records.copy_to(connection, job_id, archive_id, end.seq)
        content = records.content_size
    elif end.base_seq is None:
        insert_versions(connection, job_id, archive_id, end.seq, counted(records))
    else:
        for chunk in chunked(counted(records)):
            _close(connection, job_id, end.seq, (row[0] for row in chunk))
            insert_versions(connection, job_id, archive_id, end.seq, chunk)
    _refer(connection, job_id, end, references)
    if end.base_seq is not None:
        _close(connection, job_id, end.seq, map(escaped, gone))
    # What was open for no snapshot at all: copies of the base's rows that went again.
    execute(
        connection,
        "DELETE FROM file_version WHERE job_id = ? AND first_seq = ? AND gone_seq = ?",
        (job_id, end.seq, end.seq),
    )
    connection.execute(
        update(Archive).where(Archive.id == archive_id).values(content_size=content)  # type: ignore[arg-type]
    )
    add_errors(connection, end.run_id, end.errors)
    completed = connection.execute(
        update(Run)
        .where(Run.run_id == end.run_id)  # type: ignore[arg-type]
        .values(
            status=end.status, finished_at=in_utc(end.finished_at), archive=archive.name,
            message=end.message, counts=dict(end.counts), mode=end.mode, base_run=end.base_run,
            full_run=end.full_run, tags=list(end.tags), is_snapshot=True,
        )
    )  # fmt: skip
    if completed.rowcount != 1:
        raise CatalogError(
            f"the catalog does not know run {end.run_id} any more, as after a rebuild; so "
            f"{printable(archive.name)} is not in the history: {ADD_IT}"
        )


def job_number(connection: Connection, name: str) -> int:
    """Give the number of a job, a new one if need be."""
    wanted = select(Job.id).where(Job.name == name)  # type: ignore[call-overload]
    number = connection.execute(wanted).scalar()
    if number is None:
        connection.execute(insert(Job).values(name=name))
        number = connection.execute(wanted).scalar_one()
    return int(number)


def _check_turn(connection: Connection, job_id: int, end: SnapshotEnd, archive: str) -> None:
    """Raise OvertakenError where two runs of the job, or a run and a prune, were not kept apart.

    Others who write a snapshot of the job, or take the base from the history, wait from here on
    until the transaction ends; on SQLite they do so anyway.
    """
    connection.execute(select(Job.id).where(Job.id == job_id).with_for_update())  # type: ignore[call-overload]
    recorded = select(Run.run_id).where(Run.job == end.job, col(Run.mode).is_not(None))  # type: ignore[call-overload]
    later = connection.execute(recorded.where(Run.seq > end.seq).limit(1)).scalar()
    if later is not None:
        raise OvertakenError(
            f"run {printable(later)}, which began after this one and beside it, is in the history "
            f"of {printable(end.job)} already; so {printable(archive)} is not: {ADD_IT}"
        )
    if end.base_seq is not None and not _is_kept(connection, end.job, end.base_seq):
        raise OvertakenError(
            f"run {printable(end.base_run or '')}, to which {printable(archive)} is the "
            f"difference, was removed from the history of {printable(end.job)} meanwhile; so that "
            f"is not there either: {ADD_IT}, as far as what it needs is left"
        )


def _is_kept(connection: Connection, job: str, seq: int) -> bool:
    """Whether all that the run `seq` recorded is there.

    A full run needs its archive alone, and may have lost its snapshot before.
    """
    run = connection.execute(
        select(Run.run_id, Run.mode, Run.is_snapshot)  # type: ignore[call-overload]
        .where(Run.job == job, Run.seq == seq)
        .with_for_update(read=True)
    ).first()
    if run is None or not (run.is_snapshot or run.mode == FULL):
        return False
    stored = select(Archive.id).where(  # type: ignore[call-overload]
        Archive.job == job, Archive.run_id == run.run_id, Archive.state == PRESENT
    )
    return connection.execute(stored.with_for_update(read=True)).first() is not None


def add_errors(connection: Connection, run_id: str, errors: Iterable[tuple[str, str, str]]) -> None:
    """Write down what a run could not save."""
    rows = ({"run_id": run_id, "path": p, "code": c, "message": m} for p, c, m in errors)
    for chunk in chunked(rows):  # type: ignore[arg-type]
        connection.execute(insert(FileError), chunk)  # type: ignore[arg-type]


def in_utc(moment: datetime | None) -> datetime | None:
    """Give a time as the catalog holds it."""
    return moment.astimezone(UTC) if moment is not None else None


def add_leaving(connection: Connection, run_id: str, job: str, archive: StoredArchive) -> None:
    """Enter an archive that another one of its run took the place of: the next prune deletes it."""
    _add_archive(connection, run_id, job, archive, state=DELETING)


def _add_archive(
    connection: Connection, run_id: str, job: str, archive: StoredArchive, *, state: str = PRESENT
) -> int:
    result = connection.execute(
        insert(Archive).values(
            run_id=run_id, job=job, name=archive.name, format=archive.format,
            encrypted=archive.encrypted, members=archive.members,
            size=sum(volume.size for volume in archive.volumes),
            created_at=in_utc(archive.created_at), state=state,
        )
    )  # fmt: skip
    key = result.inserted_primary_key
    assert key is not None
    rows = [
        {
            "archive_id": key[0], "number": number, "uri": volume.uri, "size": volume.size,
            "sha256": volume.sha256,
            "parts": [(part.size, part.sha256) for part in volume.parts] or None,
        }
        for number, volume in enumerate(archive.volumes)
    ]  # fmt: skip
    if rows:
        connection.execute(insert(Volume), rows)
    add_copies(connection, int(key[0]), archive.copies)
    return int(key[0])


def _to_base(connection: Connection, job_id: int, end: SnapshotEnd) -> None:
    """Make the open rows those of the base; does nothing where it is the newest snapshot."""
    base = end.base_seq
    if base is None:
        execute(
            connection,
            "UPDATE file_version SET gone_seq = ? WHERE job_id = ? AND gone_seq IS NULL",
            (end.seq, job_id),
        )
        return
    execute(
        connection,
        "UPDATE file_version SET gone_seq = ? "
        "WHERE job_id = ? AND gone_seq IS NULL AND first_seq > ?",
        (end.seq, job_id, base),
    )
    columns = (
        "path, kind, size, mtime_ns, ctime_ns, inode, device, mode, uid, gid, changed, sha256, "
        "parts, member, archive_id"
    )
    execute(
        connection,
        f"INSERT INTO file_version (job_id, first_seq, {columns}) "  # noqa: S608 - our own names
        f"SELECT job_id, CAST(? AS INTEGER), {columns} FROM file_version "
        "WHERE job_id = ? AND first_seq <= ? AND gone_seq > ? AND first_seq < gone_seq",
        (end.seq, job_id, base, base),
    )


def _refer(
    connection: Connection, job_id: int, end: SnapshotEnd, references: Iterable[Reference]
) -> None:
    """Open the rows of references, in place of those of the same names."""
    postgres = is_postgres(connection)
    for chunk in chunked(references):  # type: ignore[arg-type]
        some: Sequence[Reference] = chunk  # type: ignore[assignment]
        _close(connection, job_id, end.seq, (escaped(one.path) for one in some))
        archives = _archives(connection, end.job)
        for run in dict.fromkeys(one.run for one in some):
            archive = archives.get(run)
            if archive is None:
                continue
            rows = (row_of_reference(one, is_postgres=postgres) for one in some if one.run == run)
            insert_versions(connection, job_id, archive, end.seq, rows)


def _archives(connection: Connection, job: str) -> dict[str, int]:
    """Give the archive of each run of a job, the one that stays where a run has two."""
    wanted = select(Archive.run_id, Archive.id).where(Archive.job == job)  # type: ignore[call-overload]
    leaving_first = wanted.order_by(Archive.state, Archive.id)
    return {row[0]: row[1] for row in connection.execute(leaving_first)}


def _close(connection: Connection, job_id: int, seq: int, paths: Iterator[str]) -> None:
    rows: Iterator[Row] = ((seq, job_id, path) for path in paths)
    named = by_name(connection)
    execute_many(
        connection,
        f"UPDATE {named.table} SET gone_seq = ? "  # noqa: S608 - our own names
        f"WHERE {named.job_id} = ? AND path = ? AND gone_seq IS NULL",
        rows,
    )
