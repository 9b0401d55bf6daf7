"""The versions of one member that can be restored, the newest first."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from pybak.catalog.models import escaped, unescaped
from pybak.catalog.rows import Row, by_name
from pybak.overview.facts import VersionFact
from pybak.overview.member import COLUMNS, job_number, member_of, stored_name
from pybak.overview.paging import Page, checked_limit, from_cursor, to_cursor
from pybak.overview.sql import moment, row, rows, times

MOST: Final = 1000
"""How many rows a page looks at, at most: some may be in no snapshot any more."""
_SEEN: Final = (
    "(SELECT r.seq FROM run r WHERE r.job = ? AND r.is_snapshot = TRUE AND r.seq >= v.first_seq "
    "AND r.seq < COALESCE(v.gone_seq, 2147483647) ORDER BY r.seq {} LIMIT 1)"
)


def list_versions(
    connection: Connection, *, job: str, path: bytes, cursor: str | None, limit: int
) -> Page[VersionFact]:
    """List what a member was like, the newest first; nothing for a name that is in no backup.

    Rows of one record in the same archive are one version, in all snapshots between. Raises
    NotFoundError for a job.
    """
    limit = checked_limit(limit)
    key = from_cursor(cursor, (int,))
    number = job_number(connection, job)
    name = escaped(job)
    named = by_name(connection)
    table = named.table.replace("file_version", "file_version v", 1)
    mark = named.job_id.replace("job_id", "v.job_id")
    statement = (
        f"SELECT {COLUMNS}, v.archive_id, v.first_seq, {_SEEN.format('ASC')}, "  # noqa: S608 - our own names
        f"{_SEEN.format('DESC')} FROM {table} WHERE {mark} = ? AND v.path = ? AND v.first_seq < ? "
        "ORDER BY v.first_seq DESC LIMIT ?"
    )
    before = 1 << 31 if key is None else key[0]
    place = (name, name, number, stored_name(path), min(int(before or 0), (1 << 31) - 1), MOST)
    found = rows(connection, statement, place)
    kept: list[Row] = []
    for one in found:
        if one[-1] is None:
            continue
        # A record in two rows, because snapshots between lack it or have another version.
        if kept and kept[-1][6] == one[6] and kept[-1][:6] == one[:6]:
            kept[-1] = (*one[:-1], kept[-1][-1])
            continue
        if len(kept) == limit:
            return Page(_facts(connection, name, kept), to_cursor(kept[-1][7]))
        kept.append(one)
    end = to_cursor(found[-1][7]) if len(found) == MOST else None
    return Page(_facts(connection, name, kept), end)


def _facts(connection: Connection, job: str, kept: list[Row]) -> tuple[VersionFact, ...]:
    seqs = sorted({seq for one in kept for seq in one[-2:]})
    runs = {}
    for at in range(0, len(seqs), 500):
        some = seqs[at : at + 500]
        statement = (
            "SELECT seq, run_id, started_at FROM run WHERE job = ? "  # noqa: S608 - our own names
            f"AND seq IN ({times('?', len(some))})"
        )
        for seq, run_id, started in rows(connection, statement, (job, *some)):
            runs[seq] = (unescaped(run_id), moment(started))
    newest = row(
        connection, "SELECT MAX(seq) FROM run WHERE job = ? AND is_snapshot = TRUE", (job,)
    )
    facts = []
    for *member, archive, _, first, last in kept:
        (first_run, first_at), (last_run, last_at) = runs[first], runs[last]
        facts.append(
            VersionFact(
                member=member_of(tuple(member)), archive_id=archive, first_run=first_run,
                first_at=first_at, last_run=last_run, last_at=last_at,
                is_current=newest is not None and newest[0] == last,
            )
        )  # fmt: skip
    return tuple(facts)
