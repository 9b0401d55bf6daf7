"""Whether a run is worth a mail: always, on a change, on a problem.

- `always`: after every run.
- `on-change`: after every run that did something. Unchanged runs, and those that found another one
  at work, are not told.
- `on-problem`: after runs that failed or are partial. Whoever stopped a run knows about it.

Two things hold for the last two. The first good run after a problem says that all is well again.
And a problem that stays the same is told once a day, one that changes once an hour at most, for a
job that runs every two minutes would fill a mailbox; with `on-change` a run that saved something
all the same is a change, and is told as one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from pybak.notify.ending import GOOD, NEITHER, PROBLEM, Ending
from pybak.notify.past import Past
from pybak.notify.wanted import When
from pybak.problems import Problem
from pybak.report import PARTIAL

REMINDER: Final = timedelta(days=1)
"""How long a problem that stays the same is not told again."""
CHANGES: Final = timedelta(hours=1)
"""How long another problem is not told after one that was."""


@dataclass(frozen=True)
class Decision:
    """Whether to mail, and what is remembered: `unsent` holds if the mail was not sent or kept.

    `is_good_again` tells that the run before had a problem; `since` (ISO) and `times` are those
    of a problem that came before.
    """

    is_due: bool
    past: Past
    unsent: Past
    is_good_again: bool = False
    since: str | None = None
    times: int = 0


def decide(when: When, ending: Ending, before: Past) -> Decision:
    """Decide about the mail of a run that ended so, and what the next one is to know."""
    now = ending.ended_at
    if ending.verdict == NEITHER:
        due = when == "always" or (when == "on-change" and ending.is_done)
        return Decision(due, before, before)
    if ending.verdict == GOOD:
        again = before.problem is not None
        due = again or when == "always" or (when == "on-change" and ending.is_done)
        since = before.since if again else None
        return Decision(due, Past(), before if due else Past(), again, since, before.times)
    problem = fingerprint(ending)
    begun = before.since if before.problem is not None else now.isoformat()
    times = before.times + 1 if before.problem is not None else 1
    told = before.told_seconds_ago(now)
    pause = REMINDER if before.problem == problem else CHANGES
    is_news = told is None or not 0 <= told < pause.total_seconds()
    did_something = when == "on-change" and ending.status == PARTIAL
    due = when == "always" or is_news or did_something
    unsent = Past(before.problem or problem, begun, before.told_at, times)
    past = Past(problem, begun, now.isoformat(), times) if due else unsent
    return Decision(due, past, unsent, since=begun if times > 1 else None, times=times)


def fingerprint(ending: Ending) -> str:
    """Give what two problems share that are the same: the status, and which files failed how.

    Messages do not count: they hold times and sizes.
    """
    assert ending.verdict == PROBLEM
    errors: Any = getattr(ending.report, "errors", ())
    parts = sorted({f"{error.code}\0{error.path}" for error in _problems(errors)})
    text = "\0\0".join(parts).encode("utf-8", "surrogateescape")
    # A run that is unchanged and one that is partial fail the same way if the same files do.
    status = ending.status if int(ending.report.exit_code) == 1 else PARTIAL
    return f"{status}:{hashlib.sha256(text).hexdigest()[:32]}"


def _problems(errors: Sequence[Any]) -> list[Problem]:
    return [error for error in errors if isinstance(error, Problem)]
