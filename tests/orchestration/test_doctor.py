"""`pybak doctor` against a whole Prefect server: what it finds, and that its advice works."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import httpx
import pytest
from commands import PROJECT
from prefect.server.api.dependencies import PREFECT_CLIENT_USER_AGENT_PATTERN
from waiting import wait_for

from pybak.doctor.blocks import folder_blocks
from pybak.doctor.examine import examine
from pybak.doctor.finding import Finding
from pybak.prefect_api import PrefectApi


class World:
    """Deployments of flows of ours that are made by REST, each in a pool of its own."""

    def __init__(self, api: httpx.Client, url: str) -> None:
        self.api = api
        self.url = url
        self.made: list[str] = []

    def deploy(self, name: str, flow: str = "backup", **more: Any) -> dict[str, Any]:
        """Make a deployment with a two-minute schedule and a limit of one."""
        pool = f"{name}-pool"
        self._post("/work_pools/", {"name": pool, "type": "process"})
        flow_id = self._post("/flows/", {"name": flow})["id"]
        schedule = {"schedule": {"interval": 120}, "active": True}
        given = {
            "name": name, "flow_id": flow_id, "work_pool_name": pool, "schedules": [schedule],
            "concurrency_limit": 1, "concurrency_options": {"collision_strategy": "CANCEL_NEW"},
            "entrypoint": "flows/backup.py:backup", "path": str(PROJECT),
        }  # fmt: skip
        made = self._post("/deployments/", {**given, **more})
        self.made.append(made["id"])
        return made

    def beat(self, name: str, seconds: int = 30) -> None:
        """Be a worker of a deployment's pool for the next three times so many seconds."""
        self._post(
            f"/work_pools/{name}-pool/workers/heartbeat",
            {"name": f"{name}-worker", "heartbeat_interval_seconds": seconds},
        )

    def _post(self, path: str, body: Any) -> Any:
        answer = self.api.post(path, json=body).raise_for_status()
        return answer.json() if answer.content else None

    def post(self, path: str, body: Any = None) -> Any:
        return self._post(path, body)

    def findings(self, subject: str, about: str, ahead: timedelta = timedelta(0)) -> list[Finding]:
        """Give what a check says of one deployment, or what else is named so, a while later."""
        found = examine(
            {}, now=lambda: datetime.now(UTC) + ahead, sleep=lambda _: None,
            api=PrefectApi(self.url),
        )  # fmt: skip
        return [one for one in found if one.subject == subject and about in one.line()]

    def close(self) -> None:
        for made in self.made:
            self.api.delete(f"/deployments/{made}")


@pytest.fixture
def world(full_api: httpx.Client, full_server: str) -> Iterator[World]:
    made = World(full_api, full_server)
    yield made
    made.close()


