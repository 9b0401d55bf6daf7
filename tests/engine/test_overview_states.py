"""The rules for a job's state, and the sentences that tell it."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from overviews import NOW

from pybak.overview.facts import GoodBackup, RunSummary, Schedule
from pybak.overview.states import Judged, ago, is_bad, is_good, judge, span, usual_interval

MINUTE, HOUR, DAY = 60, 3600, 86400


def run(age: float, status: str = "success", kind: str = "backup", **files: int) -> RunSummary:
    """Give a run that ended `age` seconds ago, after 10 seconds; or began then and runs."""
    is_running = status in ("running", "died")
    ended = NOW - timedelta(seconds=age)
    return RunSummary(
        run_id=f"{age}", seq=1, kind=kind, job="docs", status=status, files=dict(files),
        started_at=ended if is_running else ended - timedelta(seconds=10),
        finished_at=None if is_running else ended,
        duration_seconds=None if is_running else 10.0, mode="full",
        archive="/a.zip" if status in ("success", "partial") and kind == "backup" else None,
        message=None, bytes_read=1, bytes_stored=1, flow_run=None,
    )  # fmt: skip


def judged(*runs: RunSummary, kind: str = "backup", schedule: Schedule | None = None) -> Judged:
    good = next((one for one in runs if is_good(one, has_archive=True)), None)
    newest = None
    if good is not None and good.finished_at is not None:
        age = (NOW - good.finished_at).total_seconds()
        newest = GoodBackup(run_id=good.run_id, finished_at=good.finished_at, age_seconds=age)
    return judge(kind, runs, newest, schedule, NOW)


EVERY_2 = [run(MINUTE * age) for age in range(2, 60, 2)]
DAILY = [run(DAY * age) for age in range(1, 19)]
BY_HAND = [run(MINUTE * age) for age in (12, 13, 14, 21, 32)]


@pytest.mark.parametrize(
    ("runs", "state", "words"),
    [
        (EVERY_2, "good", "Safe: last good backup 2 minutes ago"),
        (DAILY, "good", "Safe: last good backup 24 hours ago"),
        ([run(300 * DAY)], "good", "Safe: last good backup 300 days ago"),
        (BY_HAND, "good", "Safe: last good backup 12 minutes ago"),
        ([run(3, "unchanged"), *EVERY_2], "good", "Safe: last good backup just now"),
        ([run(3, "cancelled"), *EVERY_2], "good", "Safe: last good backup 2 minutes ago"),
        (
            EVERY_2[6:], "late",
            "Late: last good backup 14 minutes ago, usually every 2 minutes",
        ),
        (DAILY[1:], "late", "Late: last good backup 2 days ago, usually every 24 hours"),
        (DAILY[3:], "late", "Late: last good backup 4 days ago, usually every 24 hours"),
        (
            [run(30, "failed"), *EVERY_2], "problem",
            "Problem: the last backup failed 30 seconds ago; last good backup 2 minutes ago",
        ),
        (
            [run(MINUTE, "failed"), run(HOUR, "partial"), run(2 * HOUR), run(3 * HOUR)], "problem",
            ("Problem: the last 2 backups went wrong, since 1 hour ago; last good backup 2 hours "
            "ago"),
        ),
        (
            [run(30, "partial", failed=2), *EVERY_2], "problem",
            ("Problem: the last backup, 30 seconds ago, lacks 2 files; last good backup 2 minutes "
            "ago"),
        ),
        (
            [run(30, "unchanged", failed=1), *EVERY_2], "problem",
            ("Problem: the last backup, 30 seconds ago, lacks 1 file; last good backup 2 minutes "
            "ago"),
        ),
        (
            [run(30, "failed")], "problem",
            "Problem: the last backup failed 30 seconds ago; no backup was good yet",
        ),
        (
            [run(HOUR, "died"), *DAILY], "problem",
            ("Problem: the last backup was killed, or its machine went down; it began 1 hour ago; "
            "last good backup 24 hours ago"),
        ),
        (
            [run(12, "running"), *EVERY_2], "running",
            "Running for 12 seconds; last good backup 2 minutes ago",
        ),
        (
            [run(12, "running"), run(MINUTE, "failed"), *EVERY_2], "running",
            ("Running for 12 seconds; the last backup failed 1 minute ago; last good backup 2 "
            "minutes ago"),
        ),
        ([run(12, "running")], "running", "Running for 12 seconds; no backup was good yet"),
        (
            [run(5 * HOUR, "running"), *EVERY_2], "late",
            "Late: running for 5 hours, which is unusually long; last good backup 2 minutes ago",
        ),
        (
            [run(3 * DAY, "running")], "never",
            ("Never: running for 3 days, which is unusually long; no backup of this job can be "
            "restored"),
        ),
        ([run(HOUR, "cancelled")], "never", "Never: no backup of this job can be restored"),
    ],
)  # fmt: skip
def test_a_job_is_judged_by_its_last_runs(runs: list[RunSummary], state: str, words: str) -> None:
    found = judged(*runs)
    assert (found.state, found.words) == (state, words)


@pytest.mark.parametrize(
    ("schedule", "state"),
    [
        (Schedule(interval_seconds=2 * MINUTE), "late"),
        (Schedule(interval_seconds=DAY), "good"),
        (Schedule(next_run=NOW), "good"),
        (None, "good"),
    ],
)
def test_what_the_schedule_says_counts_more_than_what_is_usual(
    schedule: Schedule | None, state: str
) -> None:
    assert judged(*DAILY, schedule=schedule).state == state
    if state == "late":
        assert "due every 2 minutes" in judged(*DAILY, schedule=schedule).words


def test_a_scheduled_run_that_failed_before_it_began_is_a_problem() -> None:
    failed = Schedule(
        interval_seconds=DAY, failed_at=NOW - timedelta(hours=1), failed_flow_run="f1"
    )
    found = judged(*DAILY, schedule=failed)
    assert found.state == "problem"
    assert found.words == (
        "Problem: the last backup failed 1 hour ago, before it began; last good backup 24 hours ago"
    )
    assert judged(run(MINUTE), *DAILY, schedule=failed).state == "good"
    known = msgspec.structs.replace(run(HOUR, "cancelled"), flow_run="f1")
    assert judged(known, *DAILY, schedule=failed).state == "good"


def test_one_long_pause_does_not_change_what_is_usual() -> None:
    runs = [run(MINUTE * age) for age in (2, 4, 6, 9000, 9002, 9004)]
    assert usual_interval(runs) == 2 * MINUTE
    assert usual_interval(runs[:2]) is None


def test_a_backup_whose_archive_is_gone_is_not_good() -> None:
    removed = msgspec.structs.replace(run(MINUTE), archive=None)
    assert not is_good(removed, has_archive=True)
    assert not is_good(run(MINUTE, "unchanged"), has_archive=False)
    assert is_good(run(MINUTE, "unchanged", "mirror"), has_archive=False)
    assert judged(removed).state == "never"


def test_since_when_it_fails_is_told_beyond_runs_that_were_stopped() -> None:
    found = judged(run(MINUTE, "failed"), run(HOUR, "cancelled"), run(DAY, "failed"), run(2 * DAY))
    assert (found.failures, found.state) == (2, "problem")
    assert found.failing_since == NOW - timedelta(seconds=DAY + 10)


def test_other_kinds_are_called_by_their_name() -> None:
    runs = [run(MINUTE, "success", "inbox")]
    assert judged(*runs, kind="inbox").words == "Safe: last good inbox run 1 minute ago"


@pytest.mark.parametrize("status", ["success", "unchanged", "cancelled", "running"])
def test_only_what_left_something_unsaved_is_bad(status: str) -> None:
    assert not is_bad(run(1, status))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 seconds"), (0, "0 seconds"), (1, "1 second"), (59.9, "59 seconds"),
        (60, "1 minute"), (3599, "59 minutes"), (3600, "1 hour"), (86400, "24 hours"),
        (172799, "47 hours"), (172800, "2 days"), (86400 * 400, "400 days"),
    ],
)  # fmt: skip
def test_lengths_of_time_are_told_in_one_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text
    assert ago(seconds) == ("just now" if seconds < 5 else f"{text} ago")
