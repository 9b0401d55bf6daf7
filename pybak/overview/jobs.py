"""Jobs and how they are: the state of each, its newest good run, its trend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from pybak.catalog.models import unescaped
from pybak.catalog.runs import RUNNING
from pybak.overview.alive import Liveness
from pybak.overview.facts import (
    JOB_KINDS,
    NEVER,
    STATES,
    GoodBackup,
    JobState,
    RunSummary,
    Schedule,
    TrendPoint,
)
from pybak.overview.runs import COLUMNS, FROM, last_runs, summary_of
from pybak.overview.sql import rows
from pybak.overview.states import is_good, judge
from pybak.overview.storage import sizes_of_jobs
from pybak.report.status import SUCCESS, UNCHANGED

TREND: Final = 60
"""How many runs of a job its trend shows, and its state is judged by."""
_GOOD_AT_ONCE: Final = 200


def job_states(
    connection: Connection,
    alive: Liveness,
    now: datetime,
    schedules: Mapping[str, Schedule],
) -> list[JobState]:
    """Judge all jobs at `now` (aware), the worst first, then by name.

    `schedules` are known to the caller, by the job's name, and say themselves of which kinds they
    are; one whose job never ran is a job that is `never` good.
    """
    sizes = sizes_of_jobs(connection)
    found = [
        _state(connection, kind, job, runs, sizes.get(job, (0, 0)), schedules, now)
        for (kind, job), some in last_runs(connection, _pairs(connection), TREND)
        for runs in [[alive.judged(connection, one, now) for one in some]]
    ]
    known = {(one.kind, one.name) for one in found}
    names = {one.name for one in found}
    found += [
        JobState(
            name=name, kind=kind, state=NEVER, next_run=schedule.next_run,
            words="Never: it is scheduled, but never ran",
        )
        for name, whole in schedules.items()
        for kind, schedule in (whole.kinds or {JOB_KINDS[0]: whole}).items()
        if (kind, name) not in known and (whole.kinds or name not in names)
    ]  # fmt: skip
    return sorted(found, key=lambda one: (STATES.index(one.state), one.name, one.kind))


def _pairs(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield kind and name, as stored, of each job: one step in the index a job, not a run."""
    # Not min(): it would begin the index anew where a planner thinks that it is small.
    first = "(SELECT job FROM run WHERE kind = ? ORDER BY kind, job LIMIT 1)"
    following = (
        "(SELECT job FROM run WHERE kind = ? AND job > found.job ORDER BY kind, job LIMIT 1)"
    )
    statement = (
        f"WITH RECURSIVE found(job) AS (SELECT {first} UNION ALL SELECT {following} FROM found "  # noqa: S608 - our own words
        "WHERE found.job IS NOT NULL) SELECT job FROM found WHERE job IS NOT NULL"
    )
    for kind in JOB_KINDS:
        for (job,) in rows(connection, statement, (kind, kind)):
            yield kind, job


def _state(
    connection: Connection,
    kind: str,
    job: str,
    runs: Sequence[RunSummary],
    size: tuple[int, int],
    schedules: Mapping[str, Schedule],
    now: datetime,
) -> JobState:
    name = unescaped(job)
    whole = schedules.get(name)
    schedule = None if whole is None else whole.of(kind)
    archives, stored = size
    makes_archives = kind == JOB_KINDS[0]
    good = _newest_good(connection, kind, job, runs, has_archive=archives > 0)
    newest = None
    if good is not None:
        ended = good.finished_at or good.started_at
        age = max((now - ended).total_seconds(), 0.0)
        newest = GoodBackup(run_id=good.run_id, finished_at=ended, age_seconds=age)
    judged = judge(kind, runs, newest, schedule, now)
    return JobState(
        name=name, kind=kind, state=judged.state, words=judged.words, newest_good=newest,
        last_run=next((run for run in runs if run.status != RUNNING), None),
        running=next((run for run in runs if run.status == RUNNING), None),
        next_run=schedule.next_run if schedule is not None else None,
        usual_interval_seconds=judged.usual_interval_seconds,
        size_bytes=stored if makes_archives else None,
        archives=archives if makes_archives else 0, failures=judged.failures,
        failing_since=judged.failing_since,
        trend=tuple(map(_point, reversed(runs))),
    )  # fmt: skip


def _newest_good(
    connection: Connection,
    kind: str,
    job: str,
    runs: Sequence[RunSummary],
    *,
    has_archive: bool,
) -> RunSummary | None:
    """Give the newest good run, also where many that were not came since."""
    for run in runs:
        if is_good(run, has_archive=has_archive):
            return run
    if len(runs) < TREND:
        return None
    before = runs[-1].seq
    statement = (
        f"SELECT {COLUMNS} FROM {FROM} WHERE r.kind = ? AND r.job = ? AND r.seq < ? "  # noqa: S608 - our own names
        f"AND r.status IN ('{SUCCESS}', '{UNCHANGED}') ORDER BY r.seq DESC LIMIT ?"
    )
    while True:
        older = [
            summary_of(one)
            for one in rows(connection, statement, (kind, job, before, _GOOD_AT_ONCE))
        ]
        for run in older:
            if is_good(run, has_archive=has_archive):
                return run
        if len(older) < _GOOD_AT_ONCE:
            return None
        before = older[-1].seq


def _point(run: RunSummary) -> TrendPoint:
    return TrendPoint(
        run_id=run.run_id, started_at=run.started_at, status=run.status,
        duration_seconds=run.duration_seconds, bytes_read=run.bytes_read,
        bytes_stored=run.bytes_stored,
    )  # fmt: skip
