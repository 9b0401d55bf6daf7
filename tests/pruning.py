"""A shelf of archives with a catalog that knows them, made without running backups.

Each archive is one small file or more, which hold nothing but their name: what a prune looks at
is that they are there, and their sizes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dying import PRUNE_CHANGES, PRUNE_WRITERS, die_at

from pybak.catalog.engine import Database
from pybak.catalog.facts import Snapshot
from pybak.catalog.history import History
from pybak.catalog.runs import Catalog
from pybak.catalog.snapshots import SnapshotEnd, StoredArchive, write_snapshot
from pybak.formats.manifest_facts import FullFact
from pybak.options import PruneOptions
from pybak.report import JobPrune
from pybak.retention.run import PruneRun
from pybak.storage.body import BytesBody
from pybak.storage.opening import join
from pybak.storage.protocol import Storage
from pybak.volumes.model import Volume

T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)
FULL, INCREMENTAL, DIFFERENTIAL = "full", "incremental", "differential"


class Shelf:
    """Archives of one or more jobs in `folder`, one made a day."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        folder.mkdir(parents=True, exist_ok=True)
        self.database = Database(url)
        self.history = History(self.database)
        self.days = 0

    def add(
        self,
        content: Mapping[str, int],
        *,
        mode: str = FULL,
        job: str = "docs",
        gone: Sequence[str] = (),
        status: str = "success",
        tags: Sequence[str] = (),
        volumes: int = 1,
        name: str | None = None,
    ) -> Snapshot:
        """Make a run whose archive holds `content`: names of members, and what stands for them."""
        base = None
        if mode != FULL:
            base = self.history.newest(job) if mode == INCREMENTAL else self.full(job)
        self.days += 1
        now = T0 + timedelta(days=self.days)
        run_id = f"{job}-{self.days:04d}-0000"
        catalog = Catalog(self.url)
        seq = catalog.begin_run(run_id, kind="backup", job=job, options={}, now=now)
        catalog.close()
        name = name or f"{job}_{self.days:04d}.zip"
        end = SnapshotEnd(
            run_id=run_id, job=job, seq=seq, status=status, mode=mode,
            base_run=base.run_id if base else None, base_seq=base.seq if base else None,
            full_run=(base.full_run or base.run_id) if base else run_id,
            finished_at=now + timedelta(minutes=1), counts={}, tags=tags,
        )  # fmt: skip
        archive = StoredArchive(
            name=self.path(name), format="zip", encrypted=False, members=len(content),
            created_at=now,
            volumes=[
                self.volume(name if volumes == 1 else f"{name}.{number + 1:03d}")
                for number in range(volumes)
            ],
        )  # fmt: skip
        facts = [
            FullFact(path=one, type="f", size=value, mtime_ns=0, mode=0o644, uid=0, gid=0,
                     sha256=f"{value:064x}")
            for one, value in content.items()
        ]  # fmt: skip
        with self.database.transaction() as connection:
            write_snapshot(connection, end, archive, facts, gone)
        return self.snapshot(run_id)

    def full(self, job: str) -> Snapshot:
        found = self.history.newest_full(job)
        assert found is not None
        return found

    def snapshot(self, run_id: str) -> Snapshot:
        (found,) = self.history.find(run_id)
        return found

    def path(self, name: str) -> str:
        """Give what people call an archive."""
        return str(self.folder / name)

    def volume(self, name: str) -> Volume:
        """Make a file of an archive."""
        path = self.folder / name
        path.write_bytes(content_of(name))
        return Volume(uri=path.as_uri(), size=path.stat().st_size, sha256="0" * 64)

    def run(self, **rules: object) -> PruneRun:
        options = PruneOptions(**rules)  # type: ignore[arg-type]
        return PruneRun(options, catalog_url=self.url, now=T0 + timedelta(days=60), timezone=UTC)

    def prune(self, job: str = "docs", **rules: object) -> JobPrune:
        with self.run(**rules) as run, run.locked(job, print):
            return run.prune(run.plan(job))

    def rehearse(self, job: str = "docs", **rules: object) -> JobPrune:
        with self.run(**rules) as run:
            (found,) = run.rehearse([job]).jobs
            return found

    def files(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def seqs(self, job: str = "docs") -> list[int]:
        return [one.seq for one in self.history.snapshots(job)]

    def held(self, snapshot: Snapshot) -> dict[str, int]:
        """Give what a snapshot holds, having seen that every archive it needs is there."""
        archives = {one.id: one for one in self.history.archives(snapshot)}
        found = {}
        for version in self.history.versions(snapshot):
            archive = archives[version.archive_id]
            assert not archive.is_leaving
            for volume in archive.volumes:
                assert self.size(volume.uri) == volume.size
            found[version.path.decode()] = version.size
        return found

    def size(self, uri: str) -> int:
        """Give the size of a file, which must be there."""
        return Path(uri.removeprefix("file://")).stat().st_size

    def counts(self) -> dict[str, int]:
        """Count the rows of each table that a prune takes rows from."""
        with self.database.reading() as connection:
            return {
                table: connection.exec_driver_sql(f"SELECT COUNT(*) FROM {table}").scalar_one()
                for table in ("archive", "volume", "file_version")
            }


def content_of(name: str) -> bytes:
    """Give what a file of an archive holds."""
    return b"x" * (1000 + len(name))


class StoredShelf(Shelf):
    """Archives in a storage; `folder` is there for others."""

    def __init__(self, storage: Storage, folder: Path, url: str) -> None:
        super().__init__(folder, url)
        self.storage = storage

    def path(self, name: str) -> str:
        """Give an address."""
        return join(self.storage.address, name)

    def volume(self, name: str) -> Volume:
        """Put a file into the storage."""
        size = self.storage.put(name, BytesBody(content_of(name))).size
        return Volume(uri=self.path(name), size=size, sha256="0" * 64)

    def files(self) -> list[str]:
        """List what is there by now."""
        return sorted(found.name for found in self.storage.list())

    def size(self, uri: str) -> int:
        """Give the size of a file, which must be there."""
        found = self.storage.stat(uri.removeprefix(f"{self.storage.address}/"))
        assert found is not None, uri
        return found.size


def names(*numbers: int, job: str = "docs") -> list[str]:
    return [f"{job}_{number:04d}.zip" for number in numbers]


def killed_at(shelf: Shelf, step: int) -> None:
    """Prune, and die by SIGKILL before the `step`th change to storage or catalog is made.

    They are: the commit of the mark, each file, the commit of the end.
    """
    die_at(step, lambda: shelf.prune(keep_last=1), changes=PRUNE_CHANGES, writers=PRUNE_WRITERS)
