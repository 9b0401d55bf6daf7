"""Put a full archive into the place of the one that a run made, in two steps.

First the new archive is entered as leaving, so that whatever a kill leaves of it is deleted by the
next prune. When its files are there, one transaction makes the run a full one, as if it had been
from the start: every member of its snapshot is a new row, which names the new archive; the old
archive is marked as leaving.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, update
from sqlmodel import col

from pybak.catalog.engine import Database
from pybak.catalog.history import Snapshot
from pybak.catalog.models import DELETING, PRESENT, Archive, Run, Volume, escaped
from pybak.catalog.rows import COLUMNS, execute, stream
from pybak.catalog.snapshots import FULL, in_utc, job_number
from pybak.volumes.model import Volume as StoredVolume


class Span(NamedTuple):
    """That an archive holds members which are in the snapshots from `first` to before `gone`."""

    archive: int
    first: int
    gone: int | None

    def holds(self, seq: int) -> bool:
        """Whether they are in this snapshot."""
        return self.first <= seq and (self.gone is None or self.gone > seq)


def spans_of(database: Database, job: str) -> list[Span]:
    """List which archives of a job hold members of which snapshots."""
    statement = (
        "SELECT archive_id, first_seq, gone_seq FROM file_version "
        "WHERE job_id = (SELECT id FROM job WHERE name = ?) "
        "GROUP BY archive_id, first_seq, gone_seq"
    )
    with database.reading() as connection:
        return [Span(*row) for row in stream(connection, statement, (escaped(job),))]


def enter_unfinished(
    database: Database,
    snapshot: Snapshot,
    *,
    name: str,
    format: str,  # noqa: A002 - as the column
    members: int,
    volumes: Sequence[StoredVolume],
) -> int:
    """Enter an archive that is being made for a snapshot; give its number."""
    with database.transaction() as connection:
        result = connection.execute(
            insert(Archive).values(
                run_id=snapshot.run_id, job=snapshot.job, name=name, format=format,
                encrypted=False, members=members, size=sum(one.size for one in volumes),
                created_at=in_utc(snapshot.started_at), state=DELETING,
            )
        )  # fmt: skip
        key = result.inserted_primary_key
        assert key is not None
        number = int(key[0])
        _add_volumes(connection, number, volumes)
    return number


def _add_volumes(connection: Connection, archive: int, volumes: Sequence[StoredVolume]) -> None:
    rows = [
        {
            "archive_id": archive, "number": number, "uri": one.uri, "size": one.size,
            "sha256": one.sha256,
            "parts": [(part.size, part.sha256) for part in one.parts] or None,
        }
        for number, one in enumerate(volumes)
    ]  # fmt: skip
    connection.execute(insert(Volume), rows)


def replace_archive(
    database: Database,
    snapshot: Snapshot,
    *,
    old: int,
    new: int,
    name: str,
    volumes: Sequence[StoredVolume],
) -> None:
    """Make the run of a snapshot a full one whose archive is `new`; `old` is leaving.

    `name` and `volumes` are what the new archive came to be called.
    """
    seq = snapshot.seq
    columns = ", ".join(COLUMNS)
    with database.transaction() as connection:
        connection.execute(delete(Volume).where(col(Volume.archive_id) == new))
        _add_volumes(connection, new, volumes)
        job = job_number(connection, snapshot.job)
        within = "job_id = ? AND first_seq < ? AND (gone_seq IS NULL OR gone_seq > ?)"
        execute(
            connection,
            f"INSERT INTO file_version (job_id, first_seq, gone_seq, archive_id, {columns}) "  # noqa: S608 - our own names
            "SELECT job_id, CAST(? AS INTEGER), gone_seq, CAST(? AS INTEGER), "
            f"{columns} FROM file_version WHERE {within}",
            (seq, new, job, seq, seq),
        )
        execute(
            connection,
            f"UPDATE file_version SET gone_seq = ? WHERE {within}",  # noqa: S608 - our own names
            (seq, job, seq, seq),
        )
        execute(
            connection,
            "UPDATE file_version SET archive_id = ? WHERE job_id = ? AND first_seq = ?",
            (new, job, seq),
        )
        connection.execute(
            update(Run)
            .where(col(Run.run_id) == snapshot.run_id)
            .values(mode=FULL, base_run=None, full_run=snapshot.run_id, archive=name)
        )
        for archive, state in ((old, DELETING), (new, PRESENT)):
            connection.execute(
                update(Archive).where(col(Archive.id) == archive).values(state=state)
            )
        connection.execute(update(Archive).where(col(Archive.id) == new).values(name=name))
