"""All questions in one place; each is one transaction that reads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pybak.overview.paging import LIMIT, Page

if TYPE_CHECKING:
    from pybak.catalog.engine import Database
    from pybak.overview.alive import Asked
    from pybak.overview.facts import (
        ArchiveDetails,
        ArchiveSummary,
        ErrorFact,
        Found,
        JobState,
        Member,
        RunDetails,
        RunSummary,
        Schedule,
        SnapshotFact,
        StorageUse,
        VersionFact,
    )


class Overview:
    """What a catalog knows. Nothing is opened before the first question; safe among threads.

    `asked` tells which runs are at work, as far as somebody else knows (`pybak.overview.alive`).
    `now` is aware wherever it is taken. Every question raises CatalogError where the catalog can't
    be read, PlanError for a cursor or limit that can't be, NotFoundError for what is not there.
    Names on disk are bytes, all else is text.
    """

    def __init__(self, database: Database, *, asked: Asked | None = None) -> None:
        self._database = database
        self._asked = asked

    def jobs(
        self, now: datetime, schedules: Mapping[str, Schedule] | None = None
    ) -> list[JobState]:
        """Judge all jobs (`pybak.overview.states`), the worst first, then by name.

        `schedules` are what the caller knows, by the job's name.
        """
        from pybak.overview.alive import Liveness
        from pybak.overview.jobs import job_states

        with self._database.reading() as connection:
            return job_states(connection, Liveness(self._asked), now, schedules or {})

    def runs(
        self,
        *,
        job: str | None = None,
        kind: str | None = None,
        status: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
        limit: int = LIMIT,
        now: datetime | None = None,
    ) -> Page[RunSummary]:
        """List runs that began from `since` on and before `until`, the newest first."""
        from pybak.overview.alive import Liveness
        from pybak.overview.runs import list_runs

        with self._database.reading() as connection:
            return list_runs(
                connection, Liveness(self._asked), now or datetime.now(UTC), job=job, kind=kind,
                status=status, since=since, until=until, cursor=cursor, limit=limit,
            )  # fmt: skip

    def run(self, run_id: str, *, now: datetime | None = None) -> RunDetails:
        """Give one run with its archive."""
        from pybak.overview.alive import Liveness
        from pybak.overview.runs import run_details

        with self._database.reading() as connection:
            alive = Liveness(self._asked)
            return run_details(connection, alive, now or datetime.now(UTC), run_id)

    def run_of_flow(self, flow_run: str) -> str | None:
        """Give the id of the run that is Prefect's flow run `flow_run`; None if none is yet."""
        from pybak.overview.runs import run_of_flow

        with self._database.reading() as connection:
            return run_of_flow(connection, flow_run)

    def errors(
        self, run_id: str, *, cursor: str | None = None, limit: int = LIMIT
    ) -> Page[ErrorFact]:
        """List what a run could not save."""
        from pybak.overview.runs import list_errors

        with self._database.reading() as connection:
            return list_errors(connection, run_id, cursor=cursor, limit=limit)

    def active(self, *, now: datetime | None = None) -> list[RunSummary]:
        """List the runs at work, the newest first, without those that died."""
        from pybak.overview.alive import Liveness
        from pybak.overview.facts import DIED
        from pybak.overview.runs import running

        with self._database.reading() as connection:
            found = running(connection, Liveness(self._asked), now or datetime.now(UTC))
        return [one for one in found if one.status != DIED]

    def problems(
        self, *, now: datetime | None = None, within: timedelta = timedelta(days=7), limit: int = 10
    ) -> list[RunSummary]:
        """List the newest runs that failed, are partial or died, begun `within` this time."""
        from pybak.overview.alive import Liveness
        from pybak.overview.runs import problems

        moment = now or datetime.now(UTC)
        with self._database.reading() as connection:
            alive = Liveness(self._asked)
            return problems(connection, alive, moment, since=moment - within, limit=limit)

    def archives(
        self, *, job: str | None = None, cursor: str | None = None, limit: int = LIMIT
    ) -> Page[ArchiveSummary]:
        """List archives, the newest first, without those on their way out."""
        from pybak.overview.archives import list_archives

        with self._database.reading() as connection:
            return list_archives(connection, job=job, cursor=cursor, limit=limit)

    def archive(self, archive_id: int) -> ArchiveDetails:
        """Give one archive with its files, copies and checks."""
        from pybak.overview.archives import archive_details

        with self._database.reading() as connection:
            return archive_details(connection, archive_id)

    def members(
        self,
        archive_id: int,
        *,
        match: str | None = None,
        prefix: bytes | None = None,
        cursor: str | None = None,
        limit: int = LIMIT,
    ) -> Page[Member]:
        """List what an archive holds, by name: all, below a folder, or what `match` finds."""
        from pybak.overview.members import list_members

        with self._database.reading() as connection:
            return list_members(
                connection, archive_id, match=match, prefix=prefix, cursor=cursor, limit=limit
            )

    def tree(
        self,
        job: str,
        *,
        run_id: str | None = None,
        folder: bytes = b"",
        cursor: str | None = None,
        limit: int = LIMIT,
    ) -> Page[Member]:
        """List one folder of a snapshot, the newest without `run_id`: folders first, by name."""
        from pybak.overview.tree import list_folder

        with self._database.reading() as connection:
            return list_folder(
                connection, job=job, run_id=run_id, folder=folder, cursor=cursor, limit=limit
            )

    def search(
        self,
        text: str,
        *,
        job: str | None = None,
        cursor: str | None = None,
        limit: int = LIMIT,
        patience_seconds: float = 0.0,
    ) -> Page[Found]:
        """Find members by a part of their name or a pattern (`pybak.overview.matching`).

        One page looks at a bounded number of names, and may be empty though others follow. With
        `patience_seconds` it goes on that long, until the page is full.
        """
        from pybak.overview.search import search_members

        deadline = time.monotonic() + patience_seconds
        items: list[Found] = []
        while True:
            with self._database.reading() as connection:
                page = search_members(
                    connection, text, job=job, cursor=cursor, limit=limit - len(items)
                )
            items += page.items
            cursor = page.next
            if cursor is None or len(items) >= limit or time.monotonic() >= deadline:
                return Page(tuple(items), cursor)

    def versions(
        self, job: str, path: bytes, *, cursor: str | None = None, limit: int = LIMIT
    ) -> Page[VersionFact]:
        """List the versions of a member that can be restored, the newest first."""
        from pybak.overview.versions import list_versions

        with self._database.reading() as connection:
            return list_versions(connection, job=job, path=path, cursor=cursor, limit=limit)

    def snapshots(
        self, *, job: str | None = None, cursor: str | None = None, limit: int = LIMIT
    ) -> Page[SnapshotFact]:
        """List the states that can be restored, the newest first."""
        from pybak.overview.runs import list_snapshots

        with self._database.reading() as connection:
            return list_snapshots(connection, job=job, cursor=cursor, limit=limit)

    def storage(self) -> StorageUse:
        """Give what archives and copies take, by job and place."""
        from pybak.overview.storage import storage_use

        with self._database.reading() as connection:
            return storage_use(connection)
