"""What every test stands on: markers, an environment of its own, commands, a Prefect server.

Fixtures to use in tests:

- `swift`, `moto`: servers that speak S3, for the whole session (`s3_servers.S3Server`).
- `s3_address`: `s3://BUCKET/a/prefix` of the test's own on Swift, which the environment now names.
- `faulty`: puts a proxy that fails on purpose before a server (`faults.FaultProxy`).
- `run_command`: runs `python flows/NAME.py …` with the session's server; see `commands.Commands`.
- `prefect_server`: the API address of a real Prefect server, one for the whole session, started
  when a test first asks for it. It serves the API but runs no scheduler.
- `prefect_api`: an httpx client on that address, to look at runs and artifacts.
- `in_prefect`: flows called inside the test process use that server.
- `postgres_server`: a real PostgreSQL server, one for the whole session (`postgres.Server`).
- `postgres_url`: the URL of an empty database of the test's own there.
- `any_catalog`: the URL of an empty catalog; the test runs twice, on SQLite and on PostgreSQL.

Markers:

- `@pytest.mark.full`: long or large; deselected unless pytest gets `--full`.
- `@pytest.mark.needs_root`: needs root, for mounts or ownership.
- `@pytest.mark.needs_tool("7zz|7z", "unzip")`: needs all of these programs; `|` is "or".
- `@pytest.mark.needs_component("swift")`: needs programs with an environment of their own.

What a marker needs and is missing skips the test, with the reason; with `CI=true` it fails, so
that nothing goes unchecked there. `.ci/install-components` installs the programs.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import commands
import hypothesis
import pytest
from commands import Commands, find_tool
from components import find_component
from fork_server import early

if TYPE_CHECKING:
    import httpx
    from faults import FaultProxy
    from postgres import Server
    from s3_servers import S3Server

# Variables of the reader's shell that would change what the program does.
_FOREIGN = ("PREFECT_", "PYBAK_", "DASK_", "AWS_", "GOOGLE_", "STORAGE_EMULATOR_")
_SETTLED = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
    "TZ": "UTC",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="also run the tests that are long or large"
    )


# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_configure(config: pytest.Config) -> None:
    """Settle the environment before anything imports Prefect, which reads it once."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN):
            del os.environ[name]
    folder = tempfile.TemporaryDirectory(prefix="pybak-tests-")
    config.add_cleanup(folder.cleanup)
    os.environ.update(_SETTLED, PREFECT_HOME=f"{folder.name}/prefect")
    commands.SETTLED.update(early(os.environ))
    time.tzset()
    os.umask(0o022)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    long = [item for item in items if item.get_closest_marker("full")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = [
        name
        for marker in item.iter_markers("needs_tool")
        for name in marker.args
        if find_tool(name) is None
    ]
    missing += [
        name
        for marker in item.iter_markers("needs_component")
        for name in marker.args
        if find_component(name) is None
    ]
    if missing:
        _cannot_run(f"needs {' and '.join(missing)}; run .ci/install-components")
    if item.get_closest_marker("needs_root") and os.geteuid() != 0:
        _cannot_run("needs root")


def _cannot_run(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _no_home_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what fixtures of modules do, before `_own_environment`, out of the user's catalog."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYBAK_HOME", str(tmp_path_factory.mktemp("pybak-home-of-all")))
        yield


@pytest.fixture(autouse=True)
def _own_environment(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Give each test its own PYBAK_HOME, and put umask and time zone back afterwards."""
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path_factory.mktemp("pybak-home")))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    umask = os.umask(0o022)
    yield
    os.umask(umask)
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the API address of a real Prefect server, as a command would start it."""
    from flows.support.server import TemporaryServer

    folder = tmp_path_factory.mktemp("prefect-server")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(folder / "home"))
        environment.delenv("PREFECT_API_URL", raising=False)
        server = TemporaryServer(folder / "server.log")
    with server:
        server.wait()
        yield server.url


@pytest.fixture
def prefect_api(prefect_server: str) -> Iterator[httpx.Client]:
    """Give a client of the server's REST API: `prefect_api.post("/flow_runs/filter", json={})`."""
    from waiting import api_client

    with api_client(prefect_server) as client:
        yield client


@pytest.fixture
def in_prefect(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let flows that are called in this process use the session's server."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """Give a PostgreSQL server of the session's own."""
    from postgres import binaries, running_server

    if binaries() is None:
        _cannot_run("needs PostgreSQL; run .ci/install-components")
    with running_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """Give the URL of an empty database."""
    name = f"test_{uuid.uuid4().hex}"
    yield postgres_server.new_database(name)
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_catalog(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a catalog that is still empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog/catalog.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Give a real server that speaks S3: OpenStack Swift."""
    from s3_servers import running_swift

    if find_component("swift") is None:
        _cannot_run("needs swift; run .ci/install-components")
    with running_swift(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Give a double of S3 that knows what Swift lacks, but checks less."""
    from s3_servers import running_moto

    with running_moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def faulty() -> Iterator[Callable[[str], FaultProxy]]:
    """Give what puts a proxy before a server; all faults that it is armed with must fire."""
    from faults import FaultProxy

    proxies: list[FaultProxy] = []

    def start(endpoint: str) -> FaultProxy:
        proxies.append(FaultProxy(endpoint))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()
    silent = [fault for proxy in proxies for fault in proxy.faults if not fault.fired]
    assert not silent, f"never fired: {silent}"


@pytest.fixture
def s3_address(swift: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the address of an empty folder on Swift; the environment has what opens it."""
    for name, value in swift.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{swift.new_bucket()}/a/prefix"


@pytest.fixture
def run_command(tmp_path: Path, request: pytest.FixtureRequest) -> Commands:
    """Give what runs commands: `run_command("backup", source, "--to", folder, "--json")`.

    The result has `rc`, `stdout`, `stderr`, `seconds` and, parsed, `json`. `run_command.running`
    starts one for tests that send it signals. The server starts when it is first needed.
    """
    return Commands(tmp_path, lambda: str(request.getfixturevalue("prefect_server")))
