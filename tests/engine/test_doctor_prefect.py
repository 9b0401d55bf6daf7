"""What `pybak doctor` makes of a server's answers; states that are hard to bring about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prefect_double import URL, Double, settings

from pybak.doctor.blocks import check_blocks, folder_blocks, named_blocks
from pybak.doctor.deployed import Deployment, Limit, read_deployments
from pybak.doctor.environment import check_clock
from pybak.doctor.examine import examine
from pybak.doctor.finding import Finding
from pybak.doctor.schedules import SHIPPED_OFF, check_schedules
from pybak.doctor.server import check_answer, check_settings, is_loopback
from pybak.doctor.slots import check_slots
from pybak.doctor.workers import check_workers
from pybak.prefect_api import PrefectApi

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


def deployment(**more: Any) -> Deployment:
    given: dict[str, Any] = {
        "id": "d1", "name": "backup/docs", "flow": "backup", "is_paused": False, "schedules": 1,
        "schedules_off": 0, "intervals": (120.0,),
        "limit": Limit("deployment:d1", 1, 0), "updated": NOW - timedelta(days=1),
    }  # fmt: skip
    return Deployment(**{**given, **more})


def iso(**before: float) -> str:
    return (NOW - timedelta(**before)).isoformat()


def told(found: Sequence[Finding], state: str) -> list[str]:
    return [one.line() for one in found if one.state == state]


# ---- server


@pytest.fixture(autouse=True)
def listening(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that the server of these answers listens at."""
    found = ["127.0.0.1"]
    monkeypatch.setattr("pybak.doctor.server.listening", lambda port: found if port == 4999 else [])
    return found


def checked(has_limits: bool = True, **changes: Any) -> list[Finding]:
    double = Double({"/admin/settings": settings(**changes)})
    return check_settings(double.api(), {}, has_limits=has_limits, uses_blocks=False)


def test_a_server_with_the_settings_that_matter_is_ok() -> None:
    found = checked()
    assert [one.state for one in found] == ["ok"] * 3


def test_slots_in_memory_are_a_problem_where_runs_are_limited() -> None:
    memory = "prefect.server.concurrency.lease_storage.memory"
    (line,) = told(checked(lease_storage=memory), "problem")
    assert "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency" in line
    assert told(checked(has_limits=False, lease_storage=memory), "problem") == []


@pytest.mark.parametrize(
    ("listens", "auth", "state"),
    [
        (["0.0.0.0"], None, "problem"), (["::"], None, "problem"),
        (["127.0.0.1", "0.0.0.0"], None, "problem"), (["0.0.0.0"], "**********", "ok"),
        (["127.0.0.1"], None, "ok"), (["::1", "::ffff:127.0.0.1"], None, "ok"),
        (["127.0.0.1", "10.0.0.1"], None, "ok"), ([], None, "note"),
    ],
)  # fmt: skip
def test_a_server_open_to_the_network_needs_a_password(
    listens: list[str], auth: str | None, state: str, listening: list[str]
) -> None:
    """What `--host` said is in no setting: the settings say 127.0.0.1 all the while."""
    listening[:] = listens
    found = checked(host="127.0.0.1", auth_string=auth)[1]
    assert found.state == state
    assert state == "ok" or "PREFECT_SERVER_API_AUTH_STRING" in found.line()


def test_what_a_server_keeps_for_ever_and_sends_away_is_noted() -> None:
    found = told(checked(vacuum=["events"], analytics=True), "note")
    assert "flow runs" in found[0]
    assert "DB_VACUUM_ENABLED=events,flow_runs" in found[0]
    assert "PREFECT_SERVER_ANALYTICS_ENABLED=0" in found[1]


def test_a_server_without_settings_to_read_is_a_note() -> None:
    found = check_settings(Double({}).api(), {}, has_limits=True, uses_blocks=False)
    assert [one.state for one in found] == ["note"]


def test_another_version_than_the_installed_one_is_a_problem() -> None:
    double = Double({"/admin/version": "3.6.0"})
    (line,) = told(check_answer(double.api(), "3.8.8"), "problem")
    assert "3.6.0" in line
    assert "prefect==3.8.8" in line


