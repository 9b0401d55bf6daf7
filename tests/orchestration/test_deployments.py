"""`serve.py` against a whole server: one process that runs what is due."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import PROJECT
from prefect.client.orchestration import SyncPrefectClient
from waiting import shared, wait_for

from blocks import LocalFolder
from deployments import definitions
from deployments.applying import apply, ensure_pool
from deployments.serve import refuse_pooled
from pybak.errors import PlanError


@contextmanager
def served(
    url: str, folder: Path, *words: str, home: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    env = os.environ | {"PREFECT_API_URL": url} | ({"HOME": str(home)} if home else {})
    with (
        (folder / "serve.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, str(PROJECT / "deployments" / "serve.py"), *words],
            cwd=folder, env=env,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            # What a shell runs in the background ignores it, as all that is started there.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process,
    ):  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "docs"
    folder.mkdir()
    (folder / "letter.txt").write_text("Dear reader\n")
    return folder


@pytest.fixture(scope="module")
def serving(
    full_server: str, source: Path
) -> Iterator[tuple[dict[str, Any], subprocess.Popen[bytes]]]:
    words = ("docs", "--to", "backups", "--job", "letters", "--every", "120", "--paused")
    with served(full_server, source.parent, *words) as process:

        def deployment() -> dict[str, Any] | None:
            assert process.poll() is None, (source.parent / "serve.log").read_text()
            answer = httpx.get(f"{full_server}/deployments/name/backup/served", timeout=10)
            found: dict[str, Any] | None = answer.json() if answer.is_success else None
            return found

        yield wait_for(deployment, told="the deployment"), process


def test_a_run_started_through_the_api_makes_an_archive(
    serving: tuple[dict[str, Any], Any], full_api: httpx.Client, source: Path
) -> None:
    deployment, _ = serving
    parameters = {"options": {"cluster": "threads", "level": 6}}
    run = full_api.post(
        f"/deployments/{deployment['id']}/create_flow_run", json={"parameters": parameters}
    ).raise_for_status()

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = full_api.get(f"/flow_runs/{run.json()['id']}").json()
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return found if found["state"]["type"] in final else None

    state = wait_for(ended, 150, told="the end of the run")["state"]
    assert (state["type"], state["name"]) == ("COMPLETED", "Completed"), (
        (source.parent / "serve.log").read_text(),
        state,
    )
    [archive] = (source.parent / "backups").glob("letters_*.zip")
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        assert opened.read("docs/letter.txt") == b"Dear reader\n"


def test_runs_do_not_overlap_and_parameters_are_absolute(
    serving: tuple[dict[str, Any], Any], source: Path
) -> None:
    deployment, _ = serving
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert [one["schedule"]["interval"] for one in deployment["schedules"]] == [120]
    assert deployment["parameters"]["sources"] == [str(source)]
    assert deployment["parameters"]["to"] == str(source.parent / "backups")
    assert deployment["parameters"]["options"] == {"mode": "incremental", "full_every": "7d"}


def test_the_form_explains_every_field_and_asks_for_no_secret(
    serving: tuple[dict[str, Any], Any],
) -> None:
    schema = serving[0]["parameter_openapi_schema"]
    order = sorted(schema["properties"], key=lambda n: schema["properties"][n]["position"])
    assert order[:4] == ["sources", "to", "job", "options"]
    fields = dict(schema["properties"])
    for model in schema["definitions"].values():
        fields |= model["properties"]
    for name, field in fields.items():
        assert field.get("title"), name
        assert field.get("description", "").endswith("."), name
        for secret in ("password", "secret", "token", "key"):
            # A block's name is no secret.
            assert secret not in name.replace("password_block", ""), name
    options = schema["definitions"]["BackupOptions"]
    assert options["additionalProperties"] is False
    assert options["properties"]["format"]["enum"] == ["zip", "tar", "tar.gz", "tar.bz2", "tar.zst"]
    level = options["properties"]["level"]
    assert (level["minimum"], level["maximum"]) == (1, 9)


def test_interrupting_it_pauses_the_deployment(
    serving: tuple[dict[str, Any], subprocess.Popen[bytes]], full_api: httpx.Client
) -> None:
    """Last of these: it ends the process that the others use."""
    deployment, process = serving
    os.kill(process.pid, signal.SIGINT)
    process.wait(shared(180))
    assert full_api.get(f"/deployments/{deployment['id']}").json()["paused"]


def test_serving_without_a_server_says_what_to_start(tmp_path: Path) -> None:
    with served("http://127.0.0.1:9/api", tmp_path, ".", "--to", "backups") as process:
        assert process.wait(60) == 1
    said = (tmp_path / "serve.log").read_text()
    assert "python deployments/start.py server" in said
    assert "Traceback" not in said
    assert not (tmp_path / "backups").exists()


def test_what_to_serve_must_be_said(tmp_path: Path) -> None:
    for words, told in {
        (): "--deployment NAME, or --all",
        ("docs",): "--to",
        ("docs", "--all"): "not both",
        ("--all", "--to", "x"): "not both",
    }.items():
        with served("http://127.0.0.1:9/api", tmp_path, *words) as process:
            assert process.wait(60) == 2
        assert told in (tmp_path / "serve.log").read_text()


def runs_of(deployments: list[str], api: httpx.Client) -> None:
    for one in api.post("/deployments/filter", json={}).json():
        if one["name"] in deployments:
            api.delete(f"/deployments/{one['id']}").raise_for_status()


@pytest.fixture
def serving_the_file(
    full_server: str,
    full_api: httpx.Client,
    full_client: SyncPrefectClient,
    tmp_path: Path,
) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Serve two deployments of prefect.yaml; give the home of who does, and the process."""
    names = ["inbox-every-two-minutes", "documents-prune-nightly"]
    runs_of(names, full_api)
    (tmp_path / "pybak-inbox").mkdir()
    (tmp_path / "Backups").mkdir()
    block = LocalFolder(path=str(tmp_path / "Backups"))
    block.save(definitions.DESTINATION, overwrite=True)  # as deploy.py does
    words = ("--deployment", "inbox", "--deployment", names[1])
    with served(full_server, tmp_path, *words, home=tmp_path) as process:

        def ready() -> bool:
            assert process.poll() is None, (tmp_path / "serve.log").read_text()
            found = full_api.post("/deployments/filter", json={}).json()
            return {one["name"] for one in found} >= set(names)

        wait_for(ready, told="the deployments")
        yield tmp_path, process
    runs_of(names, full_api)
    LocalFolder.delete(definitions.DESTINATION)


