"""Take archives out of the catalog in two steps, so that a kill between them loses nothing.

First, in one transaction, runs stop being snapshots and their archives are marked as leaving; from
then on nothing reads them. Then their files are deleted. Last, in another transaction, all rows go.
Whatever is killed in between is found by `pending_removals` and finished by the next prune.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection, Select, delete, select, update
from sqlmodel import col

from pybak.catalog.copies import drop_copies
from pybak.catalog.engine import Database
from pybak.catalog.facts import ArchiveFacts
from pybak.catalog.failures import CatalogError
from pybak.catalog.history import History
from pybak.catalog.models import (
    DELETING,
    PRESENT,
    Archive,
    ArchiveCopy,
    CopyVolume,
    FileVersion,
    Run,
    Volume,
)
from pybak.catalog.needs import read_needs

REMOVED: Final = "the snapshot was removed by a prune"
"""The message of a run that had one."""

_T = TypeVar("_T")
_CHUNK: Final = 500  # how many parameters a statement gets at once


class Marked(NamedTuple):
    """What `mark_deleting` changed: archives, and run ids with the archive and message they had."""

    archives: tuple[int, ...]
    runs: tuple[tuple[str, str | None, str | None], ...]


def mark_deleting(
    database: Database, job: str, *, runs: Iterable[str], archives: Iterable[int]
) -> Marked:
    """Take their snapshots from `runs` and mark `archives` as leaving, in one transaction.

    A run without a snapshot names no archive either, also if that stays for others: by itself it
    would pass for more than it holds.

    Gives what it takes to undo it. Raises CatalogError, and changes nothing, if a snapshot of
    `job` that stays needs one of them: something was written since the decision.
    """
    going = sorted(set(archives))
    before: list[tuple[str, str | None, str | None]] = []
    with database.transaction() as connection:
        for ids in _chunks(runs):
            query: Select[Any] = select(Run.run_id, Run.archive, Run.message)  # type: ignore[call-overload]
            rows = connection.execute(query.where(col(Run.run_id).in_(ids), col(Run.is_snapshot)))
            before += [(row[0], row[1], row[2]) for row in rows]
            connection.execute(
                update(Run)
                .where(col(Run.run_id).in_(ids))
                .values(is_snapshot=False, archive=None, message=REMOVED)
            )
        _check_unused(connection, job, going, database.where)
        for chunk in _chunks(going):
            connection.execute(
                update(Archive).where(col(Archive.id).in_(chunk)).values(state=DELETING)
            )
    return Marked(tuple(going), tuple(before))


def take_back_marks(database: Database, marked: Marked) -> None:
    """Undo what `mark_deleting` did, where nothing was deleted since."""
    with database.transaction() as connection:
        for chunk in _chunks(marked.archives):
            connection.execute(
                update(Archive).where(col(Archive.id).in_(chunk)).values(state=PRESENT)
            )
        for run_id, archive, message in marked.runs:
            connection.execute(
                update(Run)
                .where(col(Run.run_id) == run_id)
                .values(is_snapshot=True, archive=archive, message=message)
            )


def _check_unused(connection: Connection, job: str, archives: Sequence[int], where: str) -> None:
    """Raise CatalogError if a snapshot of `job` uses one of `archives`."""
    kept: Select[Any] = select(Run.seq, Run.run_id).where(Run.job == job, col(Run.is_snapshot))  # type: ignore[call-overload]
    rows = connection.execute(kept).all()
    run_ids = {row[1] for row in rows}
    makers: set[str] = set()
    for chunk in _chunks(archives):
        query: Select[Any] = select(Archive.run_id).where(col(Archive.id).in_(chunk))  # type: ignore[call-overload]
        makers.update(connection.execute(query).scalars())
    is_own = not makers.isdisjoint(run_ids)
    if is_own or read_needs(connection, job).used(archives, (row[0] for row in rows)):
        raise CatalogError(
            f"{where}: an archive that was to be deleted is needed by now; run prune again"
        )


def pending_removals(database: Database, job: str) -> list[ArchiveFacts]:
    """List the archives of a job that are leaving, in the order they were made."""
    return [one for one in History(database).archives_of_job(job) if one.is_leaving]


def taken_places(database: Database, job: str) -> dict[int, frozenset[str]]:
    """Give, by archive of a job, those of its places that a later archive of any job has by now.

    That is so where an archive was moved away by hand and a later one got its name.
    """
    query: Select[Any] = select(Volume.archive_id, Volume.uri, Archive.job).join(  # type: ignore[call-overload]
        Archive, Archive.id == Volume.archive_id
    )
    copies: Select[Any] = (
        select(ArchiveCopy.archive_id, CopyVolume.uri, Archive.job)  # type: ignore[call-overload]
        .join(ArchiveCopy, ArchiveCopy.id == CopyVolume.copy_id)
        .join(Archive, Archive.id == ArchiveCopy.archive_id)
    )
    with database.reading() as connection:
        rows = [*connection.execute(query), *connection.execute(copies)]
    owners: dict[str, int] = {}
    for archive, uri, _ in rows:
        owners[uri] = max(archive, owners.get(uri, archive))
    taken: dict[int, set[str]] = defaultdict(set)
    for archive, uri, its_job in rows:
        if its_job == job and owners[uri] != archive:
            taken[archive].add(uri)
    return {archive: frozenset(uris) for archive, uris in taken.items()}


def finish_removal(database: Database, archives: Iterable[int]) -> None:
    """Delete all rows of archives whose files are gone, in one transaction."""
    with database.transaction() as connection:
        for chunk in _chunks(archives):
            drop_copies(connection, chunk)
            for table, key in (
                (FileVersion, FileVersion.archive_id),
                (Volume, Volume.archive_id),
                (Archive, Archive.id),
            ):
                connection.execute(delete(table).where(col(key).in_(chunk)))


def _chunks(values: Iterable[_T]) -> Iterator[list[_T]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
