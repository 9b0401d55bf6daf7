"""Each job's newest good run, how old it is beside what is usual, and when it was last tried."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec

from pybak.doctor.deployed import Deployment
from pybak.doctor.finding import Finding, Findings, ago
from pybak.lateness import every, is_regular, patience
from pybak.report.status import SUCCESS

if TYPE_CHECKING:
    from sqlmodel import Session

    from pybak.catalog.engine import Database

SUBJECT: Final = "backups"
_KINDS: Final = {"backup": "backup", "inbox": "round", "mirror": "copy"}
"""What makes or moves copies of files, and what people call one run of it."""
_USUAL_FROM: Final = 3


class JobState(msgspec.Struct, frozen=True):
    """What the catalog knows of a job: starts of its last runs, newest first, and its last checks.

    `ended` is when the newest good run did, `failures` counts the runs since that left something
    unsaved, and `words` tell of them (`overview.states`). `is_running` while a run is at work.
    Times are aware.
    """

    job: str
    starts: tuple[datetime, ...]
    kind: str = "backup"
    ended: datetime | None = None
    failures: int = 0
    words: str = ""
    is_running: bool = False
    verified: datetime | None = None
    verify_status: str | None = None
    drilled: datetime | None = None
    drill_status: str | None = None


def read_jobs(database: Database, now: datetime) -> list[JobState]:
    """List the jobs of backups, inboxes and mirrors, by name. Raises CatalogError."""
    from pybak.overview.alive import Liveness, asking_locks
    from pybak.overview.facts import RUNNING
    from pybak.overview.jobs import job_states
    from pybak.overview.states import INTERVALS

    alive = Liveness(asking_locks(is_only_here=not database.is_postgres))
    with database.reading() as connection:
        states = job_states(connection, alive, now, {})
    found = []
    with database.session() as session:
        for one in sorted(states, key=lambda one: (one.name, one.kind)):
            if one.last_run is None:
                continue
            starts = tuple(point.started_at for point in one.trend[: -INTERVALS - 2 : -1])
            ended = one.newest_good.finished_at if one.newest_good is not None else None
            words = one.words.removeprefix("Problem: ")
            told = (ended, one.failures, words, one.state == RUNNING)
            checks = (*_verified(session, one.name), *_drilled(session, one.name))
            found.append(JobState(one.name, starts, one.kind, *told, *checks))
    return found


def _verified(session: Session, job: str) -> tuple[datetime | None, str | None]:
    from sqlmodel import col, select

    from pybak.catalog.models import Archive, Verification

    query = (
        select(Verification.checked_at, Verification.status)
        .join(Archive, col(Archive.name) == col(Verification.archive))
        .where(Archive.job == job)
        .order_by(col(Verification.id).desc())
        .limit(1)
    )
    found = session.exec(query).first()
    return (None, None) if found is None else (_aware(found[0]), found[1])


def _drilled(session: Session, job: str) -> tuple[datetime | None, str | None]:
    from sqlmodel import col, select

    from pybak.catalog.models import Run

    query = (
        select(Run.started_at, Run.status)
        .where(Run.job == job, Run.kind == "drill", col(Run.finished_at).is_not(None))
        .order_by(col(Run.seq).desc())
        .limit(1)
    )
    found = session.exec(query).first()
    return (None, None) if found is None else (_aware(found[0]), found[1])


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def scheduled_intervals(deployments: Iterable[Deployment]) -> dict[tuple[str, str], float]:
    """Give the seconds between runs, by flow and job, of what a schedule that is on starts."""
    found: dict[tuple[str, str], float] = {}
    for one in deployments:
        job = one.parameters.get("job")
        if one.flow == "inbox":  # is called after its folder (`pybak.inbox.run`)
            job = f"inbox {one.parameters.get('source')}"
        elif one.flow == "mirror":
            job = job or one.parameters.get("destination")
        if one.flow in _KINDS and one.runs_by_itself and isinstance(job, str) and one.intervals:
            found[one.flow, job] = min(one.intervals)
    return found


def check_jobs(
    jobs: Sequence[JobState], scheduled: Mapping[tuple[str, str], float], now: datetime
) -> list[Finding]:
    """Compare the age of each job's newest good run with its interval."""
    found = Findings(SUBJECT)
    for one in jobs:
        _age(found, one, scheduled.get((one.kind, one.job)), now)
        if one.kind == "backup":
            _tried(found, one, now)
    return found.found


def _age(found: Findings, one: JobState, scheduled: float | None, now: datetime) -> None:
    what = _KINDS[one.kind]
    advice: tuple[str, ...]
    why = ("see why", f"pybak logs latest --job {shlex.quote(one.job)}")
    if one.ended is None:
        text = one.words if one.failures else f"no {what} has ever been good"
        (found.note if one.is_running else found.problem)(f"{one.job}: {text}", *why)
        return
    age = now - one.ended
    usual = _usual(one.starts)
    interval = scheduled or usual
    # What tells of failures ends with how old the last good one is, too.
    text = f"{one.job}: {one.words if one.failures else f'last good {what} {ago(age)} ago'}"
    if interval is not None:
        text += f", {'due' if scheduled else 'usually'} every {every(interval)}"
    late = interval is not None and age.total_seconds() > patience(interval)
    if one.failures:
        advice = why
    elif scheduled:
        advice = ("see worker, slots and schedules above",)
    else:
        advice = (f"see what starts it, or start flows/{one.kind}.py by hand",)
    if (one.failures and not one.is_running) or (late and (scheduled or is_regular(one.starts))):
        found.problem(text, *advice)
    elif late or one.failures:
        found.note(text, *advice)
    else:
        found.ok(text)


def _gaps(starts: Sequence[datetime]) -> list[float]:
    return [(later - earlier).total_seconds() for later, earlier in pairwise(starts)]


def _usual(starts: Sequence[datetime]) -> float | None:
    """Give the usual seconds between runs, if there are enough to say so."""
    gaps = _gaps(starts)
    return statistics.median(gaps) if len(gaps) >= _USUAL_FROM else None


def _tried(found: Findings, one: JobState, now: datetime) -> None:
    """Tell when the job's archives were last read, and a part of them restored."""
    if one.ended is None and one.verified is None and one.drilled is None:
        return
    job = shlex.quote(one.job)
    for name, at, status, command in (
        ("verified", one.verified, one.verify_status, f"python flows/verify.py latest --job {job}"),
        ("tried in a drill", one.drilled, one.drill_status, f"python flows/drill.py --job {job}"),
    ):
        if at is not None and status != SUCCESS:
            found.problem(
                f"{one.job}: last {name} {ago(now - at)} ago, and that found it {status}",
                "see what",
                command,
            )
    done = [
        f"{name} {ago(now - at)} ago"
        for name, at in (("verified", one.verified), ("tried in a drill", one.drilled))
        if at is not None
    ]
    if one.verified is None or one.drilled is None:
        lacking = [
            name
            for name, at in (("verified", one.verified), ("tried in a drill", one.drilled))
            if at is None
        ]
        text = f"{one.job}: never {' and never '.join(lacking)}"
        if done:
            text += f" (but {done[0]})"
        command = "verify.py latest --job" if one.verified is None else "drill.py --job"
        found.note(text, "do it", f"python flows/{command} {job}")
    elif SUCCESS == one.verify_status == one.drill_status:
        found.ok(f"{one.job}: {', '.join(done)}")
