"""What is left of a run whose server was killed: not the slot that "one at a time" gave it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import prefect
import pytest
from commands import PROJECT
from prefect.client.constants import SERVER_API_VERSION
from servers import free_port, running
from waiting import api_client, wait_for

pytestmark = pytest.mark.full

GRACE = 60
"""Seconds that a slot is kept for a run that is not heard of; Prefect takes no less."""


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


@contextmanager
def server(port: int, folder: Path, env: Mapping[str, str]) -> Iterator[int]:
    """Run a server as start.py does; give its process group."""
    command = [
        sys.executable, PROJECT / "deployments" / "start.py", "server", "--no-ui",
        "--port", str(port),
    ]  # fmt: skip
    environ = {**env, "PREFECT_HOME": str(folder / "home")}
    with running(command, folder / "server.log", environ) as process:
        url = f"http://127.0.0.1:{port}/api/health"
        wait_for(lambda: answers(url), 180, told="the server")
        yield process.pid


@pytest.mark.timeout(900)
def test_a_slot_is_given_back_after_the_server_was_killed(tmp_path: Path) -> None:
    """With the settings of settings.env; in memory it would be taken for ever."""
    port = free_port()
    # The server keeps no leases for the runs of clients that are too old to renew them.
    client = {"User-Agent": f"prefect/{prefect.__version__} (API {SERVER_API_VERSION})"}
    api = api_client(f"http://127.0.0.1:{port}/api", headers=client)

    def post(path: str, given: Any) -> Any:
        return api.post(path, json=given).raise_for_status().json()

    def begin(deployment: str) -> tuple[str, str]:
        """Begin a run as a worker does; give its id and the state that the server gave it."""
        run = post(f"/deployments/{deployment}/create_flow_run", {})["id"]
        pending = {"state": {"type": "PENDING"}, "force": False}
        return run, post(f"/flow_runs/{run}/set_state", pending)["state"]["type"]

    with server(port, tmp_path, {}) as group:
        flow = post("/flows/", {"name": "backup"})["id"]
        options = {"collision_strategy": "CANCEL_NEW", "grace_period_seconds": GRACE}
        deployment = post(
            "/deployments/",
            {
                "name": "one",
                "flow_id": flow,
                "concurrency_limit": 1,
                "concurrency_options": options,
            },
        )["id"]
        first, state = begin(deployment)
        assert state == "PENDING"
        post(f"/flow_runs/{first}/set_state", {"state": {"type": "RUNNING"}})
        assert begin(deployment)[1] == "CANCELLED"
        os.killpg(group, signal.SIGKILL)
        time.sleep(1)
    with server(port, tmp_path, {}):
        assert begin(deployment)[1] == "CANCELLED"
        assert wait_for(lambda: begin(deployment)[1] == "PENDING", 8 * GRACE, every=15)
    api.close()
