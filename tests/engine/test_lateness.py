"""When a job is late: the rule that `pybak doctor` and `pybak status` share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect_double import Double

from pybak.doctor.deployed import Deployment, timed
from pybak.lateness import every, is_regular, patience, planned_interval
from pybak.overview.facts import Schedule
from pybak.overview.schedules import read_schedules

MINUTE, HOUR, DAY = 60, 3600, 86400
FRIDAY = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


def days(*numbers: int) -> list[datetime]:
    return [FRIDAY + timedelta(days=number) for number in numbers]


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [(2 * MINUTE, 11 * MINUTE), (10 * MINUTE, 25 * MINUTE), (HOUR, 1.5 * HOUR), (DAY, 1.5 * DAY)],
)
def test_a_job_is_late_after_half_an_interval_more_and_some_minutes(
    interval: float, seconds: float
) -> None:
    assert patience(interval) == seconds


def test_a_longer_interval_has_never_less_patience() -> None:
    found = [patience(seconds) for seconds in range(0, 3 * HOUR, 7)]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("minutes", "regular"),
    [
        (range(0, 22, 2), True),
        (range(22, 0, -2), True),
        ([*range(0, 40, 2), 9000, 9002], True),
        (range(0, 20, 2), False),
        ([0, 1, 9, 10, 30, 31, 60, 61, 99, 100, 180, 181, 240], False),
        ([], False),
    ],
)
def test_only_many_runs_at_about_one_interval_are_regular(
    minutes: Sequence[int], regular: bool
) -> None:
    assert is_regular([FRIDAY + timedelta(minutes=number) for number in minutes]) is regular


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "1 second"), (12.3, "12 seconds"), (60, "1 minute"), (61.2, "1 minute"),
        (90, "90 seconds"), (119.8, "2 minutes"), (3601, "1 hour"), (5400, "90 minutes"),
        (86398, "24 hours"), (3 * 86400, "3 days"),
    ],
)  # fmt: skip
def test_an_interval_is_told_without_the_seconds_that_starts_differ_by(
    seconds: float, text: str
) -> None:
    assert every(seconds) == text


class Server:
    """Has the given runs planned, and the given ones due before."""

    def __init__(self, planned: list[datetime], past: list[datetime]) -> None:
        self.asked: list[datetime] = []
        self.past = past
        self.rows = [self.row(at) for at in planned]
        self.api = Double({"/flow_runs/filter": self.answer}).api()

    @staticmethod
    def row(at: datetime) -> dict[str, Any]:
        return {
            "expected_start_time": at.isoformat(), "auto_scheduled": True, "deployment_id": "d1",
            "parameters": {"job": "docs"},
        }  # fmt: skip

    def answer(self, body: Any) -> list[dict[str, Any]]:
        until = body["flow_runs"].get("expected_start_time", {}).get("before_")
        if until is None:
            return self.rows
        assert body["flow_runs"]["deployment_id"] == {"any_": ["d1"]}
        self.asked.append(datetime.fromisoformat(until))
        assert body["sort"] == "EXPECTED_START_TIME_DESC"
        return [self.row(at) for at in reversed(self.past) if at < self.asked[-1]]


@pytest.mark.parametrize(
    ("now", "past", "interval"),
    [
        (days(2)[0], days(-2, -1, 0), 3 * DAY),  # Sunday: the run of Friday was the last one due
        (days(3)[0] + timedelta(hours=2), days(-1, 0, 3), 3 * DAY),  # Monday's is at work
        (days(3)[0] + timedelta(hours=20), days(-1, 0, 3), DAY),
    ],
)
def test_a_job_of_weekdays_is_due_on_monday(
    now: datetime, past: list[datetime], interval: float
) -> None:
    planned = [at for at in days(3, 4, 5, 6) if at > now][:3]
    server = Server(planned, past)
    assert planned_interval(server.api, "d1", planned, now) == interval
    assert read_schedules(server.api, lambda: now) == {
        "docs": Schedule(next_run=planned[0], interval_seconds=interval)
    }
    one = Deployment(
        id="d1", name="backup/docs", flow="backup", is_paused=False, schedules=1, schedules_off=0
    )
    assert timed(server.api, one, now).intervals == (interval,)


@pytest.mark.parametrize(("kind", "failed"), [("CRASHED", True), ("COMPLETED", False)])
def test_the_last_run_is_asked_for_if_it_failed(kind: str, failed: bool) -> None:
    planned = Server.row(FRIDAY)

    def answer(body: Any) -> list[dict[str, Any]]:
        if body["sort"] != "END_TIME_DESC":
            return [planned]
        assert body["flow_runs"]["deployment_id"] == {"any_": ["d1"]}
        return [{"id": "f1", "end_time": FRIDAY.isoformat(), "state": {"type": kind}}]

    found = read_schedules(Double({"/flow_runs/filter": answer}).api(), lambda: FRIDAY)["docs"]
    assert (found.failed_at, found.failed_flow_run) == ((FRIDAY, "f1") if failed else (None, None))


def test_of_frequent_runs_those_planned_are_enough() -> None:
    planned = [FRIDAY + timedelta(minutes=number) for number in (2, 4, 6)]
    server = Server(planned, days(-9))
    assert planned_interval(server.api, "d1", planned, FRIDAY) == 2 * MINUTE
    assert server.asked == []


def test_an_interval_that_the_schedule_says_is_not_asked_for() -> None:
    one = Deployment(
        id="d1", name="backup/docs", flow="backup", is_paused=False, schedules=1, schedules_off=0,
        intervals=(120.0,),
    )  # fmt: skip
    assert timed(Double({}).api(), one, FRIDAY) is one
