"""Histories written into a catalog by hand, without archives: runs, what they held, what went."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pybak.catalog.engine import Database
from pybak.catalog.facts import Snapshot
from pybak.catalog.history import History
from pybak.catalog.replacing import enter_unfinished
from pybak.catalog.runs import Catalog
from pybak.catalog.snapshots import SnapshotEnd, StoredArchive, write_snapshot
from pybak.formats.manifest_facts import FullFact
from pybak.volumes.model import Volume

BEGIN = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
SECOND = 1_000_000_000
MTIME = 1_700_000_000 * SECOND  # 2023-11-14 22:13:20 UTC


def file(path: str, content: str = "", **fields: Any) -> FullFact:
    """Describe a file whose size and digest are those of `content`."""
    data = content.encode()
    given = {
        "type": "f", "size": len(data), "mtime_ns": MTIME, "mode": 0o644, "uid": 0, "gid": 0,
        "sha256": hashlib.sha256(data).hexdigest(), "ctime_ns": MTIME, "inode": 7,
    }  # fmt: skip
    return FullFact(**{"path": path, **given, **fields})


def folder(path: str, **fields: Any) -> FullFact:
    """Describe a folder."""
    return file(path, **{"type": "d", "mode": 0o755, "sha256": None, **fields})


class WrittenJob:
    """Runs of one job, an hour apart, with ids that begin with the job's name and a number."""

    def __init__(self, url: str, job: str = "docs", place: Path = Path("/backups")) -> None:
        self.url = url
        self.job = job
        self.place = place
        self.database = Database(url)
        self.history = History(self.database)
        self.runs: list[Snapshot] = []

    def run(
        self,
        *records: FullFact,
        gone: Sequence[str] = (),
        base: Snapshot | None = None,
        mode: str = "full",
        encrypted: bool = False,
        tags: Sequence[str] = (),
        status: str = "success",
        counts: dict[str, Any] | None = None,
        run_id: str | None = None,
    ) -> Snapshot:
        """Write a run; without `base` a full one."""
        number = len(self.runs) + 1
        run_id = run_id or f"{self.job[:4]:_<4}{number:04d}-0000-4000-8000-{number:012d}"
        now = BEGIN + timedelta(hours=number - 1)
        catalog = Catalog(self.url)
        seq = catalog.begin_run(run_id, kind="backup", job=self.job, options={}, now=now)
        catalog.close()
        if base is not None and mode == "full":
            mode = "incremental"
        path = self.place / f"{self.job}-{number}.zip"
        if self.place.is_dir():
            path.touch()
        archive = StoredArchive(
            name=str(path), format="zip", encrypted=encrypted, members=len(records),
            created_at=now, volumes=[Volume(uri=path.as_uri(), size=1000, sha256="a" * 64)],
        )  # fmt: skip
        end = SnapshotEnd(
            run_id=run_id, job=self.job, seq=seq, status=status, mode=mode,
            base_run=base.run_id if base else None, base_seq=base.seq if base else None,
            full_run=(base.full_run or base.run_id) if base else run_id,
            finished_at=now + timedelta(minutes=1), counts=counts or {"new": len(records)},
            tags=tags,
        )  # fmt: skip
        with self.database.transaction() as connection:
            write_snapshot(connection, end, archive, records, gone)
        (found,) = self.history.find(run_id)
        self.runs.append(found)
        return found

    def consolidation(self, snapshot: Snapshot, size: int) -> None:
        """Enter an archive for a snapshot as a consolidation does that was killed at work on it."""
        uri = (self.place / f"{self.job}-unfinished.zip").as_uri()
        enter_unfinished(
            self.database, snapshot, name=str(snapshot.archive), format="zip", encrypted=False,
            members=9, volumes=[Volume(uri=uri, size=size, sha256="b" * 64)],
        )  # fmt: skip

    def close(self) -> None:
        """Close the catalog."""
        self.database.close()
