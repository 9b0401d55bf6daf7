"""Write a finished backup into the catalog, from the manifest of its archive."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from pybak.backup.run import BackupRun
from pybak.catalog.snapshots import SnapshotEnd, StoredArchive, write_snapshot
from pybak.errors import StorageError
from pybak.formats.manifest_reader import FullFact, Stream
from pybak.report import BackupReport
from pybak.staging import reason

_READ_BYTES: Final = 1 << 20


class ManifestLines:
    """The lines of a manifest by what they are: first members, then names gone, then errors.

    Each kind is asked for once, in this order.
    """

    def __init__(self, lines: Iterator[FullFact]) -> None:
        self._lines = lines
        self._next: FullFact | None = None

    def members(self) -> Iterator[FullFact]:
        """Yield the lines of members."""
        for line in self._lines:
            if line.path is None:
                self._next = line
                return
            yield line

    def gone(self) -> Iterator[str]:
        """Yield the names that are gone."""
        while self._next is not None and self._next.gone is not None:
            yield from self._next.gone
            self._next = next(self._lines, None)

    def errors(self) -> Iterator[tuple[str, str, str]]:
        """Yield path, code and message of what could not be saved."""
        while self._next is not None:
            yield from self._next.errors or ()
            self._next = next(self._lines, None)


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
        with manifest.open("rb") as file:
            blocks = iter(lambda: file.read(_READ_BYTES), b"")
            stream = Stream(blocks, manifest.stat().st_size)
            lines = ManifestLines(stream.lines())
            base = chosen.base
            end = SnapshotEnd(
                run_id=run.run_id, job=run.job, seq=seq, status=report.status, mode=chosen.mode,
                base_run=base.run_id if base is not None else None,
                base_seq=base.seq if base is not None else None,
                full_run=base.full_run if base is not None else run.run_id,
                finished_at=now or datetime.now(UTC),
                counts=report.files.to_json() | {"gone": report.history.gone},
                tags=run.options.tag,
                errors=lines.errors(),
            )  # fmt: skip
            write_snapshot(connection, end, archive, lines.members(), lines.gone())
    except OSError as error:
        raise StorageError(f"{manifest}: {reason(error)}; the run is not in the history") from error
