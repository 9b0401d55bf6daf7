"""Archives: lists, and one with its files, copies and checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection

from pybak.catalog.models import DELETING, escaped, unescaped
from pybak.catalog.rows import Row
from pybak.errors import NotFoundError
from pybak.overview.facts import (
    ArchiveDetails,
    ArchiveSummary,
    Check,
    CopyFacts,
    VolumeFacts,
)
from pybak.overview.paging import Page, checked_limit, from_cursor, page_of
from pybak.overview.sql import moment, row, rows, times

_MOST_CHECKS: Final = 50
_COLUMNS: Final = (
    "a.id, a.run_id, a.job, a.name, a.format, a.encrypted, a.size, a.content_size, a.members, "  # noqa: S608 - our own names
    "a.created_at, a.state, (SELECT COUNT(*) FROM archive_copy c WHERE c.archive_id = a.id "
    f"AND c.state <> '{DELETING}'), "
    "(SELECT MAX(v.id) FROM verification v WHERE v.archive = a.name)"
)
_CHECK_COLUMNS: Final = "run_id, checked_at, status, percent, members, damaged"


def list_archives(
    connection: Connection, *, job: str | None, cursor: str | None, limit: int
) -> Page[ArchiveSummary]:
    """List the archives of a job or of all, the newest first, without those on their way out."""
    limit = checked_limit(limit)
    key = from_cursor(cursor, (int,))
    conditions, parameters = [f"a.state <> '{DELETING}'"], ()
    values: Row = parameters
    if job is not None:
        conditions.append("a.job = ?")
        values = (escaped(job),)
    if key is not None:
        conditions.append("a.id < ?")
        values = (*values, key[0])
    statement = (
        f"SELECT {_COLUMNS} FROM archive a WHERE {' AND '.join(conditions)} "  # noqa: S608 - our own names
        "ORDER BY a.id DESC LIMIT ?"
    )
    found = _summaries(connection, rows(connection, statement, (*values, limit + 1)))
    return page_of(found, limit, [(one.archive_id,) for one in found])


def archive_details(connection: Connection, archive_id: int) -> ArchiveDetails:
    """Give one archive. Raises NotFoundError."""
    found = _details(connection, "a.id = ?", archive_id)
    if found is None:
        raise no_archive(archive_id)
    return found


def no_archive(archive_id: int) -> NotFoundError:
    """Give the error for an archive that is not there."""
    return NotFoundError(f"{archive_id}: no such archive; list them to see which there are")


def archive_of_run(connection: Connection, run_id: str) -> ArchiveDetails | None:
    """Give the archive that a run made; None if there is none, or none any more."""
    return _details(connection, f"a.run_id = ? AND a.state <> '{DELETING}'", escaped(run_id))


def _details(connection: Connection, where: str, value: int | str) -> ArchiveDetails | None:
    statement = f"SELECT {_COLUMNS} FROM archive a WHERE {where} ORDER BY a.id LIMIT 1"  # noqa: S608 - our own names
    found = row(connection, statement, (value,))
    if found is None:
        return None
    number, name = found[0], found[3]
    checks = rows(
        connection,
        f"SELECT {_CHECK_COLUMNS} FROM verification WHERE archive = ? "  # noqa: S608 - our own names
        "ORDER BY id DESC LIMIT ?",
        (name, _MOST_CHECKS),
    )
    volumes = rows(
        connection,
        "SELECT uri, size, sha256 FROM volume WHERE archive_id = ? ORDER BY number",
        (number,),
    )
    return ArchiveDetails(
        summary=_summaries(connection, [found])[0],
        volumes=tuple(map(_volume, volumes)),
        copies=tuple(_copies(connection, number)),
        checks=tuple(map(_check, checks)),
    )


def _summaries(connection: Connection, found: Iterable[Row]) -> list[ArchiveSummary]:
    archives = list(found)
    wanted = [one[-1] for one in archives if one[-1] is not None]
    checks: dict[int, Check] = {}
    if wanted:
        statement = (
            f"SELECT id, {_CHECK_COLUMNS} FROM verification "  # noqa: S608 - our own names
            f"WHERE id IN ({times('?', len(wanted))})"
        )
        checks = {one[0]: _check(one[1:]) for one in rows(connection, statement, tuple(wanted))}
    return [
        ArchiveSummary(
            archive_id=number, run_id=unescaped(run), job=unescaped(job), archive=unescaped(name),
            format=form, encrypted=bool(encrypted), size=size, content_size=content,
            members=members, created_at=moment(created), is_leaving=state == DELETING,
            copies=copies, last_check=checks.get(check),
        )
        for (
            number, run, job, name, form, encrypted, size, content, members, created, state,
            copies, check,
        ) in archives
    ]  # fmt: skip


def _volume(found: Row) -> VolumeFacts:
    uri, size, sha256 = found
    return VolumeFacts(uri=unescaped(uri), size=size, sha256=sha256)


def _check(found: Row) -> Check:
    run, checked, status, percent, members, damaged = found
    return Check(
        run_id=unescaped(run), checked_at=moment(checked), status=status, percent=percent,
        members=members, damaged=damaged,
    )  # fmt: skip


def _copies(connection: Connection, archive: int) -> list[CopyFacts]:
    volumes: dict[int, list[VolumeFacts]] = defaultdict(list)
    statement = (
        "SELECT v.copy_id, v.uri, v.size, v.sha256 FROM archive_copy c "
        "JOIN copy_volume v ON v.copy_id = c.id WHERE c.archive_id = ? ORDER BY v.number"
    )
    for copy, *rest in rows(connection, statement, (archive,)):
        volumes[copy].append(_volume(tuple(rest)))
    statement = "SELECT id, name, state FROM archive_copy WHERE archive_id = ? ORDER BY id"
    return [
        CopyFacts(
            name=unescaped(name), size=sum(one.size for one in volumes[copy]),
            is_leaving=state == DELETING, volumes=tuple(volumes[copy]),
        )
        for copy, name, state in rows(connection, statement, (archive,))
    ]  # fmt: skip
