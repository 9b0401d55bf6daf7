"""`deploy.py` against a whole server: everything is there, once, and stays as people set it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import PROJECT
from prefect.client.orchestration import SyncPrefectClient
from servers import running
from waiting import api_client, wait_for

from deployments import definitions
from deployments.applying import apply, ensure_pool
from deployments.definitions import Definition
from deployments.start import settings
from pybak.errors import PlanError

OFTEN = "backup/documents-every-two-minutes"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the home of someone with documents."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "Documents").mkdir()
    (folder / "Documents" / "letter.txt").write_text("Dear reader\n")
    return folder


def environment(url: str, home: Path) -> dict[str, str]:
    return {
        **os.environ, "PREFECT_API_URL": url, "HOME": str(home), "PYBAK_HOME": str(home / ".pybak"),
    }  # fmt: skip


def deploy(url: str, home: Path, *words: str) -> str:
    """Run the command; give what it prints."""
    done = subprocess.run(
        [sys.executable, PROJECT / "deployments" / "deploy.py", *words], cwd=home,
        env=environment(url, home), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deployed(full_server: str, home: Path) -> Iterator[str]:
    """Deploy all once; give what was said."""
    yield deploy(full_server, home)
    with api_client(full_server) as api:
        for one in api.post("/deployments/filter", json={}).json():
            api.post(f"/deployments/{one['id']}/pause_deployment").raise_for_status()


def everything(api: httpx.Client) -> dict[str, Any]:
    """Give when each thing on the server was changed last."""
    return {
        f"{kind}/{one['name']}": one["updated"]
        for kind in ("deployments", "automations", "work_pools", "block_documents", "block_types")
        for one in api.post(f"/{kind}/filter", json={}).raise_for_status().json()
        # What the server itself keeps up to date.
        if kind != "work_pools" or one.pop("status", None) is None
    }


def by_name(api: httpx.Client, name: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/deployments/name/{name}").raise_for_status().json()
    return found


def test_what_is_read_runs_at_once_and_what_deletes_waits(
    deployed: str, full_api: httpx.Client, home: Path
) -> None:
    assert f"{OFTEN}: made, switched on\n" in deployed
    assert "prune/documents-prune-nightly: made, paused\n" in deployed
    hint = "Switch one on: python deployments/deploy.py --start NAME\n"
    assert deployed.endswith(hint)
    assert deployed.count("--start") == 1
    assert not by_name(full_api, OFTEN)["paused"]
    assert by_name(full_api, "prune/documents-prune-nightly")["paused"]
    assert (home / "Backups").is_dir()


def test_a_second_time_changes_nothing_and_says_so(
    deployed: str, full_server: str, full_api: httpx.Client, home: Path
) -> None:
    before = everything(full_api)
    assert len(before) > 15
    said = deploy(full_server, home)
    assert everything(full_api) == before
    assert "\nnothing changed\n" in said
    assert ": made" not in said
    assert ": changed" not in said


def test_the_two_minute_schedule_gets_runs(deployed: str, full_api: httpx.Client) -> None:
    """A scheduler that plans nothing looks healthy otherwise: only this shows it."""
    there = by_name(full_api, OFTEN)
    assert [one["schedule"]["interval"] for one in there["schedules"]] == [120]

    def scheduled() -> list[Any]:
        wanted = {
            "deployments": {"id": {"any_": [there["id"]]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        }
        runs: list[Any] = full_api.post("/flow_runs/filter", json=wanted).json()
        return runs

    assert len(wait_for(scheduled, 60, told="Scheduled runs")) >= 3


def test_a_worker_runs_what_is_deployed_and_an_archive_appears(
    deployed: str, full_server: str, full_api: httpx.Client, home: Path, tmp_path: Path
) -> None:
    there = by_name(full_api, OFTEN)
    assert (there["entrypoint"], there["pull_steps"]) == ("flows.backup:backup", [])
    # A slot of the schedule may come first: then this one is cancelled, and that one counts.
    full_api.post(f"/deployments/{there['id']}/create_flow_run", json={}).raise_for_status()

    def ended() -> Any:
        wanted = {
            "deployments": {"id": {"any_": [there["id"]]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
        }
        runs = full_api.post("/flow_runs/filter", json=wanted).raise_for_status().json()
        return runs[0]["state"] if runs else None

    log = tmp_path / "worker.log"
    worker = [sys.executable, PROJECT / "deployments" / "start.py", "worker"]
    with running(worker, log, environment(full_server, home)):
        state = wait_for(ended, 150, told="the end of a run")
    assert (state["type"], state["name"]) == ("COMPLETED", "Completed"), log.read_text()
    archives = sorted((home / "Backups").glob("documents_*.zip"))
    with zipfile.ZipFile(archives[0]) as opened:
        assert opened.testzip() is None
        assert opened.read("Documents/letter.txt") == b"Dear reader\n"


@pytest.fixture
def often(home: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    monkeypatch.setenv("HOME", str(home))
    return definitions.choose(definitions.load(), [OFTEN])[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("parameters", {"sources": ["/srv"], "to": "/mnt"}),
        ("description", "Other words."),
        ("tags", ["pybak"]),
        ("schedules", [definitions.Timing(slug="x", cron="5 5 * * *", timezone="UTC")]),
        (
            "concurrency_limit",
            definitions.Limit(limit=2, collision_strategy="CANCEL_NEW", grace_period_seconds=120),
        ),
        ("work_pool", definitions.WorkPool(name="backup", job_variables={"env": {"A": "1"}})),
    ],
)
def test_what_has_changed_is_changed_and_back_again(
    deployed: str, full_client: SyncPrefectClient, often: Definition, field: str, value: Any
) -> None:
    other = apply(full_client, often.model_copy(update={field: value}))
    assert other.outcome == "changed"
    expected = "job_variables" if field == "work_pool" else field
    assert other.changed == [expected]
    assert apply(full_client, often.model_copy(update={field: value})).outcome == "unchanged"
    assert apply(full_client, often).changed == [expected]
    assert apply(full_client, often).outcome == "unchanged"


def test_a_switch_that_a_person_has_turned_stays(
    deployed: str, full_client: SyncPrefectClient, full_api: httpx.Client, often: Definition
) -> None:
    there = by_name(full_api, OFTEN)
    full_api.post(f"/deployments/{there['id']}/pause_deployment").raise_for_status()
    assert apply(full_client, often) == ("unchanged", True, [])
    changed = apply(full_client, often.model_copy(update={"description": "x"}))
    assert (changed.outcome, changed.paused) == ("changed", True)
    assert by_name(full_api, OFTEN)["paused"]
    started = apply(full_client, often, started=True)
    assert (started.paused, started.changed) == (False, ["description", "paused"])
    assert not by_name(full_api, OFTEN)["paused"]


def test_what_a_run_that_was_cut_off_left_out_is_made_by_the_next(
    deployed: str, full_client: SyncPrefectClient, full_api: httpx.Client, often: Definition
) -> None:
    full_api.delete(f"/deployments/{by_name(full_api, OFTEN)['id']}").raise_for_status()
    assert apply(full_client, often) == ("made", False, [])
    assert apply(full_client, often).outcome == "unchanged"


def test_a_deployment_whose_folder_is_missing_begins_paused(
    deployed: str, full_client: SyncPrefectClient, full_api: httpx.Client, often: Definition
) -> None:
    away = often.model_copy(
        update={"name": "away", "parameters": {**often.parameters, "sources": ["/not/there"]}}
    )
    assert apply(full_client, away).paused
    assert by_name(full_api, "backup/away")["paused"]
    full_api.delete(f"/deployments/{by_name(full_api, 'backup/away')['id']}").raise_for_status()
    assert not apply(full_client, away, started=True).paused
    full_api.delete(f"/deployments/{by_name(full_api, 'backup/away')['id']}").raise_for_status()


def test_a_work_pool_of_another_type_is_left_alone(
    full_client: SyncPrefectClient, full_api: httpx.Client
) -> None:
    full_api.post("/work_pools/", json={"name": "theirs", "type": "docker"}).raise_for_status()
    assert ensure_pool(full_client, "theirs", "process") == ("unchanged", "docker")


def test_what_the_server_refuses_is_told_in_one_line(
    deployed: str, full_client: SyncPrefectClient, often: Definition
) -> None:
    pool = definitions.WorkPool(name="none-of-this-name")
    with pytest.raises(PlanError, match=r"the server refuses it: .*none-of-this-name") as caught:
        apply(full_client, often.model_copy(update={"work_pool": pool, "name": "refused"}))
    assert "\n" not in str(caught.value)


@pytest.mark.full
def test_prefects_own_deploy_makes_the_same(
    deployed: str, full_server: str, full_client: SyncPrefectClient, home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With each variable set, as the file's head says."""
    given = {
        name: value or "block"
        for name, value in definitions.variables({"HOME": str(home)}).items()
        if name.startswith("PYBAK_DEPLOY_")
    } | {"PYBAK_DEPLOY_SOURCE": str(home / "Documents")}
    subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all",
         "--prefect-file", PROJECT / "deployments" / "prefect.yaml"],
        cwd=PROJECT, env=environment(full_server, home) | given, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, timeout=180, check=True,
    )  # fmt: skip
    for one in definitions.load(given):
        assert apply(full_client, one).changed == [], one.full_name
    for one in definitions.load({"HOME": str(home)}):
        apply(full_client, one)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--wait", "0"], 1, "no Prefect server answers; start it"),
        (["backpu"], 1, "backpu: no such deployment"),
        (["backup", "--start", "prune"], 1, "prune: no such deployment"),
    ],
)
def test_what_can_not_be_done_is_told_without_a_traceback(
    words: list[str], code: int, told: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, PROJECT / "deployments" / "deploy.py", *words], cwd=tmp_path,
        env=environment("http://127.0.0.1:9/api", tmp_path), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_of_the_worker_are_those_of_the_file() -> None:
    assert settings()["PREFECT_WORKER_PREFETCH_SECONDS"] == "1"
