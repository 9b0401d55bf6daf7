"""Take archives out of the catalog in two steps, so that a kill between them loses nothing.

First, in one transaction, runs stop being snapshots and their archives are marked as leaving; from
then on nothing reads them. Then their files are deleted. Last, in another transaction, all rows go.
Whatever is killed in between is found by `pending_removals` and finished by the next prune.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Select, delete, select, update
from sqlmodel import col

from pybak.catalog.engine import Database
from pybak.catalog.failures import CatalogError
from pybak.catalog.history import ArchiveFacts, History
from pybak.catalog.models import DELETING, Archive, FileVersion, Job, Run, Volume

REMOVED: Final = "the snapshot was removed by a prune"
"""The message of a run that had one."""

_T = TypeVar("_T")
_CHUNK: Final = 500  # how many parameters a statement gets at once


def mark_deleting(
    database: Database, job: str, *, runs: Iterable[str], archives: Iterable[int]
) -> None:
    """Take their snapshots from `runs` and mark `archives` as leaving, in one transaction.

    A run without a snapshot names no archive either, also if that stays for others: by itself it
    would pass for more than it holds.

    Raises CatalogError, and changes nothing, if a snapshot of `job` that stays needs one of them:
    something was written since the decision.
    """
    going = sorted(set(archives))
    with database.transaction() as connection:
        for ids in _chunks(runs):
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


def _check_unused(connection: Connection, job: str, archives: Sequence[int], where: str) -> None:
    """Raise CatalogError if a snapshot of `job` uses one of `archives`."""
    kept: Select[Any] = select(Run.seq, Run.run_id).where(Run.job == job, col(Run.is_snapshot))  # type: ignore[call-overload]
    rows = connection.execute(kept).all()
    numbers, run_ids = sorted(row[0] for row in rows), {row[1] for row in rows}
    for archive in archives:
        query: Select[Any] = (
            select(FileVersion.first_seq, FileVersion.gone_seq)  # type: ignore[call-overload]
            .join(Job, Job.id == FileVersion.job_id)
            .where(FileVersion.archive_id == archive, Job.name == job)
            .distinct()
        )
        is_own = (
            connection.execute(
                select(Archive.run_id).where(Archive.id == archive)  # type: ignore[call-overload]
            ).scalar()
            in run_ids
        )
        if is_own or any(
            _is_within(numbers, first, gone) for first, gone in connection.execute(query)
        ):
            raise CatalogError(
                f"{where}: an archive that was to be deleted is needed by now; run prune again"
            )


def _is_within(numbers: Sequence[int], first: int, gone: int | None) -> bool:
    """Whether one of some sorted numbers is at least `first` and less than `gone`."""
    at = bisect_left(numbers, first)
    return at < len(numbers) and (gone is None or numbers[at] < gone)


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
    with database.reading() as connection:
        rows = connection.execute(query).all()
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
