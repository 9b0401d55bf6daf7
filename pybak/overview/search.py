"""Find members by name, in all jobs or one, in the order of their paths.

No index finds a part of a name (docs/decisions/0036). So names are gone through in the order of
the index, `WINDOW` rows a page at most; a page may so be short, or empty, and still have a `next`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from pybak.catalog.models import escaped, unescaped
from pybak.catalog.rows import Row, is_postgres
from pybak.overview.facts import Found
from pybak.overview.matching import matcher
from pybak.overview.member import COLUMNS, job_number, member_of
from pybak.overview.names import matching, names_of, rows_at_once, window
from pybak.overview.paging import Page, checked_limit, from_cursor, to_cursor
from pybak.overview.sql import moment, row, rows, times

WINDOW: Final = 25_000
_AT_ONCE: Final = 100
_FOREVER: Final = 2_147_483_647
_LAST_SEEN: Final = (
    "(SELECT MAX(r.seq) FROM run r WHERE r.job = ? AND r.is_snapshot = TRUE "  # noqa: S608 - our own words
    f"AND r.seq >= v.first_seq AND r.seq < COALESCE(v.gone_seq, {_FOREVER}))"
)


def search_members(
    connection: Connection, text: str, *, job: str | None, cursor: str | None, limit: int
) -> Page[Found]:
    """List the members that match `text` (`pybak.overview.matching`) and can be restored.

    Raises NotFoundError for a job, PlanError for nothing to look for.
    """
    limit = checked_limit(limit)
    wanted = matcher(text)
    key = from_cursor(cursor, (int, str))
    at, last = (-1, "") if key is None else (int(key[0] or 0), str(key[1]))
    only = None if job is None else job_number(connection, job)
    condition = wanted.where("path", postgres=is_postgres(connection))
    count = max(limit + 1, _AT_ONCE)
    left = rows_at_once(connection, WINDOW)
    items: list[Found] = []
    shown = (0, "")
    for number, name in _jobs(connection, at, only):
        after = last if number == at else ""
        part = window(connection, number, after=after, before=None, most=left)
        while True:
            passed = matching(
                connection, number, after=after, window=part, condition=condition, count=count
            )
            hits = [one for one in passed if wanted.matches(unescaped(one))]
            for found in _newest(connection, number, name, hits):
                if len(items) == limit:
                    return Page(tuple(items), to_cursor(*shown))
                items.append(found)
                shown = (number, escaped(found.member.path))
            if len(passed) < count:
                break
            after = passed[-1]
        if (end := part.last(names_of(connection))) is not None:
            return Page(tuple(items), to_cursor(number, end))
        left -= part.rows
        if left <= 0 and only is None:
            return Page(tuple(items), _next_job(connection, number))
    return Page(tuple(items))


def _jobs(connection: Connection, at: int, only: int | None) -> list[tuple[int, str]]:
    """List number and stored name of the jobs to look into, from the number `at` on."""
    if only is not None:
        found = rows(connection, "SELECT id, name FROM job WHERE id = ?", (only,))
    else:
        found = rows(connection, "SELECT id, name FROM job WHERE id >= ? ORDER BY id", (at,))
    return [(number, name) for number, name in found]


def _next_job(connection: Connection, number: int) -> str | None:
    found = row(connection, "SELECT MIN(id) FROM job WHERE id > ?", (number,))
    return None if found is None or found[0] is None else to_cursor(int(found[0]), "")


def _newest(connection: Connection, job: int, job_name: str, paths: list[str]) -> Iterator[Found]:
    """Yield, of members, the newest version that can be restored."""
    if not paths:
        return
    table = names_of(connection).table
    values = times("(CAST(? AS TEXT))", len(paths))
    last_of = (
        f"SELECT MAX(x.first_seq) FROM {table.replace('file_version', 'file_version x', 1)} "  # noqa: S608 - our own names
        "WHERE x.job_id = ? AND x.path = w.name"
    )
    statement = (
        f"WITH w(name) AS (VALUES {values}) SELECT {COLUMNS}, {_LAST_SEEN} FROM w CROSS JOIN "  # noqa: S608 - our own names
        f"{table.replace('file_version', 'file_version v', 1)} WHERE v.job_id = ? "
        f"AND v.path = w.name AND v.first_seq = ({last_of})"
    )
    found = {one[0]: one for one in rows(connection, statement, (*paths, job_name, job, job))}
    newest = row(
        connection,
        "SELECT MAX(seq) FROM run WHERE job = ? AND is_snapshot = TRUE", (job_name,),
    )  # fmt: skip
    for path, one in list(found.items()):
        if one[-1] is None:  # its newest version is in no snapshot any more; an older one may be
            older = _newest_kept(connection, job, job_name, path)
            if older is None:
                del found[path]
            else:
                found[path] = older
    runs = _runs(connection, job_name, {one[-1] for one in found.values()})
    for path in paths:
        if path in found:
            *member, seq = found[path]
            run_id, seen = runs[seq]
            yield Found(
                job=unescaped(job_name), member=member_of(tuple(member)), run_id=run_id,
                seen_at=seen, is_current=newest is not None and newest[0] == seq,
            )  # fmt: skip


def _newest_kept(connection: Connection, job: int, job_name: str, path: str) -> Row | None:
    table = names_of(connection).table.replace("file_version", "file_version v", 1)
    statement = (
        f"SELECT * FROM (SELECT {COLUMNS}, {_LAST_SEEN} AS seen FROM {table} WHERE v.job_id = ? "  # noqa: S608 - our own names
        "AND v.path = ?) AS versions WHERE seen IS NOT NULL ORDER BY seen DESC LIMIT 1"
    )
    return row(connection, statement, (job_name, job, path))


def _runs(connection: Connection, job: str, seqs: set[int]) -> dict[int, tuple[str, datetime]]:
    if not seqs:
        return {}
    statement = (
        "SELECT seq, run_id, started_at FROM run WHERE job = ? "  # noqa: S608 - our own names
        f"AND seq IN ({times('?', len(seqs))})"
    )
    return {
        seq: (unescaped(run), moment(started))
        for seq, run, started in rows(connection, statement, (job, *seqs))
    }
