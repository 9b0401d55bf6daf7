"""Schedules of jobs that have several deployments, or share their name with another kind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from overviews import NOW, Written
from prefect_double import Double

from pybak.overview.facts import Schedule
from pybak.overview.schedules import job_of, read_schedules

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
FLOWS = {"backup": "f1", "inbox": "f2", "mirror": "f3"}


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    made = Written(f"sqlite:///{tmp_path}/catalog.db")
    yield made
    made.catalog.close()


class Server:
    """Has runs of deployments planned, and knows the last run of each that failed."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.failed: dict[str, tuple[str, datetime]] = {}
        self.double = Double(
            {
                "/flow_runs/filter": self.answer,
                "/flows/filter": [{"id": one, "name": name} for name, one in FLOWS.items()],
            }
        )

    def plan(
        self, deployment: str, every: timedelta, kind: str = "backup", times: int = 3, **given: Any
    ) -> None:
        parameters = given or {"job": "docs"}
        self.rows += [
            {
                "flow_id": FLOWS[kind], "deployment_id": deployment, "parameters": parameters,
                "expected_start_time": (NOW + every * number).isoformat(), "auto_scheduled": True,
            }
            for number in range(1, times + 1)
        ]  # fmt: skip

    def answer(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        wanted = body["flow_runs"]
        if "deployment_id" not in wanted:
            return sorted(self.rows, key=lambda row: str(row["expected_start_time"]))
        (deployment,) = wanted["deployment_id"]["any_"]
        if body["sort"] != "END_TIME_DESC" or deployment not in self.failed:
            return []
        flow_run, when = self.failed[deployment]
        return [{"id": flow_run, "end_time": when.isoformat(), "state": {"type": "CRASHED"}}]

    def read(self) -> dict[str, Schedule]:
        return read_schedules(self.double.api(), lambda: NOW)


@pytest.mark.parametrize("order", [("hourly", "weekly"), ("weekly", "hourly")])
def test_a_job_of_two_deployments_is_late_by_the_shorter_one(
    written: Written, order: tuple[str, str]
) -> None:
    server = Server()
    for name in order:
        server.plan(name, HOUR if name == "hourly" else 7 * DAY)
    written.back_up(ago=2 * DAY + MINUTE)
    found = server.read()
    assert found["docs"].interval_seconds == 3600
    assert found["docs"].next_run == NOW + HOUR
    (job,) = written.overview.jobs(NOW, found)
    assert (job.state, job.words) == (
        "late", "Late: last good backup 2 days ago, due every 1 hour"
    )  # fmt: skip


@pytest.mark.parametrize("deployment", ["hourly", "weekly"])
def test_the_newest_failure_of_all_deployments_of_a_job_counts(
    written: Written, deployment: str
) -> None:
    server = Server()
    server.plan("hourly", HOUR)
    server.plan("weekly", 7 * DAY)
    server.failed = {one: (one, NOW - 3 * HOUR) for one in ("hourly", "weekly")}
    server.failed[deployment] = ("last", NOW - 20 * MINUTE)
    written.back_up(ago=HOUR + MINUTE)
    found = server.read()
    assert (found["docs"].failed_at, found["docs"].failed_flow_run) == (NOW - 20 * MINUTE, "last")
    (job,) = written.overview.jobs(NOW, found)
    assert job.state == "problem"
    assert job.words.startswith("Problem: the last backup failed 20 minutes ago, before it began; ")


@pytest.mark.parametrize("is_early", [True, False])
def test_each_kind_of_one_name_has_its_own_schedule(written: Written, is_early: bool) -> None:
    server = Server()
    server.plan("saving", 6 * HOUR)
    server.plan("copying", HOUR, "mirror")
    server.failed = {"copying": ("run-of-mirror", NOW - HOUR)}
    written.back_up(ago=2 * HOUR + MINUTE)
    written.end("success" if is_early else "failed", "docs", "mirror", ago=HOUR + MINUTE)
    found = server.read()
    assert found["docs"].next_run == NOW + HOUR
    jobs = {one.kind: one for one in written.overview.jobs(NOW, found)}
    assert jobs["backup"].words == "Safe: last good backup 2 hours ago"
    assert jobs["backup"].next_run == NOW + 6 * HOUR
    assert jobs["mirror"].words.startswith("Problem: the last mirror run failed ")
    assert ("before it began" in jobs["mirror"].words) == is_early
    assert jobs["mirror"].next_run == NOW + HOUR


def test_a_kind_without_a_schedule_takes_none_of_another(written: Written) -> None:
    server = Server()
    server.plan("copying", HOUR, "mirror")
    written.back_up(ago=9 * DAY)
    never, job = written.overview.jobs(NOW, server.read())
    assert (job.kind, job.state, job.next_run) == ("backup", "good", None)
    assert (never.kind, never.state, never.next_run) == ("mirror", "never", NOW + HOUR)


def test_a_schedule_that_says_no_kind_is_of_all(written: Written) -> None:
    written.back_up(ago=HOUR)
    written.end("success", "docs", "mirror", ago=HOUR)
    known = {"docs": Schedule(next_run=NOW + DAY), "new": Schedule(next_run=NOW + HOUR)}
    jobs = written.overview.jobs(NOW, known)
    assert sorted((one.name, one.kind, one.next_run) for one in jobs) == [
        ("docs", "backup", NOW + DAY), ("docs", "mirror", NOW + DAY), ("new", "backup", NOW + HOUR),
    ]  # fmt: skip


def test_a_mirror_without_a_name_is_called_by_where_it_goes() -> None:
    server = Server()
    server.plan("copying", HOUR, "mirror", source="/in", destination="/out")
    server.plan("taking", HOUR, "inbox", source="/in", destination="/out")
    assert {name: list(one.kinds) for name, one in server.read().items()} == {
        "/out": ["mirror"], "inbox /in": ["inbox"],
    }  # fmt: skip
    assert job_of({"source": "/in", "destination": "/out"}) == "inbox /in"


def test_kinds_are_asked_for_once_however_many_deployments_there_are() -> None:
    server = Server()
    for number in range(5):
        server.plan(f"d{number}", HOUR, job=f"job{number}")
    assert len(server.read()) == 5
    assert [path for _, path, _ in server.double.asked].count("/flows/filter") == 1
