"""A whole Prefect server, with its scheduler and our settings, for the tests of deployments."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from waiting import api_client

from deployments.start import settings

_START_SECONDS = 180


@pytest.fixture(scope="session")
def full_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the API address of `prefect server start`, as an operator would run it."""
    folder = tmp_path_factory.mktemp("full-server")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    log = folder / "server.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--no-ui",
             "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env=os.environ | settings() | {"PREFECT_HOME": str(folder / "home")},
        ) as process,
    ):  # fmt: skip
        try:
            _wait_until_healthy(process, url, log)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: os.PathLike[str]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    with open(log) as lines:
        pytest.fail(f"prefect server start did not come up:\n{lines.read()}")


@pytest.fixture
def full_api(full_server: str) -> Iterator[httpx.Client]:
    """Give a client of that server's REST API."""
    with api_client(full_server) as client:
        yield client


@pytest.fixture
def full_client(full_server: str) -> Iterator[SyncPrefectClient]:
    """Give Prefect's own client of that server, which code in this process uses too."""
    with (
        temporary_settings({PREFECT_API_URL: full_server}),
        get_client(sync_client=True) as client,
    ):
        yield client