@pytest.mark.parametrize(
    ("host", "own"),
    [("localhost", True), ("127.0.0.2", True), ("::1", True), ("0.0.0.0", False), ("nas", False)],
)
def test_which_addresses_are_this_machine_alone(host: str, own: bool) -> None:
    assert is_loopback(host) is own


@pytest.mark.parametrize(
    ("seconds", "state"), [(0, None), (4, None), (-30, "note"), (3600, "problem")]
)
def test_a_clock_that_differs_from_the_servers_is_told(seconds: int, state: str | None) -> None:
    found = check_clock(NOW, NOW + timedelta(seconds=seconds))
    assert [one.state for one in found] == ([state] if state else [])


# ---- workers


def pools(paused: bool = False, queue_paused: bool = False, **worker: Any) -> Double:
    workers = [worker] if worker else []
    return Double({
        "/work_pools/backup": {"name": "backup", "is_paused": paused},
        "/work_pools/backup/queues/filter": [{"name": "default", "is_paused": queue_paused}],
        "/work_pools/backup/workers/filter": workers,
    })  # fmt: skip


ALIVE: Mapping[str, Any] = {
    "name": "w1", "status": "ONLINE", "last_heartbeat_time": iso(seconds=12)
}  # fmt: skip
DEAD: Mapping[str, Any] = {
    "name": "w1", "status": "OFFLINE", "last_heartbeat_time": iso(hours=3)
}  # fmt: skip


def workers_of(double: Double, **more: Any) -> list[Finding]:
    one = deployment(**{"pool": "backup", "queue": "default", **more})
    return check_workers(double.api(), [one], NOW)


def test_a_pool_with_a_live_worker_is_ok() -> None:
    (found,) = workers_of(pools(**ALIVE))
    assert (found.state, "heard 12 seconds ago" in found.text) == ("ok", True)


def test_a_dead_worker_is_a_problem_with_the_command_to_start_one() -> None:
    (line,) = told(workers_of(pools(**DEAD)), "problem")
    assert "3 hours ago" in line
    assert line.endswith("start one: python deployments/start.py worker")


def test_a_pool_of_somebody_elses_gets_prefects_own_command() -> None:
    double = pools(**DEAD)
    double.answers |= {
        path.replace("backup", "their"): answer for path, answer in double.answers.items()
    }
    (line,) = told(workers_of(double, pool="their"), "problem")
    assert line.endswith("prefect worker start --pool their")


def test_several_deployments_do_not_run() -> None:
    users = [deployment(name=name, pool="backup", queue="default") for name in ("a", "b")]
    (line,) = told(check_workers(pools(**DEAD).api(), users, NOW), "problem")
    assert ", so a, b do not run; start one" in line


def test_a_dead_worker_of_paused_deployments_is_a_note() -> None:
    assert told(workers_of(pools(**DEAD), is_paused=True), "problem") == []


def test_paused_pools_and_queues_are_problems() -> None:
    (line,) = told(workers_of(pools(paused=True, **ALIVE)), "problem")
    assert "prefect work-pool resume backup" in line
    (line,) = told(workers_of(pools(queue_paused=True, **ALIVE)), "problem")
    assert "prefect work-queue resume default --pool backup" in line


def test_a_pool_that_does_not_exist_is_a_problem() -> None:
    (line,) = told(workers_of(Double({})), "problem")
    assert "prefect work-pool create backup --type process" in line


@pytest.mark.parametrize(
    ("polled", "paused", "state"),
    [
        (NOW - timedelta(seconds=9), False, "ok"),
        (NOW - timedelta(hours=5), False, "problem"),
        (NOW - timedelta(hours=5), True, "note"),
        (None, False, "problem"),
    ],
)
def test_what_is_served_without_a_pool_must_have_asked_lately(
    polled: datetime | None, paused: bool, state: str
) -> None:
    one = deployment(last_polled=polled, is_paused=paused)
    (found,) = check_workers(Double({}).api(), [one], NOW)
    assert found.state == state


# ---- slots


