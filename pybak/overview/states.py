"""The rules for a job's state, and the sentence that tells it. Nothing here reads anything.

A run is good after which every file is saved: `success`, or `unchanged` without a file that failed
again. Only those that can still be restored count. Runs that were cancelled say nothing: somebody
stopped them. The first rule that holds decides:

- `running`: a run is at work, and not for longer than would make the job late, or an hour; for a
  day where nobody knows when a job is late.
- `problem`: the last run failed, died (`overview.alive`) or is partial. It says since when. Also
  if the last one of its schedule failed before the catalog heard of it.
- `never`: there is no good run.
- `late`: the newest good run ended longer ago than `pybak.lateness` allows. The interval
  is what the schedule says, or else the usual one, the middle of those between the starts of the
  last twenty runs: without a schedule a job is late only if these are regular.
- `good`: all else.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

import msgspec

from pybak.lateness import every, is_regular
from pybak.lateness import patience as patience_of
from pybak.overview.facts import (
    DIED,
    GOOD,
    LATE,
    NEVER,
    PROBLEM,
    RUNNING,
    GoodBackup,
    RunSummary,
    Schedule,
)
from pybak.report.status import FAILED, PARTIAL, SUCCESS, UNCHANGED

LEAST_RUNS: Final = 3
INTERVALS: Final = 20

_NOUNS: Final = {"backup": "backup", "inbox": "inbox run", "mirror": "mirror run"}
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A job's state, its sentence, and what they were made from."""

    state: str
    words: str
    failures: int
    failing_since: datetime | None
    usual_interval_seconds: float | None


def is_good(run: RunSummary, *, has_archive: bool) -> bool:
    """Whether a run left every file saved; `has_archive` is whether its job has an archive."""
    if run.status == SUCCESS:
        return run.kind != "backup" or run.archive is not None
    is_still = run.kind != "backup" or has_archive
    return run.status == UNCHANGED and is_still and not run.files.get("failed")


def is_bad(run: RunSummary) -> bool:
    """Whether a run left something unsaved."""
    again = run.status == UNCHANGED and bool(run.files.get("failed"))
    return again or run.status in (FAILED, PARTIAL, DIED)


def usual_interval(runs: Sequence[RunSummary]) -> float | None:
    """Give how far apart a job's runs usually begin, in seconds; `runs` are the newest first."""
    if len(runs) < LEAST_RUNS:
        return None
    gaps = [(later - earlier).total_seconds() for later, earlier in pairwise(_starts(runs))]
    return max(statistics.median(gaps), 0.0)


def _starts(runs: Sequence[RunSummary]) -> list[datetime]:
    return [run.started_at for run in runs[: INTERVALS + 1]]


def judge(
    kind: str,
    runs: Sequence[RunSummary],
    newest_good: GoodBackup | None,
    schedule: Schedule | None,
    now: datetime,
) -> Judged:
    """Judge a job by its last runs, the newest first, at `now` (aware)."""
    usual = usual_interval(runs)
    interval = usual if is_regular(_starts(runs)) else None
    if schedule is not None and schedule.interval_seconds is not None:
        interval = schedule.interval_seconds
    patience = None if interval is None else patience_of(interval)
    failing = _failing(runs, newest_good)
    since = failing[-1].started_at if failing else None
    noun = _NOUNS.get(kind, f"{kind} run")
    good = _last_good(noun, newest_good)
    at_work = next((run for run in runs if run.status == RUNNING), None)

    def judged(state: str, words: str) -> Judged:
        return Judged(
            state=state, words=words, failures=len(failing), failing_since=since,
            usual_interval_seconds=usual,
        )  # fmt: skip

    stuck = ""
    if at_work is not None:
        seconds = (now - at_work.started_at).total_seconds()
        if seconds <= (_DAY if patience is None else max(patience, _HOUR)):
            failed = f"; {_last_bad(noun, failing[0], now)}" if failing else ""
            first = f"; {good}" if newest_good or not failing else "; none was good yet"
            return judged(RUNNING, f"Running for {span(seconds)}{failed}{first}")
        stuck = f"running for {span(seconds)}, which is unusually long; "
    if failing:
        what = _last_bad(noun, failing[0], now)
        if len(failing) > 1:
            what = f"the last {len(failing)} {noun}s went wrong, since {_ago(since, now)}"
            what += f"; {_how(failing[0])}" if _how(failing[0]) else ""
        return judged(PROBLEM, f"Problem: {stuck}{what}; {good}")
    if (early := _failed_early(runs, newest_good, schedule)) is not None:
        when = _ago(early, now)
        return judged(
            PROBLEM, f"Problem: {stuck}the last {noun} failed {when}, before it began; {good}"
        )
    if newest_good is None:
        return judged(NEVER, f"Never: {stuck}no {noun} of this job can be restored")
    if patience is not None and interval is not None and newest_good.age_seconds > patience:
        source = "due" if interval is not usual else "usually"
        return judged(LATE, f"Late: {stuck}{good}, {source} every {every(interval)}")
    if stuck:
        return judged(LATE, f"Late: {stuck}{good}")
    return judged(GOOD, f"Safe: {good}")


def _failing(runs: Sequence[RunSummary], newest_good: GoodBackup | None) -> list[RunSummary]:
    """Give the runs that went wrong since the last good one, the newest first."""
    failing: list[RunSummary] = []
    for run in runs:
        if newest_good is not None and run.run_id == newest_good.run_id:
            break
        if is_bad(run):
            failing.append(run)
        elif run.status in (SUCCESS, UNCHANGED):  # its archive was removed since
            break
    return failing


def _failed_early(
    runs: Sequence[RunSummary], newest_good: GoodBackup | None, schedule: Schedule | None
) -> datetime | None:
    """Give when the schedule's last run failed, if the catalog holds neither it nor a later one."""
    if schedule is None or schedule.failed_at is None:
        return None
    if schedule.failed_flow_run in {run.flow_run for run in runs}:
        return None
    if newest_good is not None and newest_good.finished_at > schedule.failed_at:
        return None
    return schedule.failed_at


def _last_good(noun: str, newest: GoodBackup | None) -> str:
    if newest is None:
        return f"no {noun} was good yet"
    return f"last good {noun} {ago(newest.age_seconds)}"


def _last_bad(noun: str, run: RunSummary, now: datetime) -> str:
    when = _ago(run.finished_at or run.started_at, now)
    if run.status == FAILED:
        return f"the last {noun} failed {when}"
    if run.status == DIED:
        return f"the last {noun} was killed, or its machine went down; it began {when}"
    return f"the last {noun}, {when}, {_how(run) or 'is partial'}"


def _how(run: RunSummary) -> str:
    failed = run.files.get("failed")
    if run.status == PARTIAL or run.status == UNCHANGED:
        return f"lacks {failed} file{'' if failed == 1 else 's'}" if failed else "is partial"
    return ""


def _ago(moment: datetime | None, now: datetime) -> str:
    return ago((now - moment).total_seconds()) if moment is not None else "some time ago"


def ago(seconds: float) -> str:
    """Say how long ago something was: `just now`, `2 minutes ago`, `5 days ago`."""
    return "just now" if seconds < 5 else f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """Say a length of time in one unit, rounded down: `12 seconds`, `2 minutes`, `5 days`."""
    for size, noun in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute")):
        # Two days are 48 hours and more: `36 hours` tells more than `1 day`.
        if seconds >= (2 * size if noun == "day" else size):
            count = int(seconds // size)
            return f"{count} {noun}{'' if count == 1 else 's'}"
    count = max(int(seconds), 0)
    return f"{count} second{'' if count == 1 else 's'}"