def follow(found: Finding, url: str) -> None:
    """Type the command that a finding gives."""
    assert found.command is not None, found
    words = shlex.split(found.command)
    assert words[0] == "prefect", found
    done = subprocess.run(
        [sys.executable, "-m", *words], env=os.environ | {"PREFECT_API_URL": url},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def states(found: list[Finding]) -> list[str]:
    return [one.state for one in found]


def test_a_deployment_with_worker_and_runs_ahead_is_healthy(world: World) -> None:
    world.deploy("healthy", parameters={"job": "healthy"})
    world.beat("healthy")
    wait_for(lambda: states(world.findings("schedules", "healthy")) == ["ok"])
    assert states(world.findings("worker", "healthy")) == ["ok"]
    assert states(world.findings("slots", "no slot is lost")) == ["ok"]
    assert states(world.findings("server", "answers")) == ["ok"]


def test_a_worker_that_died_is_a_problem_once_its_heartbeats_stop(world: World) -> None:
    """(case 98)"""
    world.deploy("orphan")
    world.beat("orphan", seconds=1)
    assert states(world.findings("worker", "orphan")) == ["ok"]

    def dead() -> list[Finding]:
        return [one for one in world.findings("worker", "orphan") if one.state == "problem"]

    (found,) = wait_for(dead)
    assert "orphan-worker" in found.text
    assert found.command == "prefect worker start --pool orphan-pool"


def test_a_leaked_slot_is_found_and_the_advice_frees_it(world: World) -> None:
    """(case 99)"""
    made = world.deploy("leaking")
    name = f"deployment:{made['id']}"
    world.api.patch(f"/v2/concurrency_limits/{name}", json={"active_slots": 1}).raise_for_status()
    (found,) = world.findings("slots", "leaking")
    assert found.state == "problem"
    follow(found, world.url)
    assert world.api.get(f"/v2/concurrency_limits/{name}").json()["active_slots"] == 0
    assert world.findings("slots", "leaking") == []


def test_a_run_whose_process_is_gone_is_found_and_the_advice_gives_its_slot_back(
    world: World,
) -> None:
    made = world.deploy("zombie")
    run = world.post(f"/deployments/{made['id']}/create_flow_run", {})["id"]
    for kind in ("PENDING", "RUNNING"):
        world.post(f"/flow_runs/{run}/set_state", {"state": {"type": kind}})
    limit = f"/v2/concurrency_limits/deployment:{made['id']}"
    assert world.api.get(limit).json()["active_slots"] == 1
    assert world.findings("slots", "zombie") == []
    assert not [one for one in world.findings("schedules", "zombie") if "at work" in one.text]
    later = world.findings("schedules", "zombie", timedelta(minutes=11))
    (found,) = [one for one in later if "its process is gone" in one.text]
    assert found.state == "problem"
    follow(found, world.url)
    assert world.api.get(f"/flow_runs/{run}").json()["state"]["type"] == "CRASHED"
    assert world.api.get(limit).json()["active_slots"] == 0


def test_a_paused_deployment_is_a_note_and_needs_no_worker(world: World) -> None:
    made = world.deploy("resting")
    world.post(f"/deployments/{made['id']}/pause_deployment")
    assert states(world.findings("schedules", "resting")) == ["note"]
    assert states(world.findings("worker", "resting")) == ["note"]


def test_a_paused_pool_is_a_problem_and_the_advice_resumes_it(world: World) -> None:
    world.deploy("stuck")
    world.beat("stuck")
    world.api.patch("/work_pools/stuck-pool", json={"is_paused": True}).raise_for_status()
    (found,) = [one for one in world.findings("worker", "stuck") if one.state == "problem"]
    follow(found, world.url)
    assert states(world.findings("worker", "stuck")) == ["ok"]


def test_a_block_that_a_deployment_names_must_exist(world: World) -> None:
    name = f"b-{uuid.uuid4().hex[:8]}"
    world.deploy("secretive", parameters={"options": {"password_block": name}})
    (found,) = world.findings("blocks", name)
    assert found.state == "problem"
    assert "backup/secretive needs it" in found.text
    world.deploy("discreet", parameters={"options": {"password_block": f"secret/{name}"}})
    kind = world.api.get("/block_types/slug/secret").raise_for_status().json()["id"]
    schema = world.post("/block_schemas/", {"block_type_id": kind, "fields": {}})["id"]
    world.post(
        "/block_documents/",
        {"name": name, "data": {}, "block_type_id": kind, "block_schema_id": schema},
    )
    (found,) = world.findings("blocks", name)  # it is there, but is none of that type
    assert "as a pybak-encryption-password, but backup/secretive needs it" in found.text


def test_paths_of_blocks_that_are_folders_are_read_from_the_server(world: World) -> None:
    name = f"b-{uuid.uuid4().hex[:8]}"
    kinds = [
        one for one in world.post("/block_types/filter") if one["slug"] == "pybak-local-folder"
    ] or [world.post("/block_types/", {"name": "PyBak Local Folder", "slug": "pybak-local-folder"})]
    kind = kinds[0]["id"]
    fields = {"properties": {"path": {"type": "string"}}, "block_schema_references": {}}
    schema = world.post("/block_schemas/", {"block_type_id": kind, "fields": fields})["id"]
    world.post(
        "/block_documents/",
        {"name": name, "data": {"path": "/a"}, "block_type_id": kind, "block_schema_id": schema},
    )
    assert folder_blocks(PrefectApi(world.url))[name] == "/a"


def test_the_server_reads_our_name_as_that_of_a_client_with_leases(world: World) -> None:
    """Else it forgets the lease of a run that is told to stop before it began."""
    made = world.deploy("leased")
    run = world.post(f"/deployments/{made['id']}/create_flow_run", {})["id"]
    with PrefectApi(world.url) as api:
        for kind in ("PENDING", "RUNNING"):
            api.post(f"/flow_runs/{run}/set_state", {"state": {"type": kind}})
        client = api._client.headers["user-agent"]
        details = api.get(f"/flow_runs/{run}")["state"]["state_details"]
        renewed = world.api.post(
            f"/v2/concurrency_limits/leases/{details['deployment_concurrency_lease_id']}/renew",
            json={"lease_duration": 60},
        )
    assert renewed.is_success, renewed.text
    known = PREFECT_CLIENT_USER_AGENT_PATTERN.match(client)
    assert known is not None
    assert known[1] == version("prefect")


def test_a_cancelled_row_of_runs_is_a_problem(world: World) -> None:
    """As it is when the slot is lost: each run is cancelled as it begins (case 99)."""
    made = world.deploy("wedged")
    world.api.patch(
        f"/v2/concurrency_limits/deployment:{made['id']}", json={"active_slots": 1}
    ).raise_for_status()
    for _ in range(3):
        run = world.post(f"/deployments/{made['id']}/create_flow_run", {})["id"]
        world.post(f"/flow_runs/{run}/set_state", {"state": {"type": "PENDING"}})
    found = [one for one in world.findings("schedules", "wedged") if one.state == "problem"]
    assert "last 3 runs were all cancelled (Deployment concurrency limit reached)" in found[0].text
