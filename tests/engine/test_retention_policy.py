"""Which snapshots a policy keeps, and why: tables, laws, and restic as the judge."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybak.catalog.facts import Snapshot
from pybak.errors import PlanError
from pybak.retention.policy import Policy, Verdict, apply_policy
from pybak.units import parse_duration

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def snapshots(*times: str, zone: tzinfo = UTC) -> list[Snapshot]:
    """Make snapshots from `2026-11-21 10:00`, the oldest first; `!` at the end is a partial one.

    What stands behind `#` are tags.
    """
    made = []
    for number, given_text in enumerate(times, 1):
        text, _, tags = given_text.partition("#")
        started = datetime.fromisoformat(text.strip().rstrip("!")).replace(tzinfo=zone)
        made.append(
            Snapshot(
                run_id=f"run-{number}", job="docs", seq=number, mode="full",
                status="partial" if "!" in text else "success",
                started_at=started.astimezone(UTC), tags=tuple(filter(None, tags.split(","))),
            )
        )  # fmt: skip
    return made


def judged(
    given_snapshots: Sequence[Snapshot],
    *,
    now: datetime = NOW,
    zone: tzinfo | None = UTC,
    **rules: object,
) -> list[Verdict]:
    return apply_policy(given_snapshots, Policy(**rules), now=now, timezone=zone)  # type: ignore[arg-type]


def kept(given_snapshots: Sequence[Snapshot], **more: object) -> list[int]:
    verdicts = judged(given_snapshots, **more)  # type: ignore[arg-type]
    return sorted(verdict.snapshot.seq for verdict in verdicts if verdict.keep)


DAYS = ("2026-11-16 10:00", "2026-11-17 10:00", "2026-11-18 09:00", "2026-11-18 10:00",
        "2026-11-20 10:00", "2026-11-21 08:00", "2026-11-21 10:00")  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"last": 1}, [7]),
        ({"last": 3}, [5, 6, 7]),
        ({"last": 100}, [1, 2, 3, 4, 5, 6, 7]),
        ({"daily": 1}, [7]),
        ({"daily": 2}, [5, 7]),  # the 19th has none, so it uses up no count
        ({"daily": 3}, [4, 5, 7]),
        ({"daily": 4}, [2, 4, 5, 7]),
        ({"hourly": 2}, [6, 7]),
        ({"weekly": 1}, [7]),
        ({"weekly": 2}, [1, 7]),  # all are of one week: counts left keep the oldest
        ({"monthly": 12}, [1, 7]),
        ({"yearly": 1}, [7]),
        ({"daily": 2, "last": 2}, [5, 6, 7]),
        ({"within": parse_duration("1d")}, [6, 7]),  # exactly a day older is not within
        ({"within": parse_duration("25h")}, [5, 6, 7]),
        ({"within": parse_duration("1y")}, [1, 2, 3, 4, 5, 6, 7]),
        ({"tags": ("nobody",)}, [7]),
    ],
)  # fmt: skip
def test_counted_rules_keep_the_newest_of_each_period(
    rules: Mapping[str, object], expected: list[int]
) -> None:
    """(case 108)"""
    assert kept(snapshots(*DAYS), **rules) == expected


def test_each_verdict_tells_its_reasons() -> None:
    """(case 108)"""
    found = judged(
        snapshots(*DAYS[:5], "2026-11-21 08:00#keep,x", "2026-11-21 10:00"),
        last=1, hourly=1, daily=2, weekly=1, monthly=1, yearly=1, within=parse_duration("1h"),
        tags=("keep", "keep,x", "keep,y"),
    )  # fmt: skip
    assert [(v.snapshot.seq, v.keep, v.reasons) for v in found] == [
        (7, True, (
            "the last one", "newest of 2026-11-21 10:00 UTC", "newest of 2026-11-21",
            "newest of week 2026-W47", "newest of 2026-11", "newest of 2026", "within 1h",
        )),
        (6, True, ("tagged keep", "tagged keep, x")),
        (5, True, ("newest of 2026-11-20",)),
        (4, False, ("no rule keeps it",)),
        (3, False, ("no rule keeps it",)),
        (2, False, ("no rule keeps it",)),
        (1, False, ("no rule keeps it",)),
    ]  # fmt: skip


def test_the_oldest_is_kept_while_a_rule_is_not_used_up() -> None:
    found = judged(snapshots(*DAYS), last=1, monthly=3, daily=2)
    assert found[-1].reasons == ("the oldest, and the monthly rule is not used up",)


def test_weeks_are_those_of_iso_8601() -> None:
    """The first of January 2027 is a Friday of 2026's week 53. (case 108)"""
    days = ["2026-12-27 12:00", "2026-12-28 12:00", "2027-01-01 12:00", "2027-01-04 12:00"]
    assert kept(snapshots(*days), weekly=2) == [3, 4]
    assert kept(snapshots(*days), weekly=3) == [1, 3, 4]
    assert kept(snapshots(*days), yearly=2) == [2, 4]


