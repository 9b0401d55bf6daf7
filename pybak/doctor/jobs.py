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
from pybak.report.status import FAILED, PARTIAL, SUCCESS, UNCHANGED

if TYPE_CHECKING:
    from sqlmodel import Session

    from pybak.catalog.engine import Database

SUBJECT: Final = "backups"
_GOOD: Final = (SUCCESS, UNCHANGED, PARTIAL)
_KINDS: Final = {"backup": "backup", "inbox": "round", "mirror": "copy"}
"""What makes or moves copies of files, and what people call one run of it."""
_LOOKED_AT: Final = 30
_USUAL_FROM: Final = 3


class JobState(msgspec.Struct, frozen=True):
    """What the catalog knows of a job: starts of good runs, newest first, and its last checks.

    `ended` is when the newest good run did. Times are aware.
    """

    job: str
    good: tuple[datetime, ...]
    last_status: str
    kind: str = "backup"
    ended: datetime | None = None
    verified: datetime | None = None
    verify_status: str | None = None
    drilled: datetime | None = None
    drill_status: str | None = None


def read_jobs(database: Database) -> list[JobState]:
    """List the jobs of backups, inboxes and mirrors, by name. Raises CatalogError."""
    from sqlmodel import col, select

    from pybak.catalog.models import Run

    with database.session() as session:
        wanted = select(Run.job, Run.kind).where(col(Run.kind).in_(_KINDS)).distinct()
        found = []
        for job, kind in sorted(session.exec(wanted).all()):
            query = (
                select(Run.started_at, Run.status, Run.finished_at)
                .where(Run.job == job, Run.kind == kind, col(Run.finished_at).is_not(None))
                .order_by(col(Run.seq).desc())
                .limit(_LOOKED_AT)
            )
            runs = session.exec(query).all()
            if not runs:
                continue
            good = [(at, end) for at, status, end in runs if status in _GOOD]
            good = good or _last_good(session, job, kind)
            starts = tuple(_aware(at) for at, _ in good)
            ended = next((_aware(end) for _, end in good if end is not None), None)
            checks = (*_verified(session, job), *_drilled(session, job))
            found.append(JobState(job, starts, runs[0][1], kind, ended, *checks))
    return found


def _last_good(session: Session, job: str, kind: str) -> list[tuple[datetime, datetime | None]]:
    """Give start and end of the last good run where all of the newest are bad."""
    from sqlmodel import col, select

    from pybak.catalog.models import Run

    query = select(Run.started_at, Run.finished_at).where(
        Run.job == job, Run.kind == kind, col(Run.status).in_(_GOOD)
    )
    return list(session.exec(query.order_by(col(Run.seq).desc()).limit(1)))


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
    if not one.good:
        found.problem(f"{one.job}: no {what} has ever been good", *why)
        return
    age = now - (one.ended or one.good[0])
    usual = _usual(one.good)
    interval = scheduled or usual
    text = f"{one.job}: last good {what} {ago(age)} ago"
    if interval is not None:
        text += f", {'due' if scheduled else 'usually'} every {every(interval)}"
    late = interval is not None and age.total_seconds() > patience(interval)
    if one.last_status == FAILED:
        text += "; the newest run failed"
        advice = why
    elif scheduled:
        advice = ("see worker, slots and schedules above",)
    else:
        advice = (f"see what starts it, or start flows/{one.kind}.py by hand",)
    if late and (scheduled or is_regular(one.good)):
        found.problem(text, *advice)
    elif late or one.last_status == FAILED:
        found.note(text, *advice)
    else:
        found.ok(text)


def _gaps(good: Sequence[datetime]) -> list[float]:
    return [(later - earlier).total_seconds() for later, earlier in pairwise(good)]


def _usual(good: Sequence[datetime]) -> float | None:
    """Give the usual seconds between good backups, if there are enough to say so."""
    gaps = _gaps(good)
    return statistics.median(gaps) if len(gaps) >= _USUAL_FROM else None


def _tried(found: Findings, one: JobState, now: datetime) -> None:
    """Tell when the job's archives were last read, and a part of them restored."""
    if not one.good:
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