def test_a_slot_that_is_free_again_a_moment_later_is_no_problem() -> None:
    """A run that ends just now gives it back a little later than its state says."""
    row = {
        "id": "d1", "name": "docs", "flow_id": "f1",
        "global_concurrency_limit": {"name": "deployment:d1", "limit": 1, "active_slots": 0},
    }  # fmt: skip
    double = Double({
        "/flow_runs/count": 0,
        "/flows/filter": [{"id": "f1", "name": "backup"}],
        "/deployments/filter": [row],
    })  # fmt: skip
    slept: list[float] = []
    one = deployment(limit=Limit("deployment:d1", 1, 1))
    (found,) = check_slots(double.api(), [one], slept.append)
    assert found.state == "ok"
    assert len(slept) == 1
    row["global_concurrency_limit"] = {"name": "deployment:d1", "limit": 1, "active_slots": 1}
    (found,) = check_slots(double.api(), [one], slept.append)
    assert found.command == "prefect gcl update deployment:d1 --active-slots 0"


# ---- schedules


def run(kind: str, **more: Any) -> dict[str, Any]:
    state = {"type": kind, "name": kind.capitalize(), "message": more.pop("message", None)}
    given = {
        "id": "r1", "name": "docs 10:00", "state": state, "start_time": iso(minutes=1),
        "expected_start_time": iso(minutes=1), "total_run_time": 20.0,
    }  # fmt: skip
    return {**given, **more}


def runs(
    waiting: Sequence[Any] = (), at_work: Sequence[Any] = (), ended: Sequence[Any] = (),
    heartbeat: str | None = None,
) -> Double:  # fmt: skip
    def filtered(body: Any) -> Any:
        wanted = body["flow_runs"]["state"]["type"]["any_"]
        if "RUNNING" in wanted:
            return list(at_work)
        if "SCHEDULED" in wanted:
            return list(waiting)[: body["limit"]]
        return [one for one in ended if one["state"]["type"] in wanted]

    return Double({
        "/flow_runs/filter": filtered,
        "/flow_runs/count": len(waiting),
        "/events/filter": {"events": [{"occurred": heartbeat}] if heartbeat else []},
    })  # fmt: skip


NEXT = run("SCHEDULED", expected_start_time=(NOW + timedelta(seconds=70)).isoformat())


def schedules_of(double: Double, **more: Any) -> list[Finding]:
    return check_schedules(double.api(), [deployment(**more)], NOW)


def test_a_deployment_with_a_run_ahead_is_ok() -> None:
    (found,) = schedules_of(runs([NEXT], ended=[run("COMPLETED")]))
    assert (found.state, found.text) == (
        "ok", "backup/docs: next run in 70 seconds, the last one Completed"
    )  # fmt: skip


def test_a_schedule_without_runs_is_a_problem_unless_it_is_new() -> None:
    (line,) = told(schedules_of(runs()), "problem")
    assert "scheduler" in line
    new = schedules_of(runs(), updated=NOW - timedelta(seconds=20))
    assert told(new, "problem") == []


def test_late_runs_are_counted() -> None:
    late = [run("SCHEDULED", expected_start_time=iso(minutes=number)) for number in (9, 7, 5)]
    (line,) = told(schedules_of(runs(late)), "problem")
    assert line.startswith("backup/docs: 3 runs late, the first for 9 minutes")


def test_a_paused_deployment_is_a_note() -> None:
    (line,) = told(schedules_of(runs(), is_paused=True), "note")
    assert line.startswith("backup/docs is paused")
    assert line.endswith("python deployments/deploy.py --start docs")
    assert told(schedules_of(runs(), is_paused=True, name=SHIPPED_OFF[0]), "note") == []


def test_runs_that_were_all_cancelled_point_to_the_slots() -> None:
    """(case 99)"""
    reason = "Deployment concurrency limit reached."
    ended = [run("CANCELLED", message=reason) for _ in range(10)]
    (line,) = told(schedules_of(runs([NEXT], ended=ended)), "problem")
    assert "last 10 runs were all cancelled (Deployment concurrency limit reached)" in line


def test_one_cancelled_run_among_good_ones_is_usual() -> None:
    ended = [run("CANCELLED"), run("COMPLETED"), run("CANCELLED")]
    assert told(schedules_of(runs([NEXT], ended=ended)), "problem") == []