def test_days_are_those_of_the_time_zone() -> None:
    """(case 108)"""
    late = snapshots("2026-11-20 22:30", "2026-11-20 23:30", "2026-11-21 22:30")
    assert kept(late, daily=2) == [2, 3]
    # 23:30 UTC is half past midnight on the 21st there.
    assert kept(late, daily=2, zone=BERLIN) == [1, 3]
    assert kept(late, daily=1, zone=BERLIN) == [3]


def test_the_machines_own_time_zone_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    (verdict,) = judged(snapshots("2026-11-21 02:00"), hourly=1, zone=None)
    assert verdict.reasons == ("newest of 2026-11-20 21:00 EST",)


@pytest.mark.parametrize("zone", [BERLIN, None])
def test_an_hour_that_the_clock_shows_twice_is_two(
    zone: tzinfo | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 25 October 2026 it is 02:30 in Berlin at 00:30 UTC and at 01:30 UTC. (case 108)"""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    night = snapshots("2026-10-24 23:30", "2026-10-25 00:30", "2026-10-25 01:30")
    found = judged(night, hourly=3, zone=zone)
    assert [v.reasons for v in found] == [
        ("newest of 2026-10-25 02:00 CET",),
        ("newest of 2026-10-25 02:00 CEST",),
        ("newest of 2026-10-25 01:00 CEST",),
    ]
    assert kept(night, daily=1, zone=zone) == [3]


@pytest.mark.parametrize("zone", [BERLIN, None])
def test_a_day_within_has_as_many_hours_as_it_has(
    zone: tzinfo | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25 October 2026 has 25 hours in Berlin. (case 108)"""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    two = snapshots("2026-10-24 12:30", "2026-10-25 12:00", zone=BERLIN)
    assert kept(two, within=parse_duration("1d"), zone=zone) == [1, 2]
    assert kept(two, within=parse_duration("24h"), zone=zone) == [2]


def test_ties_are_broken_by_the_number_of_the_run() -> None:
    """(case 108)"""
    same = snapshots(*["2026-11-21 10:00"] * 3)
    assert [v.snapshot.seq for v in judged(same, last=2)] == [3, 2, 1]
    assert kept(same, last=1) == [3]
    assert kept(list(reversed(same)), daily=1) == [3]


def test_within_counts_from_the_newest_that_is_not_in_the_future() -> None:
    """As in restic; a machine that was off for a year loses nothing."""
    years_ago = snapshots("2020-01-01 10:00", "2020-01-05 10:00", "2020-01-06 10:00")
    assert kept(years_ago, within=parse_duration("2d")) == [2, 3]
    ahead = snapshots("2026-11-20 10:00", "2026-11-21 10:00", "2099-01-01 10:00")
    now = datetime(2026, 11, 22, tzinfo=UTC)
    assert kept(ahead, within=parse_duration("2d"), now=now) == [1, 2, 3]


def test_where_a_clock_was_wrong_the_newest_is_that_of_the_largest_number() -> None:
    """The next run compares with it, whatever it is dated."""
    back = snapshots("2026-11-21 10:00", "2026-11-20 10:00")
    found = judged(back, last=1)
    assert [(v.snapshot.seq, v.keep) for v in found] == [(2, True), (1, False)]
    assert kept(back, tags=("nobody",)) == [2]
    assert kept(back, daily=1) == [1, 2]
    same_day = snapshots("2026-11-21 10:00", "2026-11-21 09:00", "2026-11-22 10:00")
    assert kept(same_day, daily=2) == [2, 3]


def test_what_is_dated_in_the_future_pushes_out_nothing() -> None:
    ahead = snapshots("2026-11-18 10:00", "2035-01-01 10:00", "2026-11-19 10:00",
                      "2026-11-20 10:00", "2026-11-21 10:00")  # fmt: skip
    now = datetime(2026, 11, 22, tzinfo=UTC)
    assert kept(ahead, last=2, now=now) == [4, 5]
    for rule in ("hourly", "daily", "weekly", "monthly", "yearly"):
        assert 5 in kept(ahead, **{rule: 1}, now=now)
    assert set(kept(ahead, daily=3, now=now)) - {2} == {3, 4, 5}


def test_no_history_is_lost_to_a_clock_that_is_wrong_now() -> None:
    """It may have been reset to long ago, and a run made since."""
    days = snapshots(*DAYS)
    past = datetime(2000, 1, 1, 1, tzinfo=UTC)
    for rules in ({"daily": 3}, {"within": parse_duration("25h")}, {"weekly": 2}):
        assert kept(days, now=past, **rules) == kept(days, **rules)
        since = snapshots(*DAYS, "2000-01-01 00:30")
        assert set(kept(days, **rules)) | {8} <= set(kept(since, now=past, **rules))


def test_a_whole_snapshot_stands_for_a_period_before_a_later_partial_one() -> None:
    """(case 108)"""
    days = snapshots("2026-11-19 10:00", "2026-11-20 10:00", "2026-11-20 11:00!",
                     "2026-11-21 10:00!", "2026-11-21 11:00!")  # fmt: skip
    assert kept(days, daily=2) == [2, 5]
    assert kept(days, daily=3) == [1, 2, 5]


def test_partial_snapshots_never_push_out_the_last_good_one() -> None:
    """(case 108)"""
    days = snapshots("2026-11-18 10:00", "2026-11-19 10:00", "2026-11-20 10:00!",
                     "2026-11-21 10:00!")  # fmt: skip
    found = judged(days, last=1)
    assert [(v.keep, v.reasons) for v in found] == [
        (True, ("the last one",)),
        (False, ("no rule keeps it",)),
        (True, ("the last good one",)),
        (False, ("no rule keeps it",)),
    ]


def test_what_the_next_run_compares_with_is_kept() -> None:
    days = snapshots("2026-11-19 10:00#keep", "2026-11-20 10:00", "2026-11-20 11:00!")
    found = judged(days, tags=("keep",))
    assert [(v.keep, v.reasons) for v in found] == [
        (True, ("the newest: the next run compares with it",)),
        (True, ("the last good one",)),
        (True, ("tagged keep",)),
    ]
    only_partial = snapshots("2026-11-19 10:00!", "2026-11-20 10:00!")
    assert kept(only_partial, tags=("keep",)) == [2]


def test_no_snapshots_give_no_verdicts() -> None:
    assert judged([], last=1, within=parse_duration("1d"), monthly=3, tags=("x",)) == []


@pytest.mark.parametrize("rules", [{}, {"last": 0, "daily": 0}, {"tags": ()}, {"tags": ("", ",")}])
def test_a_policy_that_says_nothing_is_refused(rules: Mapping[str, object]) -> None:
    """(case 108)"""
    with pytest.raises(PlanError, match="no rule says what to keep"):
        judged(snapshots(*DAYS), **rules)  # type: ignore[arg-type]


HOURS = st.integers(0, 24 * 800)
SNAPSHOTS = st.lists(st.tuples(HOURS, st.booleans(), st.booleans()), max_size=40).map(
    lambda rows: [
        Snapshot(
            run_id=f"run-{number}", job="docs", seq=number, mode="full",
            status="success" if good else "partial",
            started_at=datetime(2024, 9, 1, tzinfo=UTC) + timedelta(hours=hour),
            tags=("keep",) if tagged else (),
        )
        for number, (hour, good, tagged) in enumerate(rows, 1)
    ]
)  # fmt: skip
MOMENTS = st.integers(0, 24 * 800).map(
    lambda hour: datetime(2024, 9, 1, tzinfo=UTC) + timedelta(hours=hour)
) | st.just(NOW)
COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
POLICIES = st.builds(
    Policy,
    **{name: st.integers(0, 6) for name in COUNTS},
    within=st.none() | st.sampled_from(["3h", "2d", "5w", "1y"]).map(parse_duration),
    tags=st.sampled_from([(), ("keep",)]),
).filter(lambda policy: not policy.is_empty)


def keeps(given_snapshots: Sequence[Snapshot], policy: Policy, now: datetime = NOW) -> set[int]:
    verdicts = apply_policy(given_snapshots, policy, now=now, timezone=BERLIN)
    assert all(verdict.reasons for verdict in verdicts)
    return {verdict.snapshot.seq for verdict in verdicts if verdict.keep}


@given(SNAPSHOTS, POLICIES, MOMENTS, st.data())
def test_a_larger_policy_keeps_all_that_a_smaller_one_keeps(
    given_snapshots: list[Snapshot], policy: Policy, now: datetime, data: st.DataObject
) -> None:
    more = data.draw(st.sampled_from([*COUNTS, "within", "tags"]))
    value = {"within": parse_duration("2y"), "tags": ("keep", "other")}.get(more)
    larger = replace(policy, **{more: value or getattr(policy, more) + 1})
    assert keeps(given_snapshots, policy, now) <= keeps(given_snapshots, larger, now)


@given(SNAPSHOTS, POLICIES, MOMENTS)
def test_the_newest_and_the_last_good_one_are_always_kept(
    given_snapshots: list[Snapshot], policy: Policy, now: datetime
) -> None:
    found = keeps(given_snapshots, policy, now)
    ordered = sorted(given_snapshots, key=lambda one: one.seq)
    for one in (ordered[-1:], [one for one in ordered if one.status == "success"][-1:]):
        assert {snapshot.seq for snapshot in one} <= found


@given(SNAPSHOTS, POLICIES, MOMENTS)
def test_pruning_twice_removes_nothing_the_second_time(
    given_snapshots: list[Snapshot], policy: Policy, now: datetime
) -> None:
    left = keeps(given_snapshots, policy, now)
    again = [one for one in given_snapshots if one.seq in left]
    assert keeps(again, policy, now) == left


@given(SNAPSHOTS)
def test_no_rule_keeps_more_than_its_count_and_the_oldest(given_snapshots: list[Snapshot]) -> None:
    whole = [msgspec.structs.replace(one, status="success") for one in given_snapshots]
    for rule in COUNTS:
        for count in (1, 4):
            assert len(keeps(whole, Policy(**{rule: count}))) <= count + 1


# restic as the judge: the same times, whole snapshots only.

TIMES = (
    "2024-12-30 23:10:00", "2025-01-01 00:10:00", "2025-06-30 12:00:00", "2026-03-29 01:30:00",
    "2026-03-29 03:30:00", "2026-06-01 10:00:00", "2026-06-01 10:59:59", "2026-06-01 11:00:00",
    "2026-06-07 23:59:59", "2026-06-08 00:00:00", "2026-10-25 04:00:00", "2026-11-01 07:00:00",
    "2026-11-20 10:00:00", "2026-11-21 10:00:00",
)  # fmt: skip
TAGGED = {"2025-06-30 12:00:00": ("a", "b"), "2026-06-07 23:59:59": ("a",)}
FORGETS = (
    ["--keep-hourly", "7"], ["--keep-daily", "4"], ["--keep-daily", "100"],
    ["--keep-weekly", "5"], ["--keep-monthly", "4"], ["--keep-yearly", "5"],
    ["--keep-tag", "a,b", "--keep-last", "1"], ["--keep-within", "21d", "--keep-yearly", "1"],
    ["--keep-within", "1y2m"], ["--keep-within", "20d3h", "--keep-tag", "a"],
    ["--keep-last", "2", "--keep-hourly", "3", "--keep-daily", "3", "--keep-weekly", "4",
     "--keep-monthly", "5", "--keep-yearly", "3"],
)  # fmt: skip


@pytest.fixture(scope="module")
def restic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a repository with a snapshot for each of TIMES."""
    place = tmp_path_factory.mktemp("restic")
    (place / "data").write_text("x")
    call_restic(place, "init")
    for moment in TIMES:
        tags = [word for tag in TAGGED.get(moment, ()) for word in ("--tag", tag)]
        call_restic(place, "backup", "--time", moment, *tags, place / "data")
    return place


def call_restic(place: Path, *words: str | Path) -> str:
    done = subprocess.run(
        ["restic", "-r", place / "repository", "--no-cache", *words],
        env={**os.environ, "RESTIC_PASSWORD": "x", "TZ": "Europe/Berlin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.needs_tool("restic")
def test_restic_keeps_the_same(restic: Path) -> None:
    ours = snapshots(
        *(f"{moment}#{','.join(TAGGED.get(moment, ()))}" for moment in TIMES), zone=BERLIN
    )
    for words in FORGETS:
        answer = json.loads(call_restic(restic, "forget", "--dry-run", "--json", *words))
        theirs = {
            datetime.fromisoformat(one["time"][:19]).replace(tzinfo=BERLIN).astimezone(UTC)
            for one in answer[0]["keep"]
        }
        rules: dict[str, object] = {"tags": ()}
        for name, value in zip(words[::2], words[1::2], strict=True):
            rule = name.removeprefix("--keep-")
            if rule == "within":  # restic's m is our mo
                value = value.replace("m", "mo")
                rules[rule] = parse_duration(value)
            elif rule == "tag":
                rules["tags"] = (value,)
            else:
                rules[rule] = int(value)
        verdicts = judged(ours, zone=BERLIN, **rules)  # type: ignore[arg-type]
        assert {v.snapshot.started_at for v in verdicts if v.keep} == theirs, words


def test_every_rule_of_the_policy_is_tested_against_restic() -> None:
    tested = {word.removeprefix("--keep-") for words in FORGETS for word in words[::2]}
    assert tested == {one.name for one in fields(Policy)} - {"tags"} | {"tag"}