def test_deployments_of_the_file_are_served_as_workers_would_run_them(
    serving_the_file: tuple[Path, subprocess.Popen[bytes]], full_api: httpx.Client
) -> None:
    home, process = serving_the_file
    wanted = {one.full_name: one for one in definitions.load({})}
    for name in ("inbox/inbox-every-two-minutes", "prune/documents-prune-nightly"):
        there = full_api.get(f"/deployments/name/{name}").raise_for_status().json()
        assert there["work_pool_name"] is None
        assert there["paused"] == wanted[name].paused
        assert there["tags"] == wanted[name].tags
        assert there["description"] == wanted[name].description
        assert there["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
        assert there["global_concurrency_limit"]["limit"] == 1
        assert [one["slug"] for one in there["schedules"]] == [
            one.slug for one in wanted[name].schedules
        ]
        assert there["parameters"]["options"] == wanted[name].parameters["options"]
    inbox = full_api.get("/deployments/name/inbox/inbox-every-two-minutes").json()
    assert inbox["parameters"]["source"] == f"{home}/pybak-inbox"
    assert inbox["parameters"]["destination"] == "block:backups/inbox"

    (home / "pybak-inbox" / "report.csv").write_text("a;b\n")
    os.utime(home / "pybak-inbox" / "report.csv", (1_700_000_000, 1_700_000_000))
    started = full_api.post(f"/deployments/{inbox['id']}/create_flow_run", json={})
    started.raise_for_status()
    taken = wait_for(lambda: list((home / "Backups" / "inbox").glob("report.csv_*.gz")), 120)
    assert gzip.decompress(taken[0].read_bytes()) == b"a;b\n"
    os.kill(process.pid, signal.SIGINT)
    process.wait(shared(180))
    assert full_api.get(f"/deployments/{inbox['id']}").json()["paused"]


def test_what_workers_run_is_not_served_as_well(full_client: SyncPrefectClient) -> None:
    [rebuild] = definitions.choose(definitions.load({}), ["rebuild"])
    ensure_pool(full_client, "backup", "process")
    apply(full_client, rebuild)
    told = (
        "rebuild/rebuild-on-request: workers of the pool backup run it; .*"
        "prefect deployment delete rebuild/rebuild-on-request"
    )
    with pytest.raises(PlanError, match=told):
        refuse_pooled(full_client, rebuild)
