"""Write a finished backup into the catalog, from the manifest of its archive.

An archive that is to be copied is recorded before that begins, as partial: copies take their time,
and a kill in the middle must not cost the snapshot. `record_copies` then says how it ended.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, update

from pybak.backup.run import BackupRun
from pybak.catalog.copies import StoredCopy, add_copies, archive_at
from pybak.catalog.engine import Database
from pybak.catalog.facts import ArchiveFacts
from pybak.catalog.history import History
from pybak.catalog.models import Run
from pybak.catalog.snapshots import (
    SnapshotEnd,
    StoredArchive,
    add_errors,
    in_utc,
    write_snapshot,
)
from pybak.errors import StorageError
from pybak.formats.manifest_lines import manifest_lines
from pybak.report import PARTIAL, BackupReport
from pybak.report.copies import problems_of
from pybak.staging import reason

NOT_COPIED: Final = "the run was ended before its copies were made"


def write_backup(
    connection: Connection,
    *,
    run: BackupRun,
    report: BackupReport,
    manifest: Path,
    members: int,
    now: datetime | None = None,
) -> None:
    """Write the snapshot that a run made, in the caller's transaction.

    `manifest` is the copy in the staging folder, `now` (aware) the end of the run. Raises
    StorageError if the copy can't be read.
    """
    chosen, seq = run.chosen, run.seq
    assert seq is not None, "the run is in the catalog"
    archive = StoredArchive(
        name=report.archive or "", format=run.format, encrypted=report.encrypted,
        members=members, created_at=run.started_at, volumes=report.volumes,
    )  # fmt: skip
    try:
        with manifest_lines(manifest) as lines:
            base = chosen.base
            end = SnapshotEnd(
                run_id=run.run_id, job=run.job, seq=seq, mode=chosen.mode,
                status=PARTIAL if run.copies else report.status,
                message=NOT_COPIED if run.copies else None,
                base_run=base.run_id if base is not None else None,
                base_seq=base.seq if base is not None else None,
                full_run=base.full_run if base is not None else run.run_id,
                finished_at=now or datetime.now(UTC),
                counts=report.files.to_json() | {"gone": report.history.gone},
                tags=run.options.tag,
                errors=lines.errors(),
            )  # fmt: skip
            write_snapshot(
                connection, end, archive, lines.members(), lines.gone(), lines.references()
            )
    except OSError as error:
        raise StorageError(f"{manifest}: {reason(error)}; the run is not in the history") from error


def earlier_archives(catalog_url: str, run_id: str) -> list[ArchiveFacts]:
    """Give what the snapshot of a recorded run needs besides its archive. Raises CatalogError."""
    database = Database(catalog_url)
    try:
        history = History(database)
        snapshot = history.recorded(run_id)
        needed = history.archives(snapshot) if snapshot is not None else []
        return [one for one in needed if one.run_id != run_id]
    finally:
        database.close()


def record_copies(catalog_url: str, report: BackupReport, *, now: datetime | None = None) -> None:
    """Add the copies of an archive that is recorded, and how its run ended after all.

    `now` (aware) is the end of the run. Raises CatalogError.
    """
    copies = [
        StoredCopy(name=copy.archive, volumes=copy.volumes)
        for copy in report.copies
        if copy.is_made
    ]
    run_id, name = report.run_id or "", report.archive or ""
    database = Database(catalog_url)
    try:
        with database.transaction() as connection:
            add_copies(connection, archive_at(connection, run_id, name), copies)
            add_errors(
                connection, run_id,
                ((one.path, one.code, one.message) for one in problems_of(report.copies)),
            )  # fmt: skip
            connection.execute(
                update(Run)
                .where(Run.run_id == run_id)  # type: ignore[arg-type]
                .values(
                    status=report.status, message=None,
                    finished_at=in_utc(now or datetime.now(UTC)),
                )
            )  # fmt: skip
    finally:
        database.close()
