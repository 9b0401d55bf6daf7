"""What a snapshot stems from: the runs that it goes back to, and whose archives hold it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from sqlalchemy import func, select
from sqlmodel import col

from pybak.catalog.engine import Database
from pybak.catalog.facts import Snapshot
from pybak.catalog.models import Archive, Run, escaped
from pybak.catalog.needs import read_needs
from pybak.catalog.rows import ByName, by_name, stream
from pybak.report.status import PARTIAL, SUCCESS

MOST: Final = 2000
"""How many runs of a chain are told."""

_NAMES_AT_ONCE: Final = 500
_IN_SNAPSHOT: Final = "first_seq <= ? AND (gone_seq IS NULL OR gone_seq > ?)"


def ancestors(database: Database, snapshot: Snapshot) -> list[str]:
    """Give the runs that a snapshot goes back to: itself, its base, and so on to the full one.

    Rows of runs between may be missing, as after a rebuild. Those whose archives hold members of
    the snapshot are ancestors in any case.
    """
    query = select(Run.run_id, Run.base_run).where(  # type: ignore[call-overload]
        col(Run.job) == snapshot.job, col(Run.mode).is_not(None)
    )
    with database.reading() as connection:
        bases = {row[0]: row[1] for row in connection.execute(query)}
    found = {snapshot.run_id: None}
    base = snapshot.base_run
    while base is not None and base not in found and len(found) < MOST:
        found[base] = None
        base = bases.get(base)
    holding = reversed(rows_by_run(database, snapshot))
    return list(dict.fromkeys((*found, *holding, snapshot.full_run or snapshot.run_id)))


def rows_by_run(
    database: Database, snapshot: Snapshot, names: Iterable[bytes] | None = None
) -> dict[str, int]:
    """Give how many members of a snapshot need the archive of each run, the oldest first.

    They lie there, or are told there (`pybak.catalog.needs`). With `names` only these members are
    counted.
    """
    counts: Counter[int] = Counter()
    with database.reading() as connection:
        needs = read_needs(connection, snapshot.job)
        job = "(SELECT id FROM job WHERE name = ?)"
        place = (escaped(snapshot.job), snapshot.seq, snapshot.seq)
        named = ByName("file_version", "job_id") if names is None else by_name(connection)
        chunks: Iterable[tuple[str, ...]] = [()] if names is None else _chunks(names)
        for chunk in chunks:
            listed = f" AND path IN ({', '.join('?' * len(chunk))})" if chunk else ""
            statement = (
                f"SELECT archive_id, first_seq, COUNT(*) FROM {named.table} "  # noqa: S608 - our own names
                f"WHERE {named.job_id} = {job} AND {_IN_SNAPSHOT}{listed} "
                "GROUP BY archive_id, first_seq"
            )
            for archive, first, rows in stream(connection, statement, place + chunk):
                for needed in needs.of_row(archive, first, snapshot.seq):
                    counts[needed] += rows
        query = select(Archive.id, Archive.run_id)  # type: ignore[call-overload]
        runs = connection.execute(query.where(col(Archive.job) == snapshot.job)).all()
    return {run: counts[archive] for archive, run in sorted(runs) if counts[archive]}


def runs_since(database: Database, job: str, seq: int) -> int:
    """Count the runs of a job after the run `seq` that made snapshots, be these removed since."""
    query = (
        select(func.count())
        .select_from(Run)
        .where(col(Run.job) == job, col(Run.kind) == "backup", col(Run.seq) > seq)
        .where(col(Run.status).in_((SUCCESS, PARTIAL)))
    )
    with database.reading() as connection:
        return int(connection.execute(query).scalar_one())


def _chunks(names: Iterable[bytes]) -> Iterator[tuple[str, ...]]:
    texts = (escaped(os.fsdecode(name)) for name in names)
    while chunk := tuple(islice(texts, _NAMES_AT_ONCE)):
        yield chunk
