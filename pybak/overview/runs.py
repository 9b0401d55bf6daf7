"""Runs, the newest first: lists, one with all that is known of it, those at work, what failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from pybak.catalog.models import DELETING, escaped, unescaped
from pybak.catalog.rows import Row, is_postgres
from pybak.catalog.runs import RUNNING
from pybak.errors import NotFoundError, PlanError
from pybak.overview.alive import Liveness
from pybak.overview.archives import archive_of_run
from pybak.overview.facts import (
    DIED,
    ErrorFact,
    RunDetails,
    RunSummary,
    SnapshotFact,
)
from pybak.overview.paging import Page, checked_limit, from_cursor, page_of
from pybak.overview.sql import (
    loaded,
    moment,
    moment_or_none,
    row,
    rows,
    stored_moment,
    times,
)
from pybak.report.status import FAILED, PARTIAL
from pybak.stages import from_rows

MOST_ACTIVE: Final = 200
"""How many runs may be at work; more would be a catalog full of dead ones."""

COLUMNS: Final = (
    "r.run_id, r.seq, r.kind, r.job, r.status, r.started_at, r.finished_at, r.archive, r.message, "
    "r.counts, r.mode, r.flow_run, a.size, a.content_size"
)
FROM: Final = f"run r LEFT JOIN archive a ON a.run_id = r.run_id AND a.state <> '{DELETING}'"
_NEWEST_FIRST: Final = "ORDER BY r.started_at DESC, r.run_id DESC"
_READ: Final = ("bytes_read", "bytes_copied")
_STORED: Final = ("bytes_stored", "bytes_copied")


def summary_of(found: Row, *, is_dead: bool = False) -> RunSummary:
    """Give the run that a row of COLUMNS tells."""
    run_id, seq, kind, job, status, started, finished, archive, message, counts, *rest = found
    mode, flow_run, size, content = rest
    begun, ended = moment(started), moment_or_none(finished)
    files: dict[str, Any] = loaded(counts) or {}
    return RunSummary(
        run_id=unescaped(run_id), seq=seq, kind=kind, job=unescaped(job),
        status=DIED if is_dead else status, started_at=begun, finished_at=ended,
        duration_seconds=max((ended - begun).total_seconds(), 0.0) if ended else None, mode=mode,
        archive=None if archive is None else unescaped(archive),
        message=None if message is None else unescaped(message), files=files,
        bytes_read=_number(files, _READ) if content is None else content,
        bytes_stored=_number(files, _STORED) if size is None else size, flow_run=flow_run,
    )  # fmt: skip


def _number(counts: dict[str, Any], names: Iterable[str]) -> int | None:
    """Give what kinds of runs without an archive say of their bytes."""
    for name in names:
        if isinstance(value := counts.get(name), int):
            return value
    return None


def running(connection: Connection, alive: Liveness, now: datetime) -> list[RunSummary]:
    """List the runs that have not ended, the newest first; those of them that died say so."""
    statement = (
        f"SELECT {COLUMNS} FROM {FROM} WHERE r.status = '{RUNNING}' "  # noqa: S608 - our own names
        f"{_NEWEST_FIRST} LIMIT {MOST_ACTIVE}"
    )
    found = [summary_of(one) for one in rows(connection, statement)]
    return [alive.judged(connection, one, now) for one in found]


def list_runs(
    connection: Connection,
    alive: Liveness,
    now: datetime,
    *,
    job: str | None,
    kind: str | None,
    status: str | None,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    limit: int,
) -> Page[RunSummary]:
    """List runs that began from `since` on and before `until`, the newest first."""
    limit = checked_limit(limit)
    wheres: list[tuple[str, Any]] = [
        (f"r.{name} = ?", value)
        for name, value in (
            ("job", None if job is None else escaped(job)),
            ("kind", kind),
            ("status", RUNNING if status == DIED else status),
        )
        if value is not None
    ]
    for sign, when in ((">=", since), ("<", until)):
        if when is not None:
            wheres.append((f"r.started_at {sign} ?", stored_moment(connection, when)))
    last = _last_key(cursor)
    runs: list[RunSummary] = []
    # Whether a run died is not in the database, so a page may take more than one query.
    while True:
        found = _chunk(connection, wheres, last, limit + 1)
        for one in found:
            judged = alive.judged(connection, one, now)
            if status in (None, judged.status):
                runs.append(judged)
        if len(found) <= limit or len(runs) > limit:
            break
        last = (found[-1].started_at, found[-1].run_id)
    runs = runs[: limit + 1]
    return page_of(runs, limit, [(one.started_at.isoformat(), one.run_id) for one in runs])


def _last_key(cursor: str | None) -> tuple[datetime, str] | None:
    key = from_cursor(cursor, (datetime, str))
    if key is None:
        return None
    when, run_id = key
    try:
        return moment(when), str(run_id)
    except OverflowError as error:  # the first or last hours of what a calendar has
        raise PlanError("this is no cursor of this list; begin it again without one") from error


def _chunk(
    connection: Connection,
    wheres: list[tuple[str, Any]],
    last: tuple[datetime, str] | None,
    count: int,
) -> list[RunSummary]:
    conditions = [where for where, _ in wheres]
    parameters = [value for _, value in wheres]
    if last is not None:
        conditions.append("(r.started_at, r.run_id) < (?, ?)")
        parameters += [stored_moment(connection, last[0]), escaped(last[1])]
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"SELECT {COLUMNS} FROM {FROM} {where} {_NEWEST_FIRST} LIMIT ?"  # noqa: S608 - our own names
    return [summary_of(one) for one in rows(connection, statement, (*parameters, count))]


def problems(
    connection: Connection, alive: Liveness, now: datetime, *, since: datetime, limit: int
) -> list[RunSummary]:
    """List the newest runs since `since` that failed, are partial or died, the newest first."""
    limit = checked_limit(limit)
    found = [one for one in running(connection, alive, now) if one.status == DIED]
    begun = stored_moment(connection, since)
    # One query a status: each follows its index.
    for status in (FAILED, PARTIAL):
        statement = (
            f"SELECT {COLUMNS} FROM {FROM} "  # noqa: S608 - our own names
            f"WHERE r.status = ? AND r.started_at >= ? {_NEWEST_FIRST} LIMIT ?"
        )
        found += [summary_of(one) for one in rows(connection, statement, (status, begun, limit))]
    kept = [one for one in found if one.started_at >= since]
    kept.sort(key=lambda one: (one.started_at, one.run_id), reverse=True)
    return kept[:limit]


def run_details(connection: Connection, alive: Liveness, now: datetime, run_id: str) -> RunDetails:
    """Give one run. Raises NotFoundError."""
    statement = (
        f"SELECT {COLUMNS}, r.base_run, r.full_run, r.is_snapshot, r.tags, r.options, "  # noqa: S608 - our own names
        f"r.stages FROM {FROM} WHERE r.run_id = ?"
    )
    found = row(connection, statement, (escaped(run_id),))
    if found is None:
        raise no_run(run_id)
    *start, base, full, is_snapshot, tags, options, stages = found
    count = row(connection, "SELECT COUNT(*) FROM file_error WHERE run_id = ?", (escaped(run_id),))
    return RunDetails(
        summary=alive.judged(connection, summary_of(tuple(start)), now),
        base_run=None if base is None else unescaped(base),
        full_run=None if full is None else unescaped(full),
        is_snapshot=bool(is_snapshot), tags=tuple(loaded(tags) or ()),
        options=loaded(options) or {}, archive=archive_of_run(connection, run_id),
        errors=count[0] if count else 0, stages=from_rows(loaded(stages)),
    )  # fmt: skip


def run_of_flow(connection: Connection, flow_run: str) -> str | None:
    """Give the newest run that has this flow run, by its index."""
    statement = "SELECT run_id FROM run WHERE flow_run = ? ORDER BY started_at DESC LIMIT 1"
    found = row(connection, statement, (flow_run,))
    return unescaped(found[0]) if found is not None else None


def no_run(run_id: str) -> NotFoundError:
    """Give the error for a run that is not there."""
    from pybak.display import printable

    return NotFoundError(f"{printable(run_id)}: no such run; list them to see which there are")


def list_errors(
    connection: Connection, run_id: str, *, cursor: str | None, limit: int
) -> Page[ErrorFact]:
    """List what a run could not save, as its report has it. Raises NotFoundError."""
    limit = checked_limit(limit)
    key = from_cursor(cursor, (int,))
    run = escaped(run_id)
    if row(connection, "SELECT 1 FROM run WHERE run_id = ?", (run,)) is None:
        raise no_run(run_id)
    found = rows(
        connection,
        "SELECT id, path, code, message FROM file_error WHERE run_id = ? AND id > ? "
        "ORDER BY id LIMIT ?",
        (run, -1 if key is None else key[0], limit + 1),
    )
    errors = [
        ErrorFact(path=unescaped(path), code=code, message=unescaped(message))
        for _, path, code, message in found
    ]
    return page_of(errors, limit, [(one[0],) for one in found])


def list_snapshots(
    connection: Connection, *, job: str | None, cursor: str | None, limit: int
) -> Page[SnapshotFact]:
    """List the states that can be restored, of a job or of all, the newest first."""
    limit = checked_limit(limit)
    if job is None:
        return _snapshots_of_all(connection, cursor, limit)
    key = from_cursor(cursor, (int,))
    statement = "WHERE r.job = ? AND r.is_snapshot = TRUE"
    values: Row = (escaped(job),)
    if key is not None:
        statement += " AND r.seq < ?"
        values = (*values, key[0])
    found = _snapshots(connection, f"{statement} ORDER BY r.seq DESC LIMIT ?", (*values, limit + 1))
    return page_of(found, limit, [(one.seq,) for one in found])


def _snapshots_of_all(connection: Connection, cursor: str | None, limit: int) -> Page[SnapshotFact]:
    last = _last_key(cursor)
    statement = "WHERE r.is_snapshot = TRUE"
    parameters: Row = ()
    if last is not None:
        statement += " AND (r.started_at, r.run_id) < (?, ?)"
        parameters = (stored_moment(connection, last[0]), escaped(last[1]))
    found = _snapshots(connection, f"{statement} {_NEWEST_FIRST} LIMIT ?", (*parameters, limit + 1))
    return page_of(found, limit, [(one.started_at.isoformat(), one.run_id) for one in found])


def _snapshots(connection: Connection, rest: str, parameters: Row) -> list[SnapshotFact]:
    statement = f"SELECT {COLUMNS}, r.tags FROM {FROM} {rest}"  # noqa: S608 - our own names
    return [
        SnapshotFact(
            run_id=run.run_id, job=run.job, seq=run.seq, mode=run.mode or "full",
            status=run.status, started_at=run.started_at, finished_at=run.finished_at,
            archive=run.archive, size=run.bytes_stored if run.archive else None,
            tags=tuple(loaded(tags) or ()), files=run.files,
        )
        for *start, tags in rows(connection, statement, parameters)
        for run in [summary_of(tuple(start))]
    ]  # fmt: skip


def last_runs(
    connection: Connection, pairs: Iterable[tuple[str, str]], count: int
) -> Iterator[tuple[tuple[str, str], list[RunSummary]]]:
    """Yield, for pairs of kind and job as stored, the last `count` runs, the newest first."""
    wanted = list(pairs)
    for at in range(0, len(wanted), 100):
        some = wanted[at : at + 100]
        listed = times("(CAST(? AS TEXT), CAST(? AS TEXT))", len(some))
        statement = (
            f"WITH wanted(kind, job) AS (VALUES {listed}) "  # noqa: S608 - our own names
            f"SELECT {COLUMNS} FROM wanted w CROSS JOIN {_last(connection, count)}"
        )
        by_pair: dict[tuple[str, str], list[RunSummary]] = {pair: [] for pair in some}
        values = tuple(value for pair in some for value in pair)
        for one in rows(connection, statement, values):
            by_pair[(one[2], one[3])].append(summary_of(one))
        for pair, runs in by_pair.items():
            runs.sort(key=lambda one: one.seq, reverse=True)
            yield pair, runs


def _last(connection: Connection, count: int) -> str:
    """Give what joins the wanted pairs with their last runs, by the index of each job."""
    if is_postgres(connection):  # which would look through all runs for the other way
        newest = (
            "LATERAL (SELECT * FROM run x WHERE x.kind = w.kind AND x.job = w.job "  # noqa: S608 - our own words
            f"ORDER BY x.seq DESC LIMIT {int(count)}) r"
        )
        return FROM.replace("run r", newest, 1)
    return (
        f"{FROM} WHERE r.kind = w.kind AND r.job = w.job AND r.seq >= COALESCE("  # noqa: S608 - our own words
        "(SELECT x.seq FROM run x WHERE x.kind = w.kind AND x.job = w.job "
        f"ORDER BY x.seq DESC LIMIT 1 OFFSET {int(count) - 1}), 0)"
    )
