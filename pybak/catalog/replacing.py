"""Put a full archive into the place of the one that a run made, in two steps.

First the new archive is entered as leaving, so that whatever a kill leaves of it is deleted by the
next prune. When its files are there, one transaction makes the run a full one, as if it had been
from the start: every member of its snapshot is a new row, which names the new archive; the old
archive is marked as leaving.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, insert, update
from sqlmodel import col

from pybak.catalog.engine import Database
from pybak.catalog.facts import Snapshot
from pybak.catalog.models import DELETING, PRESENT, Archive, Run, Volume
from pybak.catalog.needs import Needs, read_needs
from pybak.catalog.rows import COLUMNS, execute, is_postgres, row_of
from pybak.catalog.snapshots import FULL, in_utc, job_number
from pybak.formats.manifest_facts import FullFact
from pybak.volumes.model import Volume as StoredVolume


def needs_of(database: Database, job: str) -> Needs:
    """Give what the snapshots of a job need, as it is now."""
    with database.reading() as connection:
        return read_needs(connection, job)


def enter_unfinished(
    database: Database,
    snapshot: Snapshot,
    *,
    name: str,
    format: str,  # noqa: A002 - as the column
    encrypted: bool,
    members: int,
    volumes: Sequence[StoredVolume],
) -> int:
    """Enter an archive that is being made for a snapshot; give its number."""
    with database.transaction() as connection:
        result = connection.execute(
            insert(Archive).values(
                run_id=snapshot.run_id, job=snapshot.job, name=name, format=format,
                encrypted=encrypted, members=members, size=sum(one.size for one in volumes),
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
    rewritten: Iterable[FullFact] = (),
) -> None:
    """Make the run of a snapshot a full one whose archive is `new`; `old` is leaving.

    `name` and `volumes` are what the new archive came to be called. `rewritten` are the members
    that are something else there than they were: a hard link that became the file.
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
            # Rows of later runs that refer to the old archive mean members that the new one has.
            "UPDATE file_version SET archive_id = ? "
            "WHERE job_id = ? AND (first_seq = ? OR archive_id = ?)",
            (new, job, seq, old),
        )
        assigned = ", ".join(f"{column} = ?" for column in COLUMNS)
        for fact in rewritten:
            row = row_of(fact, is_postgres=is_postgres(connection))
            execute(
                connection,
                f"UPDATE file_version SET {assigned} "  # noqa: S608 - our own names
                "WHERE job_id = ? AND first_seq = ? AND path = ?",
                (*row, job, seq, row[0]),
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
