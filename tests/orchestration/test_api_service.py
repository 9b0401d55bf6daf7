"""The API and the dashboard as an operator runs them: commands, Prefect's server, deployments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import PROJECT, tool
from servers import free_port
from waiting import api_client, wait_for

_PATIENCE_MS = 120_000


@contextmanager
def started(words: list[str], log: Path, environ: Mapping[str, str]) -> Iterator[None]:
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, *words], cwd=PROJECT, env=os.environ | environ,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Service:
    """What runs: the service, and what runs its requests; both until the module's end."""

    place: Path
    base: str
    secret: str
    """Of the client `tester`, who may all."""

    def told(self) -> str:
        return "\n".join(log.read_text() for log in self.place.glob("*.log"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, full_server: str) -> Iterator[Service]:
    place = tmp_path_factory.mktemp("service")
    for name in ("docs", "papers"):
        (place / "sources" / name).mkdir(parents=True)
        (place / "sources" / name / "letter.txt").write_text("Dear reader\n")
    (place / "stores").mkdir()
    (place / "back").mkdir()
    environ = {
        "PREFECT_API_URL": full_server, "PYBAK_HOME": str(place / "home"),
        "PYBAK_API_TOKEN_ENDPOINT": "true", "PYBAK_API_PORT": str(free_port()),
        "PYBAK_API_SOURCE_ROOTS": str(place / "sources"),
        "PYBAK_API_DESTINATION_ROOTS": str(place / "stores"),
        "PYBAK_API_RESTORE_ROOTS": str(place / "back"),
    }  # fmt: skip
    made = subprocess.run(
        [sys.executable, "deployments/clients.py", "add", "tester", "--scope", "backup:read",
         "--scope", "backup:write", "--scope", "backup:restore"],
        cwd=PROJECT, env=os.environ | environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    base = f"http://127.0.0.1:{environ['PYBAK_API_PORT']}"
    with (
        started(["deployments/on_request.py"], place / "serve.log", environ),
        started(["deployments/service.py"], place / "service.log", environ),
        api_client(base) as api,
        api_client(full_server) as prefect,
    ):
        wait_for(lambda: _answers(api), told="the service")
        for flow in ("backup", "restore"):
            name = f"/deployments/name/{flow}/{flow}-on-request"
            wait_for(lambda name=name: prefect.get(name).is_success, told="the deployment")
        yield Service(place, base, made.stdout.strip())


def test_a_backup_that_is_asked_for_over_http_can_be_followed_and_a_file_taken_from_it(
    service: Service,
) -> None:
    """Token, start, progress, logs, archive, member, download: all by the API alone."""
    place = service.place
    with api_client(service.base) as api:
        form = {
            "grant_type": "client_credentials", "client_id": "tester",
            "client_secret": service.secret,
        }  # fmt: skip
        token = api.post("/oauth/token", data=form).json()["access_token"]
        api.headers["Authorization"] = f"Bearer {token}"
        body = {
            "sources": [f"{place}/sources/docs"], "to": f"{place}/stores", "job": "letters",
            "options": {"level": 6},
        }  # fmt: skip
        key = {"Idempotency-Key": "first"}
        answer = api.post("/compress", json=body, headers=key)
        assert answer.status_code == 202, answer.text
        run = answer.json()["flow_run_id"]
        assert api.post("/compress", json=body, headers=key).json()["flow_run_id"] == run
        reused = api.post("/compress", json=body | {"job": "other"}, headers=key)
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency-key-reused")
        outside = api.post("/compress", json=body | {"sources": ["/etc"]})
        assert outside.status_code == 403

        def ended() -> Any:
            found = api.get(f"/runs/{run}").json()
            return found if found["progress"]["state"] in ("completed", "failed", "crashed") else 0

        found = wait_for(ended, 120, told="the end of the run")
        assert found["progress"]["state"] == "completed", service.told()
        assert found["run"]["summary"]["status"] == "success"
        assert "letters" in found["progress"]["report"]
        run_id = found["run"]["summary"]["run_id"]
        assert api.get(f"/runs/{run_id}").json()["progress"]["flow_run_id"] == run

        [entry] = api.get("/runs?job=letters").json()["items"]
        assert entry["flow_run"] == run
        archive = found["run"]["archive"]["summary"]
        assert Path(archive["archive"]).parent == place / "stores"
        path = f"/archives/{archive['archive_id']}/members"
        members = api.get(path, params={"match": "letter.txt"}).json()["items"]
        assert api.get(members[0]["download"]).text == "Dear reader\n"

        def lines() -> Any:
            return api.get("/logs", params={"run": run, "limit": 500}).json()["items"]

        wait_for(lines, told="the log")
        streamed = api.get("/logs/stream", params={"run": run_id}).text
        everything = lines()
        first = api.get("/logs", params={"run": run, "limit": 2}).json()
        rest = api.get("/logs", params={"run": run, "limit": 500, "cursor": first["next"]}).json()
        assert [*first["items"], *rest["items"]] == everything
        assert streamed.count("event: log") == len(everything)
        assert streamed.rstrip().endswith("event: end\ndata: {}")
        assert api.get("/logs", params={"text": "no line says this"}).json()["items"] == []

        again = api.post(f"/runs/{run}/cancel")
        assert (again.status_code, again.json()["code"]) == (409, "ended")
        status = api.get("/status").json()
        assert status["health"]["orchestrator"] == "ok"
        assert [one["state"] for one in status["jobs"] if one["name"] == "letters"] == ["good"]
        assert 'pybak_job_state{job="letters",kind="backup",state="good"} 1' in api.get(
            "/metrics"
        ).text  # fmt: skip
        assert api.get("/runs", headers={"Authorization": ""}).status_code == 401


def _answers(api: httpx.Client) -> bool:
    try:
        return api.get("/health").is_success
    except httpx.TransportError:
        return False


@pytest.mark.needs_tool("chromium")
def test_a_file_is_backed_up_found_and_restored_from_the_dashboard(service: Service) -> None:
    """As somebody does it in a browser: log in, start, follow, search, restore."""
    from playwright.sync_api import expect, sync_playwright

    place = service.place
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=tool("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        expect.set_options(timeout=_PATIENCE_MS)
        page = browser.new_page()
        page.set_default_timeout(_PATIENCE_MS)
        page.goto(f"{service.base}/dashboard/start")
        page.get_by_label("Client").fill("tester")
        page.get_by_label("Secret").fill(service.secret)
        page.get_by_role("button", name="Log in").click()
        page.get_by_label("Job", exact=True).fill("papers")
        page.get_by_label("Sources").fill(f"{place}/sources/papers")
        page.get_by_label("To", exact=True).fill(f"{place}/stores")
        page.get_by_role("button", name="Start", exact=True).click()
        page.get_by_role("link", name="Follow it").click()
        page.get_by_role("heading", name="Backup of papers").wait_for()
        expect(page.locator("#run-head .verdict .pill")).to_have_text("Complete")
        # What comes late comes without asking: the report, the last lines of the log.
        expect(page.locator("#run-rest .report")).to_contain_text("papers")
        expect(page.locator("#log-lines")).to_contain_text("Backup of papers complete")
        page.get_by_role("link", name="Browse files").click()
        page.get_by_label("Find a file").fill("letter")
        page.get_by_role("link", name="letter.txt").click()
        page.get_by_role("link", name="Restore").first.click()
        page.get_by_label("Folder below it").fill("found")
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("button", name="Restore it").click()
        page.get_by_role("link", name="Follow it").click()
        expect(page.locator("#run-head .verdict .pill")).to_have_text("Complete")
        browser.close()
    assert (place / "back/found/papers/letter.txt").read_text() == "Dear reader\n", service.told()


def test_runs_that_wait_can_be_cancelled_and_those_of_other_flows_are_nobodys_business(
    full_server: str, full_api: httpx.Client
) -> None:
    from deployments.prefect_runs import PrefectRuns
    from flows.support.published import PublishedProgress
    from pybak.prefect_api import PrefectApi

    def deployed(flow: str, name: str, **parameters: Any) -> str:
        flow_id = full_api.post("/flows/", json={"name": flow}).json()["id"]
        body = {
            "name": name, "flow_id": flow_id, "parameters": parameters,
            "enforce_parameter_schema": False,
        }  # fmt: skip
        return str(full_api.post("/deployments/", json=body).raise_for_status().json()["id"])

    deployed("mirror", "one", job="pictures", options={"mail": "operator", "level": 3})
    deployed("mirror", "mirror-on-request")
    other = deployed("somebodys", "else")
    with PrefectApi(full_server) as api:
        runs = PrefectRuns(api)
        first = runs.start(
            "mirror", {"job": "pictures", "options": {"level": 9}}, idempotency_key="k",
            fingerprint="f",
        )  # fmt: skip
        row = full_api.get(f"/flow_runs/{first.flow_run_id}").json()
        assert row["parameters"] == {
            "job": "pictures", "options": {"mail": "operator", "level": 9},
        }  # fmt: skip
        assert (first.deployment, first.fingerprint) == ("mirror/one", "f")
        again = runs.start("mirror", {"job": "x"}, idempotency_key="k", fingerprint="g")
        assert (again.flow_run_id, again.fingerprint) == (first.flow_run_id, "f")
        assert runs.start("mirror", {"job": "x"}).deployment == "mirror/mirror-on-request"
        assert first.flow_run_id in [one.flow_run_id for one in runs.active()]
        now = [0.0]
        progress = PublishedProgress(
            first.flow_run_id, connect=lambda: PrefectApi(full_server), clock=lambda: now[0]
        )
        for size in (10, 25):
            now[0] += 3
            progress.phase("copying", total_files=0, total_bytes=50)
            now[0] += 3
            progress.update(0, size)
        progress.close()
        known = runs.find(first.flow_run_id)
        assert known is not None
        assert (known.percent, known.phase) == (50.0, "copying")
        stopped = runs.cancel(first.flow_run_id)
        assert stopped is not None
        assert stopped.state in ("cancelled", "cancelling")
        strange = full_api.post(f"/deployments/{other}/create_flow_run", json={}).json()["id"]
        assert runs.find(strange) is None
        assert runs.cancel(strange) is None
        assert runs.find("0a4c7a7e-35ad-4d0f-8b68-2f6f0f4a9c11") is None
        assert runs.find("../admin/settings") is None
        assert strange not in [one.flow_run_id for one in runs.active()]


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "no authentication is set up"),
        ({"PYBAK_API_NO_AUTHENTICATION": "1", "PYBAK_API_HOST": "0.0.0.0"}, "127.0.0.1"),
        ({"PYBAK_API_SORCE_ROOTS": "/"}, "PYBAK_API_SORCE_ROOTS: there is no such setting"),
        (
            {"PYBAK_API_TOKEN_ENDPOINT": "1", "PYBAK_API_SOURCE_ROOTS": "docs",
             "PREFECT_API_URL": "http://127.0.0.1:9/api"},
            "docs: is no absolute path",
        ),
    ],
)  # fmt: skip
def test_it_does_not_start_half_set_up(environ: dict[str, str], words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROJECT / "deployments" / "service.py")], cwd=tmp_path,
        env=os.environ | {"PYBAK_HOME": str(tmp_path)} | environ,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_service_has_no_prefect_in_it(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from deployments.service import application\n"
        "from pybak.api.settings import ApiSettings\n"
        "application(ApiSettings(token_endpoint=True), os.environ)\n"
        "print([name for name in ('prefect', 'dask', 'boto3') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYBAK_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"},
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
