"""Deployments as an operator makes them: prefect.yaml and serve.py against a whole server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from commands import PROJECT
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.utilities.importtools import import_object
from pydantic import BaseModel

EXAMPLE = PROJECT / "deployments" / "prefect.yaml"


def unknown_keys(data: Mapping[str, Any]) -> list[str]:
    """List the keys of a prefect.yaml that Prefect would silently ignore."""

    def strangers(model: type[BaseModel], part: Mapping[str, Any], where: str) -> list[str]:
        known = set(model.model_fields) | {f.alias for f in model.model_fields.values()}
        return [f"{where}{key}" for key in part if key not in known]

    found = strangers(PrefectYamlModel, data, "")
    for deployment in data["deployments"]:
        where = f"{deployment['name']}."
        found += strangers(DeploymentConfig, deployment, where)
        found += strangers(WorkPoolConfig, deployment.get("work_pool", {}), f"{where}work_pool.")
        limit = deployment.get("concurrency_limit")
        if isinstance(limit, dict):
            found += strangers(ConcurrencyLimitSpec, limit, f"{where}concurrency_limit.")
    return found


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    return value


def test_the_example_has_no_key_that_prefect_would_ignore(example: dict[str, Any]) -> None:
    assert unknown_keys(example) == []
    PrefectYamlModel.model_validate(example)
    for deployment in example["deployments"]:
        for schedule in deployment["schedules"]:
            RawScheduleConfig.model_validate(schedule)  # forbids what it does not know
        ConcurrencyLimitConfig.model_validate(deployment["concurrency_limit"])


@pytest.mark.parametrize("place", ["", "deployment", "work_pool", "concurrency_limit"])
def test_a_mistyped_key_is_found(example: dict[str, Any], place: str) -> None:
    spoilt = json.loads(json.dumps(example))
    deployment = spoilt["deployments"][0]
    {"": spoilt, "deployment": deployment}.get(place, deployment.get(place))["typo"] = 1
    assert [key.split(".")[-1] for key in unknown_keys(spoilt)] == ["typo"]


def test_the_examples_parameters_are_ones_that_the_flow_takes(example: dict[str, Any]) -> None:
    for deployment in example["deployments"]:
        flow = import_object(str(PROJECT / deployment["entrypoint"]))
        flow.validate_parameters(deployment["parameters"])


def prefect(url: str, *words: str, home: Path) -> str:
    """Run Prefect's own command in the project's folder; give what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        cwd=PROJECT, env=os.environ | {"PREFECT_API_URL": url, "HOME": str(home)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(what: str, look: Callable[[], Any], seconds: float = 90) -> Any:
    """Look again and again until there is something, and give it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.25)
    pytest.fail(f"{what}: nothing after {seconds:.0f} s")


def test_the_two_minute_schedule_of_the_example_gets_runs(
    full_server: str, full_api: httpx.Client, tmp_path: Path
) -> None:
    """A scheduler that plans nothing looks healthy otherwise: only this shows it."""
    full_api.post("/work_pools/", json={"name": "backup", "type": "process"}).raise_for_status()
    prefect(
        full_server, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml", home=tmp_path
    )
    name = "/deployments/name/backup/documents-every-two-minutes"
    deployed = full_api.get(name).raise_for_status().json()
    assert deployed["paused"]
    assert [schedule["schedule"]["interval"] for schedule in deployed["schedules"]] == [120]
    assert deployed["parameters"]["sources"] == [f"{tmp_path}/Documents"]
    assert deployed["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert deployed["global_concurrency_limit"]["limit"] == 1

    full_api.post(f"/deployments/{deployed['id']}/resume_deployment").raise_for_status()

    def scheduled() -> list[Any]:
        wanted = {
            "deployments": {"id": {"any_": [deployed["id"]]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        }
        runs: list[Any] = full_api.post("/flow_runs/filter", json=wanted).json()
        return runs

    assert len(wait_for("Scheduled runs", scheduled)) >= 3
    full_api.post(f"/deployments/{deployed['id']}/pause_deployment").raise_for_status()


@contextmanager
def served(url: str, folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    with (
        (folder / "serve.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, str(PROJECT / "deployments" / "serve.py"), *words],
            cwd=folder, env=os.environ | {"PREFECT_API_URL": url},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
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

        yield wait_for("the deployment", deployment), process


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

    state = wait_for("the end of the run", ended, 150)["state"]
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
    process.wait(90)
    assert full_api.get(f"/deployments/{deployment['id']}").json()["paused"]


def test_serving_without_a_server_says_what_to_start(tmp_path: Path) -> None:
    with served("http://127.0.0.1:9/api", tmp_path, ".", "--to", "backups") as process:
        assert process.wait(60) == 1
    said = (tmp_path / "serve.log").read_text()
    assert "prefect server start" in said
    assert "Traceback" not in said
    assert not (tmp_path / "backups").exists()