def test_failed_runs_between_cancelled_ones_are_a_problem() -> None:
    ended = [run("CANCELLED"), run("FAILED", id="r2"), run("CANCELLED"), run("CRASHED")]
    (line,) = told(schedules_of(runs([NEXT], ended=ended)), "problem")
    assert line.startswith("backup/docs: the last 2 runs that were not cancelled failed")
    assert line.endswith("pybak logs r2")


def test_failed_runs_name_the_reason_and_where_the_log_is() -> None:
    ended = [run("FAILED", message="disk\nfull"), run("CRASHED"), run("COMPLETED")]
    (line,) = told(schedules_of(runs([NEXT], ended=ended)), "problem")
    assert line == "backup/docs: the last 2 runs failed (disk full); see why: pybak logs r1"


def test_a_run_without_heartbeats_is_dead_and_the_advice_ends_it() -> None:
    """(case 98)"""
    silent = run("RUNNING", start_time=iso(hours=2))
    double = runs([NEXT], at_work=[silent], heartbeat=iso(hours=1))
    (line,) = told(schedules_of(double), "problem")
    assert "last heard of 60 minutes ago" in line
    assert line.endswith(
        """prefect api POST /flow_runs/r1/set_state --data '{"state":{"type":"CRASHED"}}'"""
    )


def test_a_long_run_that_lives_is_a_note() -> None:
    long = run("RUNNING", start_time=iso(hours=2))
    double = runs([NEXT], at_work=[long], ended=[run("COMPLETED")] * 4, heartbeat=iso(minutes=1))
    found = schedules_of(double)
    assert told(found, "problem") == []
    (line,) = told(found, "note")
    assert "usual are 20 seconds" in line


# ---- blocks


def test_blocks_are_found_wherever_parameters_name_them() -> None:
    one = deployment(
        parameters={
            "to": "block:s3-bucket/offsite/docs", "sources": ["/srv/block:x"],
            "options": {
                "also_to": ["block:stick", "/mnt"], "password_block": "archives", "mail": "post",
                "webhook": None, "ping": "", "format": "zip",
            },
        }
    )  # fmt: skip
    found = named_blocks([one], {"PYBAK_CATALOG_URL": "block:office"})
    assert [block.text for block in found] == [
        "s3-bucket/offsite", "stick", "archives", "post", "office"
    ]  # fmt: skip


def test_a_missing_block_is_named_with_who_needs_it() -> None:
    there = [
        {"name": "archives", "block_type": {"slug": "pybak-encryption-password"}},
        {"name": "offsite", "block_type": {"slug": "pybak-local-folder"}},
    ]
    double = Double({"/block_documents/filter": there})
    options = {"password_block": "archives", "mail": "post"}
    one = deployment(parameters={"to": "block:s3-bucket/offsite", "options": options})
    found = told(check_blocks(double.api(), named_blocks([one], {})), "problem")
    assert [line.split(",")[0] for line in found] == [
        "block post does not exist", "block s3-bucket/offsite does not exist"
    ]  # fmt: skip
    body = double.asked[0][2]
    assert body["include_secrets"] is False


def test_a_block_that_only_paused_deployments_name_is_no_problem() -> None:
    paused = deployment(name="transfer/far", is_paused=True, parameters={"to": "block:far"})
    double = Double({"/block_documents/filter": []})
    (found,) = check_blocks(double.api(), named_blocks([paused], {}))
    assert found.state == "note"
    assert found.text == (
        "block far does not exist; transfer/far needs it once switched on or started"
    )
    runs_too = deployment(parameters={"also_to": ["block:far"]})
    (found,) = check_blocks(double.api(), named_blocks([paused, runs_too], {}))
    assert (found.state, found.text) == (
        "problem", "block far does not exist, but backup/docs needs it"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "slug", "told_of"),
    [
        ({"options": {"mail": "x"}}, "pybak-s3-storage", "x does not exist as a pybak-mail-server"),
        ({"options": {"mail": "x"}}, "pybak-mail-server", None),
        ({"options": {"password_block": "x"}}, "secret", "as a pybak-encryption-password"),
        ({"options": {"password_block": "secret/x"}}, "secret", None),
        ({"options": {"ping": "x"}}, "pybak-webhook", "x does not exist as a pybak-ping"),
        ({"to": "block:x/docs"}, "pybak-mail-server", "x does not exist as a storage"),
        ({"to": "block:x/docs"}, "gcs-bucket", None),
    ],
)
def test_a_block_of_another_type_is_not_the_right_one(
    parameters: dict[str, Any], slug: str, told_of: str | None
) -> None:
    there = [{"name": "x", "block_type": {"slug": slug}}]
    double = Double({"/block_documents/filter": there})
    one = deployment(parameters=parameters)
    found = check_blocks(double.api(), named_blocks([one], {}))
    assert [one.state for one in found] == ["problem" if told_of else "ok"]
    assert told_of is None or told_of in found[0].text


