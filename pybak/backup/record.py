"""Write a finished backup into the catalog, from the manifest of its archive.

An archive that is to be copied is recorded before that begins, as partial: copies take their time,
and a kill in the middle must not cost the snapshot. `record_copies` then says how it ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, update

from pybak.backup.assemble import Assembly
from pybak.backup.plan import BackupPlan
from pybak.backup.run import BackupRun
from pybak.catalog.collected import CollectedVersions
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
from pybak.formats.manifest_lines import closing_lines, manifest_lines
from pybak.report import PARTIAL, BackupReport
from pybak.report.copies import problems_of
from pybak.staging import reason

_WORTH_COLLECTING: Final = 5_000
"""Members of an archive; fewer take less time than a database for them."""

NOT_COPIED: Final = "the run was ended before its copies were made"


@contextmanager
def collecting(
    run: BackupRun, plan: BackupPlan, *, least: int = _WORTH_COLLECTING
) -> Iterator[CollectedVersions | None]:
    """Collect what `write_backup` will write, of a full backup of `least` files or more.

    Others are compared with what the catalog has, member by member, and collect nothing.
    """
    if run.chosen.base is not None or plan.files < least:
        yield None
        return
    collected = CollectedVersions(run.staging / "versions.db")
    try:
        yield collected
        collected.finish()
    finally:
        collected.close()


def write_backup(
    connection: Connection,
    *,
    run: BackupRun,
    report: BackupReport,
    assembly: Assembly,
    collected: CollectedVersions | None = None,
    now: datetime | None = None,
) -> None:
    """Write the snapshot that a run made, in the caller's transaction.

    `collected` are the members as far as they were put down while the archive was made, `now`
    (aware) is the end of the run. Raises StorageError if the copy of the manifest can't be read.
    """
    chosen, seq = run.chosen, run.seq
    assert seq is not None, "the run is in the catalog"
    archive = StoredArchive(
        name=report.archive or "", format=run.format, encrypted=report.encrypted,
        members=assembly.members, created_at=run.started_at, volumes=report.volumes,
    )  # fmt: skip
    if collected is not None and not (collected.is_whole and collected.count == assembly.members):
        collected = None
    try:
        with ExitStack() as stack:
            if collected is not None:
                lines = closing_lines(assembly.closing)
            else:
                lines = stack.enter_context(manifest_lines(assembly.manifest))
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
                connection, end, archive, collected or lines.members(), lines.gone(),
                lines.references(),
            )  # fmt: skip
    except OSError as error:
        raise StorageError(
            f"{assembly.manifest}: {reason(error)}; the run is not in the history"
        ) from error


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
