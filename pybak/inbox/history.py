"""What was stored before, as the catalog knows it: by name, by size, by digest, by file.

Only looks. Every method raises CatalogError.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pybak.catalog.rows import unwrapped
from pybak.inbox import states
from pybak.inbox.found import Identity
from pybak.inbox.rows import Stored, chunks, stored_columns, stored_of

if TYPE_CHECKING:
    from pybak.catalog.engine import Database


class History:
    """The files that went to a destination, from whatever inbox; `job` is the one that asks."""

    def __init__(self, database: Database, job: str, destination: str) -> None:
        self._database = database
        self._job = job
        self._destination = destination
        from pybak.catalog.models import ProcessedFile

        self._table: Any = ProcessedFile.__table__  # type: ignore[attr-defined]

    @property
    def is_empty(self) -> bool:
        """Whether no file ever went to the destination, or was about to."""
        from sqlalchemy import select

        table = self._table.c
        query = (
            select(table.id)
            .where(table.destination == self._destination)
            .order_by(table.id.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            return connection.execute(query).scalar() is None

    def kept(self, digests: Sequence[str] | None = None) -> dict[Identity, Stored]:
        """Give the inbox's files that were kept when they were done, and what was stored of each.

        `digests` asks for files with these alone. Of a duplicate it is what that repeats.
        """
        from sqlalchemy import func, select

        table, copy = self._table.c, self._table.alias("copy")
        query = (
            select(
                table.path, table.size, table.mtime_ns, table.inode, *stored_columns(copy.c)
            )
            .join(copy, copy.c.id == func.coalesce(table.duplicate_of, table.id))
            .where(
                table.job_id == job_query(self._job), table.destination == self._destination,
                table.state.in_((states.DONE, states.DUPLICATE)), table.kept,
                copy.c.name.is_not(None),
            )
            .order_by(table.id)
        )  # fmt: skip
        found: dict[Identity, Stored] = {}
        queries = [query]
        if digests is not None:
            queries = [query.where(table.sha256.in_(some)) for some in chunks(digests)]
        with self._database.reading() as connection:
            for one in queries:
                for path, size, mtime_ns, inode, *stored in connection.execute(one):
                    identity = (os.fsencode(path), size, mtime_ns, unwrapped(inode))
                    found[identity] = stored_of(stored)
        return found

    def of_sizes(self, sizes: Iterable[int], most: int) -> dict[int, set[str]]:
        """Give the digests of files of these sizes that were stored.

        At most `most` of a size: where there are more, none.
        """
        from sqlalchemy import select

        table = self._table.c
        found: dict[int, set[str]] = {}
        with self._database.reading() as connection:
            for some in chunks(sorted(set(sizes))):
                query = select(table.size, table.sha256).where(
                    table.size.in_(some), *self._is_stored()
                ).distinct()  # fmt: skip
                for size, sha256 in connection.execute(query):
                    found.setdefault(size, set()).add(sha256)
        return {size: digests for size, digests in found.items() if len(digests) <= most}

    def of_digests(self, digests: Iterable[str]) -> dict[str, list[Stored]]:
        """Give the files with these digests that were stored, the newest first."""
        from sqlalchemy import select

        table = self._table.c
        found: dict[str, list[Stored]] = {}
        with self._database.reading() as connection:
            for some in chunks(sorted(set(digests))):
                query = (
                    select(*stored_columns(table))
                    .where(table.sha256.in_(some), *self._is_stored())
                    .order_by(table.id.desc())
                )
                for stored in connection.execute(query):
                    one = stored_of(stored)
                    found.setdefault(one.sha256, []).append(one)
        return found

    def _is_stored(self) -> tuple[Any, ...]:
        table = self._table.c
        return (
            table.destination == self._destination, table.state.in_(states.THERE),
            table.name.is_not(None), table.sha256.is_not(None),
        )  # fmt: skip


def job_query(name: str) -> Any:
    """Give the query for a job's number; there is none before its first row is written."""
    from sqlalchemy import select

    from pybak.catalog.models import Job

    return select(Job.id).where(Job.name == name).scalar_subquery()  # type: ignore[call-overload]
