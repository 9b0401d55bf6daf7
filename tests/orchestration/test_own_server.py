"""A Prefect server that a command brings along: whom it answers, and what it leaves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import tags
from waiting import wait_for

from flows.backup import backup
from flows.support.forget_runs import TAG, forget_old_runs
from flows.support.server import ServerError, TemporaryServer, is_healthy
from pybak.options import BackupOptions
from pybak.prefect_api import ApiError, PrefectApi

AUTH = "pybak:only-for-this-command"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporaryServer]:
    folder = tmp_path_factory.mktemp("own-server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(folder / "prefect"))
        with TemporaryServer(folder / "log", auth=AUTH) as server:
            server.wait()
            yield server


@pytest.fixture
def api(server: TemporaryServer) -> Iterator[PrefectApi]:
    with PrefectApi(server.url, auth=AUTH) as api:
        yield api


def test_it_answers_its_command_alone(server: TemporaryServer, api: PrefectApi) -> None:
    """Whoever is on the machine reaches its port, and by it all blocks."""
    assert is_healthy(server.url)
    assert api.post("/block_documents/filter") == []
    for auth in (None, "pybak:guessed"):
        with PrefectApi(server.url, auth=auth) as other:
            for path in ("/block_documents/filter", "/deployments/filter"):
                with pytest.raises(ApiError) as refused:
                    other.post(path)
                assert refused.value.status == 401


def home_of(server: TemporaryServer) -> Path:
    return server._log.parent / "prefect"


def test_a_prefect_home_that_can_t_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file" / "below"))
    with (
        TemporaryServer(tmp_path / "log") as server,
        pytest.raises(ServerError, match="/below: can't be written; set PREFECT_HOME to a folder"),
    ):
        server.wait()


def test_its_database_is_the_users_alone(server: TemporaryServer) -> None:
    """It may hold credentials, and the key that they are encrypted with."""
    home = home_of(server)
    assert home.stat().st_mode & 0o077 == 0
    assert (home / "prefect.db").stat().st_mode & 0o077 == 0


def ended(api: PrefectApi, *tags: str) -> str:
    """Make a run that has ended, with an artifact; give its id."""
    flow = api.post("/flows/", {"name": "backup"})["id"]
    run: str = api.post("/flow_runs/", {"flow_id": flow, "tags": list(tags)})["id"]
    for kind in ("RUNNING", "COMPLETED"):
        api.post(f"/flow_runs/{run}/set_state", {"state": {"type": kind}, "force": True})
    api.post("/artifacts/", {"key": "backup-report", "type": "markdown", "flow_run_id": run})
    return run


def left(api: PrefectApi, path: str) -> list[Any]:
    return list(api.pages(path))


def test_what_is_old_and_its_own_goes_with_its_artifacts(
    server: TemporaryServer, api: PrefectApi, tmp_path: Path
) -> None:
    marker = tmp_path / "tidied"
    old = [ended(api, TAG) for _ in range(55)]
    kept = {ended(api), ended(api, "someone-elses")}
    assert forget_old_runs(server.url, AUTH, tmp_path / "other") == 0  # none is two weeks old
    since = datetime.now(UTC)
    kept.add(ended(api, TAG))

    def forget() -> int:
        return forget_old_runs(server.url, AUTH, marker, since)

    assert forget() == len(old)
    assert {run["id"] for run in left(api, "/flow_runs/filter")} == kept
    assert {one["flow_run_id"] for one in left(api, "/artifacts/filter")} == kept
    since = datetime.now(UTC)
    assert forget() == 0  # not again so soon
    long_ago = time.time() - 4000
    os.utime(marker, (long_ago, long_ago))
    assert forget() == 1


def test_nothing_goes_where_nobody_can_say_when_it_was_done_last(
    server: TemporaryServer, api: PrefectApi, tmp_path: Path
) -> None:
    ended(api, TAG)
    marker = tmp_path / "missing" / "tidied"
    assert forget_old_runs(server.url, AUTH, marker, datetime.now(UTC)) == 0


def test_a_server_that_refuses_is_left_alone(server: TemporaryServer, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert forget_old_runs(server.url, "pybak:wrong", tmp_path / "tidied", now) == 0


@pytest.mark.usefixtures("in_prefect")
def test_the_mark_is_not_that_of_tasks(prefect_api: httpx.Client, tmp_path: Path) -> None:
    """A task with a tag asks the server whether it may begin."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a").write_text("a")
    options = BackupOptions(cluster="threads")
    with tags("marked-for-a-test"):
        state = backup(
            [str(tmp_path / "docs")], str(tmp_path), "tagged", options, return_state=True
        )
    assert state.is_completed()
    marked = {"tags": {"all_": ["marked-for-a-test"]}}
    [run] = prefect_api.post("/flow_runs/filter", json={"flow_runs": marked}).json()
    of_it = {"id": {"any_": [run["id"]]}}

    def task_runs() -> Any:
        return prefect_api.post("/task_runs/filter", json={"flow_runs": of_it}).json()

    assert {tag for one in wait_for(task_runs) for tag in one["tags"]} == set()
