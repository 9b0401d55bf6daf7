"""Which snapshots of a job to keep: pure rules, each verdict with its reasons.

The rules are restic's (`ApplyPolicy` in its internal/data/snapshot_policy.go): going back from the
newest, the newest snapshot of each period is kept until the count is used up; the oldest snapshot
of all is kept by every rule with counts left, so that the history reaches as far back as it can.
`within` counts back from the newest snapshot that is not in the future, so that nothing goes only
because no backup was made for a while. Periods are those of a time zone's calendar, weeks those of
ISO 8601.

Departures from restic: where a period has whole snapshots, the newest whole one stands for it
rather than a later partial one; an hour that the clock shows twice is two hours; and two snapshots
are kept whatever the rules say, the newest, with which the next run compares, and the newest whole
one.

A clock may have been wrong. Which of two snapshots is newer their numbers tell, as they do to the
next run; times tell only which period they are of and what `within` reaches. Snapshots that are
dated in the future are judged by the rules for periods among themselves: they use up no count of
the others, and where it is `now` that is wrong, no history is lost to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import chain, groupby
from typing import TYPE_CHECKING, Final

from pybak.errors import PlanError
from pybak.report.status import SUCCESS
from pybak.units import Duration

if TYPE_CHECKING:
    from pybak.catalog.facts import Snapshot

NO_RULE: Final = "no rule keeps it"
NEWEST: Final = "the newest: the next run compares with it"
LAST_GOOD: Final = "the last good one"
LAST_PARTIAL: Final = "the last one, and none is whole"


@dataclass(frozen=True)
class Policy:
    """What to keep: so many of each period, all of a span of time, all with certain tags.

    Each of `tags` is one tag, or several separated by commas that a snapshot must have together.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Duration | None = None
    tags: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no rule says what to keep."""
        counts = (self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)
        return max(counts) <= 0 and self.within is None and not any(map(_words, self.tags))


@dataclass(frozen=True)
class Verdict:
    """What becomes of a snapshot, and why."""

    snapshot: Snapshot
    keep: bool
    reasons: tuple[str, ...]


def check_policy(policy: Policy) -> None:
    """Raise PlanError for a policy that says nothing about what to keep."""
    if policy.is_empty:
        raise PlanError(
            "no rule says what to keep; give at least one, such as --keep-daily 7 or "
            "--keep-within 30d"
        )


def apply_policy(
    snapshots: Iterable[Snapshot],
    policy: Policy,
    *,
    now: datetime,
    timezone: tzinfo | None = None,
) -> list[Verdict]:
    """Judge each snapshot of one job, the newest first, which is the one with the largest `seq`.

    `now` is aware; `timezone` is this machine's if it is None. Raises PlanError for an empty
    policy.
    """
    check_policy(policy)
    ordered = sorted(snapshots, key=lambda one: one.seq, reverse=True)
    local = [one.started_at.astimezone(timezone) for one in ordered]
    sound = [index for index, one in enumerate(ordered) if one.started_at <= now]
    ahead = [index for index, one in enumerate(ordered) if one.started_at > now]
    reasons: list[list[str]] = [[] for _ in ordered]
    for index, reason in chain(
        _last(ordered, policy),
        _of_periods(sound, ordered, local, policy),
        _of_periods(ahead, ordered, local, policy),
        _within(sound, ordered, policy, timezone),
        _tagged(ordered, policy),
    ):
        reasons[index].append(reason)
    for index, reason in _indispensable(ordered):
        if not reasons[index]:
            reasons[index].append(reason)
    return [
        Verdict(snapshot, bool(why), tuple(why) or (NO_RULE,))
        for snapshot, why in zip(ordered, reasons, strict=True)
    ]


_Reasons = Iterator[tuple[int, str]]
"""Positions of snapshots that a rule keeps, with the reason."""

_PERIODS: Final[Sequence[tuple[str, Callable[[datetime], str]]]] = (
    # With the zone, for when clocks are set back two hours have one name.
    ("hourly", lambda at: f"{at:%Y-%m-%d %H}:00 {at:%Z}"),
    ("daily", lambda at: f"{at:%Y-%m-%d}"),
    ("weekly", lambda at: f"week {at:%G-W%V}"),
    ("monthly", lambda at: f"{at:%Y-%m}"),
    ("yearly", lambda at: f"{at:%Y}"),
)
"""The counted rules, and what they call the period that a local time lies in."""


def _last(ordered: Sequence[Snapshot], policy: Policy) -> _Reasons:
    for index in range(min(policy.last, len(ordered))):
        yield index, "the last one" if policy.last == 1 else f"one of the last {policy.last}"


def _of_periods(
    judged: Sequence[int], ordered: Sequence[Snapshot], local: Sequence[datetime], policy: Policy
) -> _Reasons:
    """Apply the counted rules to the snapshots at `judged`, which are the newest first."""
    by_time = sorted(judged, key=lambda index: (ordered[index].started_at, -index), reverse=True)
    for rule, name_of in _PERIODS:
        left: int = getattr(policy, rule)
        kept = set()
        for name, group in groupby(by_time, key=lambda index: name_of(local[index])):
            if left <= 0:
                break
            left -= 1
            stands = _standing_for(sorted(group), ordered)
            kept.add(stands)
            yield stands, f"newest of {name}"
        if left > 0 and judged and judged[-1] not in kept:
            yield judged[-1], f"the oldest, and the {rule} rule is not used up"


def _standing_for(group: Sequence[int], ordered: Sequence[Snapshot]) -> int:
    """Give the newest whole snapshot of a period, or else the newest."""
    return next((index for index in group if ordered[index].status == SUCCESS), group[0])


def _within(
    sound: Sequence[int], ordered: Sequence[Snapshot], policy: Policy, timezone: tzinfo | None
) -> _Reasons:
    if policy.within is None or not ordered:
        return
    latest = ordered[sound[0] if sound else 0].started_at
    oldest = policy.within.before(latest, timezone)
    for index, one in enumerate(ordered):
        if one.started_at > oldest:
            yield index, f"within {policy.within}"


def _tagged(ordered: Sequence[Snapshot], policy: Policy) -> _Reasons:
    for tags in policy.tags:
        words = _words(tags)
        for index, one in enumerate(ordered):
            if words and words <= set(one.tags):
                yield index, f"tagged {', '.join(sorted(words))}"


def _words(tags: str) -> set[str]:
    return {word for part in tags.split(",") if (word := part.strip())}


def _indispensable(ordered: Sequence[Snapshot]) -> _Reasons:
    if not ordered:
        return
    yield 0, NEWEST
    good = next((index for index, one in enumerate(ordered) if one.status == SUCCESS), None)
    yield (0, LAST_PARTIAL) if good is None else (good, LAST_GOOD)
