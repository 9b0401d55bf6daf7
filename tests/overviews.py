"""Catalogs to look at: runs and snapshots written by the code that flows use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pybak.catalog.facts import Snapshot
from pybak.catalog.history import History
from pybak.catalog.runs import Catalog
from pybak.catalog.snapshots import SnapshotEnd, StoredArchive, write_snapshot
from pybak.formats.manifest_facts import FullFact
from pybak.overview import Overview, Page
from pybak.volumes.model import Volume

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
T = TypeVar("T")


def fact(path: bytes | str, size: int = 1, kind: str = "f") -> FullFact:
    """Give a member; one of another size is another version."""
    return FullFact(
        path=os.fsdecode(path), type=kind, size=size, mtime_ns=size * 10**9, mode=0o640, uid=0,
        gid=0, sha256=f"{size:064x}" if kind == "f" else None,
    )  # fmt: skip


def with_folders(paths: Sequence[bytes], size: int = 1) -> list[FullFact]:
    """Give these files and all folders above them."""
    above = {
        b"/".join(parts[:end])
        for path in paths
        for parts in [path.split(b"/")]
        for end in range(1, len(parts))
    }
    return [fact(one, 0, "d") for one in sorted(above)] + [fact(one, size) for one in paths]


class Written:
    """Writes runs into the catalog at a URL, and looks at them."""

    def __init__(self, url: str) -> None:
        self.catalog = Catalog(url)
        self.history = History(self.catalog.database)
        self.overview = Overview(self.catalog.database)
        self.count = 0

    def begin(self, job: str = "docs", kind: str = "backup", *, ago: timedelta, **more: Any) -> str:
        """Begin a run `ago` before NOW; give its id."""
        self.count += 1
        run_id = f"{self.count:08d}-run"
        self.catalog.begin_run(run_id, kind=kind, job=job, options={}, now=NOW - ago, **more)
        return run_id

    def end(
        self,
        status: str,
        job: str = "docs",
        kind: str = "backup",
        *,
        ago: timedelta,
        counts: Mapping[str, Any] | None = None,
        archive: str | None = None,
        message: str | None = None,
    ) -> str:
        """Begin a run that ends 10 seconds later."""
        run_id = self.begin(job, kind, ago=ago)
        self.catalog.finish_run(
            run_id, status=status, counts=counts or {}, now=NOW - ago + timedelta(seconds=10),
            archive=archive, message=message,
        )  # fmt: skip
        return run_id

    def back_up(
        self,
        records: Sequence[FullFact] = (),
        job: str = "docs",
        *,
        ago: timedelta = timedelta(minutes=1),
        base: Snapshot | None = None,
        gone: Sequence[str] = (),
        status: str = "success",
        errors: Sequence[tuple[str, str, str]] = (),
        counts: Mapping[str, Any] | None = None,
        place: str = "/backups",
        size: int = 7,
    ) -> Snapshot:
        """Record a snapshot: full, or the difference to `base`."""
        run_id = self.begin(job, ago=ago)
        run = self.catalog.get_run(run_id)
        assert run is not None
        started = NOW - ago
        archive = StoredArchive(
            name=f"{place}/{run_id}.zip", format="zip", encrypted=False, members=len(records),
            created_at=started,
            volumes=[Volume(uri=f"file://{place}/{run_id}.zip", size=size, sha256="a" * 64)],
        )  # fmt: skip
        end = SnapshotEnd(
            run_id=run_id, job=job, seq=run.seq, status=status,
            mode="incremental" if base else "full", base_run=base.run_id if base else None,
            base_seq=base.seq if base else None,
            full_run=(base.full_run or base.run_id) if base else run_id,
            finished_at=started + timedelta(seconds=10), counts=counts or {}, errors=errors,
        )  # fmt: skip
        with self.catalog.database.transaction() as connection:
            write_snapshot(connection, end, archive, records, gone)
        (found,) = self.history.find(run_id)
        return found

    def archive_id(self, snapshot: Snapshot) -> int:
        """Give the number of the archive that a snapshot's run made."""
        found = self.history.archives_of_job(snapshot.job)
        return next(one.id for one in found if one.run_id == snapshot.run_id)


def all_of(pages: Callable[[str | None], Page[T]], *, most: int = 10_000) -> list[T]:
    """Read a list to its end, page by page."""
    items: list[T] = []
    cursor: str | None = None
    for _ in range(most):
        page = pages(cursor)
        items += page.items
        if page.next is None:
            return items
        assert page.next != cursor, "it does not get on"
        cursor = page.next
    raise AssertionError("it never ends")