def test_the_catalogs_block_may_be_a_secret() -> None:
    there = [{"name": "x", "block_type": {"slug": "secret"}}]
    double = Double({"/block_documents/filter": there})
    found = check_blocks(double.api(), named_blocks([], {"PYBAK_CATALOG_URL": "block:secret/x"}))
    assert [one.state for one in found] == ["ok"]


def test_paths_of_folders_are_known_by_their_blocks() -> None:
    there = [
        {"name": "here", "block_type": {"slug": "pybak-local-folder"}, "data": {"path": "~/a"}},
        {"name": "mail", "block_type": {"slug": "pybak-mail-server"}, "data": {"path": "/b"}},
    ]
    assert folder_blocks(Double({"/block_documents/filter": there}).api()) == {"here": "~/a"}


# ---- all of it


def test_a_server_that_is_away_is_a_problem_and_the_rest_is_checked() -> None:
    found = list(examine({}, now=lambda: NOW, api=PrefectApi("http://127.0.0.1:9/api")))
    assert any("no Prefect server answers" in line for line in told(found, "problem"))
    assert {"environment", "catalog", "disk"} <= {one.subject for one in found}


def test_without_a_server_runs_by_hand_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pybak.prefect_server.is_own_listener", lambda _port: False)
    found = list(examine({"PREFECT_HOME": "/nowhere"}, now=lambda: NOW))
    server = [one for one in found if one.subject == "server"]
    assert [(one.state, one.command) for one in server] == [
        ("note", "python deployments/start.py server")
    ]


def test_a_check_that_fails_keeps_no_other_from_its_turn() -> None:
    row = {"id": "d1", "name": "docs", "flow_id": "f1", "work_pool_name": "p"}
    double = Double({
        "/admin/version": "3.8.8", "/admin/settings": {"server": 7},
        "/flows/filter": [{"id": "f1", "name": "backup"}], "/deployments/filter": [row],
        "/work_pools/p": httpx.Response(500, json={}), "/flow_runs/filter": [{"odd": 1}],
    })  # fmt: skip
    found = list(examine({}, now=lambda: NOW, api=double.api()))
    bad = {one.subject for one in found if one.state == "problem"}
    assert {"worker", "schedules"} <= bad
    assert {"catalog", "disk"} <= {one.subject for one in found}


def test_a_server_without_our_flows_is_told() -> None:
    double = Double({
        "/admin/version": "3.8.8", "/admin/settings": settings(), "/flows/filter": [],
        "/deployments/filter": [],
    })  # fmt: skip
    found = list(examine({}, now=lambda: NOW, api=double.api()))
    (line,) = [one for one in told(found, "note") if "no flow of PyBak is deployed" in one]
    assert line.endswith("python deployments/deploy.py")


def test_only_deployments_of_our_flows_are_looked_at() -> None:
    rows = [
        {"id": "d1", "name": "docs", "flow_id": "f1", "paused": True,
         "schedules": [{"active": True, "schedule": {"interval": 120.0}},
                       {"active": True, "schedule": {"cron": "0 3 * * *"}},
                       {"active": False, "schedule": {"interval": 5.0}}]},
        {"id": "d2", "name": "theirs", "flow_id": "f9"},
    ]  # fmt: skip
    double = Double({
        "/flows/filter": [{"id": "f1", "name": "backup"}], "/deployments/filter": rows
    })  # fmt: skip
    (one,) = read_deployments(double.api())
    assert (one.name, one.is_paused, one.schedules, one.schedules_off) == (
        "backup/docs",
        True,
        2,
        1,
    )
    assert one.intervals == (120.0,)
    assert URL in double.api().url
