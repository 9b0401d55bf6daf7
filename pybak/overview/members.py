"""What one archive holds, by name, from the catalog.

A small archive is found by the index of archives. The members of a large one lie close together
among the names of its job, which are gone through, `WINDOW` rows a page at most; a page may so be
short, or empty, and still have a `next`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from pybak.catalog.models import unescaped
from pybak.catalog.rows import Row, is_postgres
from pybak.overview.archives import no_archive
from pybak.overview.facts import Member
from pybak.overview.matching import Matcher, matcher
from pybak.overview.member import COLUMNS, member_of, stored_name
from pybak.overview.names import PAST_FOLDER, matching, names_of, rows_at_once, window
from pybak.overview.paging import Page, checked_limit, from_cursor, to_cursor
from pybak.overview.sql import row, rows, times

WINDOW: Final = 20_000
SMALL: Final = 5000
"""An archive of this many members at most is read as a whole, and sorted."""


def list_members(
    connection: Connection,
    archive_id: int,
    *,
    match: str | None,
    prefix: bytes | None,
    cursor: str | None,
    limit: int,
) -> Page[Member]:
    """List the members of an archive, of those below the folder `prefix` and that `match` takes.

    `match` is as for a search. Raises NotFoundError.
    """
    limit = checked_limit(limit)
    key = from_cursor(cursor, (str,))
    archive = row(
        connection,
        "SELECT j.id, a.members FROM archive a LEFT JOIN job j ON j.name = a.job WHERE a.id = ?",
        (archive_id,),
    )
    if archive is None:
        raise no_archive(archive_id)
    job, size = archive
    if job is None:
        return Page(())
    folder = stored_name(prefix) if prefix is not None else ""
    after = folder + "/" if folder else ""
    if key is not None:
        after = max(after, str(key[0]))
    listing = _Listing(
        connection, int(job), archive_id, matcher(match) if match is not None else None,
        folder + PAST_FOLDER if folder else None,
    )  # fmt: skip
    if size <= SMALL:
        return listing.sorted(after, limit)
    return listing.passed(after, limit)


class _Listing:
    def __init__(
        self,
        connection: Connection,
        job: int,
        archive: int,
        wanted: Matcher | None,
        before: str | None,
    ) -> None:
        self._connection = connection
        self._job = job
        self._archive = archive
        self._wanted = wanted
        self._before = before

    def _condition(self, column: str) -> tuple[str, Row]:
        # What only refers to the archive is a member of others.
        condition, values = f"{column} = ? AND member IS NULL", (self._archive,)
        if self._wanted is None:
            return condition, values
        also, likes = self._wanted.where("path", postgres=is_postgres(self._connection))
        return f"{also} AND {condition}", (*likes, *values)

    def sorted(self, after: str, limit: int) -> Page[Member]:
        """Give a page by the index of archives."""
        names = names_of(self._connection)
        condition, values = self._condition("archive_id")
        parameters: Row = (*values, after)
        below = ""
        if self._before is not None:
            below = f" AND {names.path} < ?"
            parameters = (*parameters, self._before)
        statement = (
            f"SELECT {names.path} AS name FROM file_version WHERE {condition} "  # noqa: S608 - our own names
            f"AND {names.path} > ?{below} GROUP BY 1 ORDER BY 1"
        )
        found = [one[0] for one in rows(self._connection, statement, parameters)]
        hits = self._hits(found)
        items = self._members(hits[:limit])
        return Page(tuple(items), to_cursor(hits[limit - 1]) if len(hits) > limit else None)

    def passed(self, after: str, limit: int) -> Page[Member]:
        """Give a page by going through the names of the job."""
        # "+" keeps planners from the index of archives, which has all of its members.
        part = window(
            self._connection,
            self._job,
            after=after,
            before=self._before,
            most=rows_at_once(self._connection, WINDOW),
        )
        hits: list[str] = []
        while True:
            found = matching(
                self._connection, self._job, after=after, window=part,
                condition=self._condition("+archive_id"), count=limit + 1,
            )  # fmt: skip
            hits += self._hits(found)
            if len(hits) > limit:
                return Page(tuple(self._members(hits[:limit])), to_cursor(hits[limit - 1]))
            if len(found) <= limit:
                break
            after = found[-1]
        end = part.last(names_of(self._connection))
        return Page(tuple(self._members(hits)), None if end is None else to_cursor(end))

    def _hits(self, found: list[str]) -> list[str]:
        wanted = self._wanted
        return [one for one in found if wanted is None or wanted.matches(unescaped(one))]

    def _members(self, paths: list[str]) -> list[Member]:
        if not paths:
            return []
        values = times("(CAST(? AS TEXT))", len(paths))
        table = names_of(self._connection).table.replace("file_version", "file_version v", 1)
        statement = (
            f"WITH w(name) AS (VALUES {values}) SELECT {COLUMNS} FROM w CROSS JOIN {table} "  # noqa: S608 - our own names
            "WHERE v.job_id = ? AND v.path = w.name AND v.archive_id = ? AND v.member IS NULL"
        )
        found = rows(self._connection, statement, (*paths, self._job, self._archive))
        by_name = {one[0]: member_of(one) for one in found}
        return [by_name[path] for path in paths if path in by_name]
