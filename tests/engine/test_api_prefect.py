"""What the API asks Prefect's server for: logs page by page, next runs, passwords."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect_double import Double

from deployments.prefect_logs import PrefectLogs
from deployments.prefect_patience import PatientApi
from deployments.prefect_runs import PrefectRuns
from deployments.prefect_secrets import load_password
from deployments.service import check_certificate
from flows.support.published import PublishedProgress
from pybak.api.settings import ApiSettings
from pybak.errors import PlanError, PyBakError
from pybak.prefect_api import ApiError

RUN = "0a4c7a7e-35ad-4d0f-8b68-2f6f0f4a9c11"
NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


def row(number: int, at: str, message: str = "", level: int = 20) -> dict[str, Any]:
    return {
        "timestamp": at, "message": message or f"line {number}", "level": level,
        "flow_run_id": RUN,
    }  # fmt: skip


def serving(rows: list[dict[str, Any]]) -> Double:
    """Serve lines as Prefect's server does: by time, inclusive, with offset and limit."""

    def answer(body: dict[str, Any]) -> list[dict[str, Any]]:
        after = body["logs"]["timestamp"].get("after_", "")
        least = body["logs"].get("level", {}).get("ge_", 0)
        found = [one for one in rows if one["timestamp"] >= after and one["level"] >= least]
        return found[body["offset"] : body["offset"] + body["limit"]]

    return Double({"/logs/filter": answer})


def logs_of(double: Double) -> PrefectLogs:
    api = double.api()
    return PrefectLogs(api, PrefectRuns(api))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 500])
def test_pages_of_lines_have_each_line_once_also_where_times_are_the_same(size: int) -> None:
    times = [f"2026-11-21T10:00:{second:02}Z" for second in (1, 1, 1, 2, 3, 3, 3, 3, 3, 4)] * 1
    rows = [row(number, at) for number, at in enumerate(times)]
    logs = logs_of(serving(rows))
    seen: list[str] = []
    cursor = None
    for _ in range(20):
        page = logs.lines(flow_run_id=RUN, cursor=cursor, limit=size)
        seen += [one.message for one in page.items]
        cursor = page.next
        if page.complete:
            break
    assert seen == [one["message"] for one in rows]
    rows.append(row(99, times[-1]))
    page = logs.lines(flow_run_id=RUN, cursor=cursor, limit=size)
    assert [one.message for one in page.items] == ["line 99"]


def test_a_long_log_is_read_in_pages_that_the_server_gives() -> None:
    rows = [row(number, f"2026-11-21T10:00:00.{number:06}Z") for number in range(450)]
    page = logs_of(serving(rows)).lines(flow_run_id=RUN, limit=450)
    assert len(page.items) == 450
    assert page.items[0].at == NOW


def test_a_search_finds_words_anywhere_and_stops_looking_after_a_while() -> None:
    rows = [
        row(number, f"2026-11-21T10:{number // 60:02}:{number % 60:02}Z",
            "The Disk is full" if number in (5, 900) else "")
        for number in range(1000)
    ]  # fmt: skip
    double = serving(rows)
    logs = logs_of(double)
    page = logs.lines(flow_run_id=RUN, text="disk IS", limit=1)
    assert [one.message for one in page.items] == ["The Disk is full"]
    page = logs.lines(flow_run_id=RUN, text="disk IS", limit=5, cursor=page.next)
    assert len(page.items) == 1
    assert page.complete
    rows *= 10
    asked = len(double.asked)
    page = logs.lines(flow_run_id=RUN, text="nowhere", limit=5)
    assert not page.complete
    assert len(double.asked) - asked <= 20


def test_levels_are_words() -> None:
    rows = [row(n, f"2026-11-21T10:00:0{n}Z", level=level) for n, level in
            enumerate((5, 10, 20, 25, 30, 40, 50, 60))]  # fmt: skip
    logs = logs_of(serving(rows))
    page = logs.lines(flow_run_id=RUN)
    assert [one.level for one in page.items] == [
        "debug", "debug", "info", "info", "warning", "error", "critical", "critical",
    ]  # fmt: skip
    assert len(logs.lines(flow_run_id=RUN, level="error").items) == 3


@pytest.mark.parametrize("cursor", ["", "x", "bnVsbA", "WzEsMl0", "WyJ4IiwxXQ", "\u00e9"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(PlanError, match="no cursor"):
        logs_of(serving([])).lines(flow_run_id=RUN, cursor=cursor)


def test_without_a_run_the_lines_are_those_of_our_own_flows() -> None:
    double = serving([row(1, "2026-11-21T10:00:00Z")])
    double.answers["/flow_runs/filter"] = []
    logs = logs_of(double)
    assert logs.lines(flow_run_id=None).items == []
    [(_, path, body)] = double.asked
    assert path == "/flow_runs/filter"
    assert "backup" in body["flows"]["name"]["any_"]


def test_the_next_run_of_a_job_is_found_behind_many_of_another() -> None:
    def run(job: str, at: str, deployment: str) -> dict[str, Any]:
        return {
            "expected_start_time": at, "deployment_id": deployment, "parameters": {"job": job},
        }  # fmt: skip

    often = [run("often", f"2026-11-21T{10 + n // 60:02}:{n % 60:02}:00Z", "1") for n in range(200)]

    def answer(body: dict[str, Any]) -> list[dict[str, Any]]:
        if "deployment_id" in body["flow_runs"]:
            return [run("nightly", "2026-11-22T03:00:00Z", "2")]
        return often

    double = Double(
        {
            "/flow_runs/filter": answer,
            "/deployments/filter": [
                {"id": "1", "paused": False, "parameters": {}, "name": "a"},
                {"id": "2", "paused": False, "parameters": {}, "name": "b"},
                {"id": "3", "paused": True, "parameters": {}, "name": "c"},
            ],
        }
    )
    runs = PrefectRuns(double.api(), now=lambda: NOW)
    found = runs.schedules()
    assert found["often"].next_run == NOW
    assert found["nightly"].next_run == datetime(2026, 11, 22, 3, tzinfo=UTC)
    asked = len(double.asked)
    runs.schedules()
    assert len(double.asked) == asked  # it is known for a while


@pytest.mark.parametrize(
    ("kind", "asked", "words"),
    [
        ("backup", {"job": "x", "options": {}}, "name sources"),
        ("backup", {"sources": ["/x"], "options": {}}, "where the archive goes"),
        ("inbox", {"source": "/x"}, "where files go"),
    ],
)
def test_a_flow_is_not_left_to_guess(kind: str, asked: dict[str, Any], words: str) -> None:
    double = Double({"/deployments/filter": [{"id": "1", "name": "x", "parameters": {}}]})
    with pytest.raises(PlanError, match=words):
        PrefectRuns(double.api()).start(kind, asked)


def test_without_a_deployment_that_fits_it_says_which_to_make() -> None:
    made = [{"id": str(n), "name": f"d{n}", "parameters": {"job": f"j{n}"}} for n in range(2)]
    double = Double({"/deployments/filter": made})
    with pytest.raises(PlanError, match="make one called backup-on-request"):
        PrefectRuns(double.api()).start("backup", {"job": "other"})


def test_passwords_come_from_the_block_and_from_no_other_kind() -> None:
    path = "/block_types/slug/pybak-encryption-password/block_documents/name/archives"
    double = Double({path: {"data": {"password": "correct horse"}}})
    assert load_password(double.api(), "archives") == b"correct horse"
    assert load_password(double.api(), "pybak-encryption-password/archives") == b"correct horse"
    double = Double(
        {"/block_types/slug/secret/block_documents/name/archives": {"data": {"value": "x"}}}
    )
    assert load_password(double.api(), "secret/archives") == b"x"
    with pytest.raises(PlanError, match="there is none"):
        load_password(double.api(), "other")
    with pytest.raises(PlanError, match="is no password"):
        load_password(double.api(), "aws-credentials/archives")
    double = Double({path: {"data": {"password": ""}}})
    with pytest.raises(PyBakError):
        load_password(double.api(), "archives")


def test_a_server_that_is_busy_is_asked_again_and_one_that_stays_so_is_told() -> None:
    answers: list[Any] = [httpx.Response(503)] * 2 + [{"id": "1"}]
    double = Double({"/x": lambda _body: answers.pop(0)})
    slept: list[float] = []
    assert PatientApi(double.api(), sleep=slept.append).post("/x", {}) == {"id": "1"}
    assert len(slept) == 2
    double = Double({"/x": httpx.Response(503), "/y": httpx.Response(500)})
    api = PatientApi(double.api(), sleep=slept.append)
    with pytest.raises(ApiError):
        api.get("/x")
    asked = len(double.asked)
    assert 3 <= asked <= 6
    with pytest.raises(ApiError):
        api.get("/y")
    assert len(double.asked) == asked + 1


class TestPublishedProgress:
    """What a flow without a terminal tells of how far it is."""

    @staticmethod
    def published(double: Double, now: list[float]) -> PublishedProgress:
        return PublishedProgress(RUN, connect=double.api, clock=lambda: now[0])

    def test_a_run_that_takes_a_while_has_one_artifact_that_grows(self) -> None:
        double = Double({"/artifacts/": {"id": "a1"}, "/artifacts/a1": {}})
        now = [0.0]
        progress = self.published(double, now)
        progress.phase("scanning")
        now[0] = 2
        progress.update(1200, 5)
        now[0] = 4
        progress.phase("compressing", total_files=0, total_bytes=1000)
        for moment, size in ((6.0, 250), (6.5, 300), (8.0, 500), (10.0, 2000)):
            now[0] = moment
            progress.update(0, size, b"name")
        progress.close()
        assert double.asked == [
            ("POST", "/artifacts/", {
                "type": "progress", "flow_run_id": RUN, "data": 0.0,
                "description": "scanning: 1\N{NO-BREAK SPACE}200 files",
            }),
            ("PATCH", "/artifacts/a1", {"data": 0.0, "description": "compressing"}),
            ("PATCH", "/artifacts/a1", {"data": 25.0, "description": "compressing"}),
            ("PATCH", "/artifacts/a1", {"data": 50.0, "description": "compressing"}),
            ("PATCH", "/artifacts/a1", {"data": 100.0, "description": "compressing"}),
        ]  # fmt: skip

    def test_a_short_run_tells_nothing(self) -> None:
        double = Double({})
        progress = self.published(double, [0.0])
        progress.phase("compressing", total_files=1, total_bytes=1)
        progress.update(1, 1)
        progress.close()
        assert double.asked == []

    def test_a_server_that_refuses_is_left_in_peace(self) -> None:
        double = Double({})
        now = [0.0]
        progress = self.published(double, now)
        for moment in (2.0, 4.0, 6.0):
            now[0] = moment
            progress.update(1)
        assert len(double.asked) == 1


def test_progress_is_told_of_runs_at_work_alone() -> None:
    def flow_run(state: str) -> dict[str, Any]:
        return {
            "id": RUN, "flow_id": "f", "state_type": state, "state_name": state.title(),
            "parameters": {"sources": ["/b", "/a"]}, "state": {"message": None},
        }  # fmt: skip

    artifacts = [
        {"type": "progress", "flow_run_id": RUN, "data": 42, "description": "x", "key": None},
        {"type": "markdown", "flow_run_id": RUN, "data": "# Done", "key": "backup-report"},
    ]
    double = Double(
        {
            f"/flow_runs/{RUN}": flow_run("RUNNING"), "/artifacts/filter": artifacts,
            "/flows/filter": [{"id": "f", "name": "backup"}],
        }
    )  # fmt: skip
    runs = PrefectRuns(double.api())
    found = runs.find(RUN)
    assert found is not None
    assert (found.percent, found.phase, found.report) == (42.0, "x", "# Done")
    assert found.job == "/a, /b"
    double.answers[f"/flow_runs/{RUN}"] = flow_run("COMPLETED")
    found = runs.find(RUN)
    assert found is not None
    assert (found.percent, found.state) == (None, "completed")


def test_the_deployment_for_all_others_lends_no_sources() -> None:
    """Its own would be saved under another job's name."""
    common = {
        "id": "1", "name": "backup-on-request",
        "parameters": {"sources": ["/own"], "to": "block:backups", "options": {"level": 3}},
    }  # fmt: skip
    double = Double(
        {
            "/deployments/filter": [common, {"id": "2", "name": "x", "parameters": {}}],
            "/deployments/1/create_flow_run": lambda body: {"id": RUN, **body},
        }
    )
    runs = PrefectRuns(double.api())
    with pytest.raises(PlanError, match="name sources"):
        runs.start("backup", {"job": "other", "options": {}})
    runs.start("backup", {"job": "other", "sources": ["/a"], "options": {"format": "tar"}})
    assert double.asked[-1][2]["parameters"] == {
        "sources": ["/a"], "to": "block:backups", "job": "other",
        "options": {"level": 3, "format": "tar"},
    }  # fmt: skip


class TestStarting:
    FLOW = "3f6b2a1c-0d7e-4a52-9a0b-6a1f0f2d7c11"

    def test_a_key_that_started_another_flow_gives_that_run(self) -> None:
        """The server looks for keys in one flow; across all they are told apart by their marks."""
        known = {
            "id": RUN, "flow_id": self.FLOW, "state_type": "RUNNING", "state_name": "Running",
            "labels": {"pybak.request": "mark"}, "parameters": {"job": "docs"},
        }  # fmt: skip
        double = Double(
            {
                "/flow_runs/filter": [known],
                "/flows/filter": [{"id": self.FLOW, "name": "backup"}],
            }
        )
        started = PrefectRuns(double.api()).start("verify", {"job": "docs"}, idempotency_key="k")
        assert (started.flow_run_id, started.kind, started.fingerprint) == (RUN, "backup", "mark")
        (_, _, body), _ = double.asked
        assert body["flow_runs"] == {"idempotency_key": {"any_": ["k"]}}

    def test_another_job_has_no_part_in_what_the_only_deployment_saves(self) -> None:
        only = {"id": "1", "name": "docs", "parameters": {"job": "docs", "sources": ["/home"]}}
        double = Double({"/deployments/filter": [only], "/deployments/1/create_flow_run": {}})
        with pytest.raises(PlanError, match="name sources"):
            PrefectRuns(double.api()).start("backup", {"job": "other", "to": "/stores"})

    @pytest.mark.parametrize("asked", [{"job": "photos"}, {"all_jobs": True}])
    def test_another_job_is_not_pruned_by_rules_that_were_not_made_for_it(
        self, asked: dict[str, Any]
    ) -> None:
        rules = {"keep_last": 1, "keep_tag": ["x"], "wait_limit": "30m"}
        only = {"id": "1", "name": "nightly", "parameters": {"job": "docs", "options": rules}}
        double = Double(
            {"/deployments/filter": [only], "/deployments/1/create_flow_run": {"id": RUN}}
        )
        runs = PrefectRuns(double.api())
        with pytest.raises(PlanError, match="what to keep"):
            runs.start("prune", {**asked, "options": {"dry_run": False}})
        runs.start("prune", {**asked, "options": {"keep_daily": 7}})
        assert double.asked[-1][2]["parameters"]["options"] == {
            "keep_daily": 7,
            "wait_limit": "30m",
        }
        runs.start("prune", {"job": "docs", "options": {"dry_run": False}})
        assert double.asked[-1][2]["parameters"]["options"] == {**rules, "dry_run": False}

    def test_a_place_that_is_asked_for_is_the_only_one(self) -> None:
        own = {"job": "docs", "sources": ["/home"], "output": "/stores/x.zip"}
        double = Double(
            {
                "/deployments/filter": [{"id": "1", "name": "docs", "parameters": own}],
                "/deployments/1/create_flow_run": {"id": RUN},
            }
        )
        PrefectRuns(double.api()).start("backup", {"job": "docs", "to": "/stores"})
        body = double.asked[-1][2]
        assert body["parameters"] == {
            "job": "docs", "sources": ["/home"], "to": "/stores", "options": {},
        }  # fmt: skip
        # What was judged is told, for the flow to see that it is still so.
        assert body["tags"] == ["api", "resolved:to"]


def test_schedules_tell_what_failed_before_it_began() -> None:
    planned = {
        "auto_scheduled": True, "deployment_id": "1", "parameters": {"job": "docs"},
        "expected_start_time": "2026-11-21T11:00:00Z",
    }  # fmt: skip
    failed = {
        "id": RUN, "state": {"type": "FAILED"}, "end_time": "2026-11-21T09:00:00Z",
    }  # fmt: skip

    def answer(body: dict[str, Any]) -> list[dict[str, Any]]:
        wanted = body["flow_runs"]
        if "FAILED" in wanted.get("state", {}).get("type", {}).get("any_", []):
            return [failed]
        return [planned] if "state" in wanted else []

    schedule = PrefectRuns(Double({"/flow_runs/filter": answer}).api(), now=lambda: NOW)
    [(job, found)] = schedule.schedules().items()
    assert (job, found.failed_flow_run) == ("docs", RUN)
    assert found.failed_at == datetime(2026, 11, 21, 9, tzinfo=UTC)
    assert found.next_run == datetime(2026, 11, 21, 11, tzinfo=UTC)


def test_a_connection_that_was_cut_is_tried_once_more() -> None:
    class Cutting(httpx.BaseTransport):
        asked = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.asked += 1
            if self.asked % 2:
                raise httpx.ReadError("reset by peer", request=request)
            return httpx.Response(200, json={"id": "1"})

    from pybak.prefect_api import PrefectApi

    api = PatientApi(PrefectApi("http://x/api", transport=Cutting()), sleep=lambda _: None)
    assert api.get("/x") == {"id": "1"}

    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    away = PrefectApi("http://x/api", transport=httpx.MockTransport(refuse))
    with pytest.raises(ApiError):
        PatientApi(
            away, sleep=lambda _: pytest.fail("a server that is away is not waited for")
        ).get("/x")


@pytest.mark.parametrize(
    "when", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0900-01-01T00:00:00Z"]
)
def test_a_cursor_of_logs_at_the_ends_of_the_calendar_is_none(when: str) -> None:
    import base64
    import json

    cursor = base64.urlsafe_b64encode(json.dumps([when, 1]).encode()).rstrip(b"=").decode()
    with pytest.raises(PlanError, match="no cursor"):
        logs_of(serving([])).lines(flow_run_id=RUN, cursor=cursor)


def test_a_certificate_that_cant_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("none")
    for name in ("x.pem", "nothing"):
        settings = ApiSettings(tls_certificate=str(tmp_path / name), tls_key=str(tmp_path / name))
        with pytest.raises(PlanError, match="PYBAK_API_TLS_CERTIFICATE"):
            check_certificate(settings)
