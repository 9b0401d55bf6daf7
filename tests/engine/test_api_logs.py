"""Logs as pages and as a stream, and the times that ask for them and for runs."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_doubles import FLOW_RUN, Logs, Service, run

from pybak.api.services import StartedRun


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


class TestLogs:
    def test_they_are_given_page_by_page(self, service: Service) -> None:
        service.logs.messages = [f"line {number}" for number in range(5)]
        first = service.get("/logs?limit=3").json()
        assert [one["message"] for one in first["items"]] == ["line 0", "line 1", "line 2"]
        assert not first["complete"]
        rest = service.get(f"/logs?limit=3&cursor={first['next']}").json()
        assert [one["message"] for one in rest["items"]] == ["line 3", "line 4"]
        assert rest["complete"]
        assert rest["items"][0]["at"] == "2026-11-21T00:00:00Z"

    def test_what_is_asked_for_reaches_the_source(self, service: Service) -> None:
        service.runs.at_work = [StartedRun(flow_run_id=FLOW_RUN, kind="backup", state="running")]
        service.get(
            f"/logs?run={FLOW_RUN}&level=warning&since=2026-11-20T10:00Z&until=2026-11-21"
            "&text=disk%20full"
        )
        [asked] = service.logs.asked
        assert asked["flow_run_id"] == FLOW_RUN
        assert asked["level"] == "warning"
        assert asked["text"] == "disk full"
        assert asked["since"].isoformat() == "2026-11-20T10:00:00+00:00"
        assert asked["until"].date().isoformat() == "2026-11-21"

    @pytest.mark.parametrize(
        "query", ["level=loud", "limit=0", "since=x", "text=", "run=../x", "run=nothing"]
    )
    def test_what_cant_be_asked_for_is_refused(self, service: Service, query: str) -> None:
        assert service.get(f"/logs?{query}").status_code in (404, 422)
        assert service.logs.asked == []

    def test_a_stream_gives_what_is_there_and_what_comes_and_ends_with_the_run(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pybak.api.routes import logs

        monkeypatch.setattr(logs, "_PAUSE_SECONDS", 0.01)
        at_work = StartedRun(flow_run_id=FLOW_RUN, kind="backup", state="running")
        service.runs.at_work = [at_work]

        class Growing(Logs):
            def lines(self, **asked: Any) -> Any:
                if len(self.asked) == 2:
                    self.messages.append("late\nin two lines")
                if len(self.asked) == 4:
                    service.runs.at_work = [
                        StartedRun(flow_run_id=FLOW_RUN, kind="backup", state="completed")
                    ]
                if len(self.asked) == 6:
                    self.messages.append("sent late")
                return super().lines(**asked)

        service.app.state.context.logs = Growing("first")
        answer = service.get(f"/logs/stream?run={FLOW_RUN}")
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [one for one in answer.text.split("\n\n") if one.startswith("event: ")]
        data = [json.loads(one.split("data: ", 1)[1]) for one in events]
        assert [one.get("message") for one in data] == [
            "first", "late\nin two lines", "sent late", None,
        ]  # fmt: skip
        assert events[-1].startswith("event: end")
        assert "id: 1" in events[0]
        assert service.app.state.context.streams == 0

    def test_a_stream_goes_on_where_another_broke_off(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pybak.api.routes import logs

        monkeypatch.setattr(logs, "_PAUSE_SECONDS", 0.01)
        service.runs.at_work = [StartedRun(flow_run_id=FLOW_RUN, kind="backup", state="completed")]
        service.logs.messages = ["first", "second"]
        answer = service.get(f"/logs/stream?run={FLOW_RUN}", headers={"Last-Event-ID": "1"})
        assert "first" not in answer.text
        assert "second" in answer.text

    def test_a_stream_ends_when_its_token_does(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pybak.api.routes import logs

        monkeypatch.setattr(logs, "_PAUSE_SECONDS", 0.05)
        service.app.state.context.guard._issuers[0].__dict__["leeway_seconds"] = 60
        token = service.token(exp=int(time.time()) - 30)
        answer = service.get("/logs/stream", token=token)
        assert answer.status_code == 200
        assert "event: end" not in answer.text

    def test_there_is_room_for_so_many_streams(self, service: Service) -> None:
        service.app.state.context.streams = service.app.state.context.settings.streams
        answer = service.get("/logs/stream")
        assert answer.status_code == 429
        assert "retry-after" in answer.headers


def test_streams_that_begin_at_once_are_counted_before_they_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pybak.api.routes import logs

    monkeypatch.setattr(logs, "_MOST_SECONDS", 0.3)
    monkeypatch.setattr(logs, "_PAUSE_SECONDS", 0.05)
    service = Service(tmp_path, streams=2)
    headers = {"Authorization": f"Bearer {service.token()}"}

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            asked = (client.get("/logs/stream", headers=headers) for _ in range(6))
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    assert sorted(run(ask())) == [200, 200, 429, 429, 429, 429]
    assert service.app.state.context.streams == 0


class TestTimes:
    @pytest.mark.parametrize(
        "query",
        [
            "since=0001-01-01T00:00:00%2B14:00", "until=9999-12-31T23:59:59-14:00",
            "until=9999-12-31", "since=0001-01-01", "until=0001-01-01T00:00:00%2B00:00:30",
            "since=1969-12-31T23:59-23:59",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("path", ["/runs", "/logs"])
    def test_the_ends_of_the_calendar_are_no_fault_of_ours(
        self, service: Service, path: str, query: str
    ) -> None:
        answer = service.get(f"{path}?{query}", raises=False)
        assert answer.status_code in (200, 422), answer.text
        for asked in service.logs.asked:
            times = [asked[name] for name in ("since", "until") if asked[name] is not None]
            assert all(1970 <= one.year < 3000 for one in times)

    def test_a_date_is_whole_and_in_utc(self, service: Service) -> None:
        service.get("/logs?since=2026-11-20&until=2026-11-21")
        service.get("/logs?since=2026-11-20T10:00")
        [days, moment] = service.logs.asked
        assert days["since"].isoformat() == "2026-11-20T00:00:00+00:00"
        assert days["until"].isoformat() == "2026-11-21T23:59:59.999999+00:00"
        assert moment["since"].isoformat() == "2026-11-20T10:00:00+00:00"

    @pytest.mark.parametrize("when", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
    def test_a_cursor_that_was_made_up_is_none(self, service: Service, when: str) -> None:
        from pybak.overview.paging import to_cursor

        answer = service.get(f"/runs?cursor={to_cursor(when, 'x')}")
        assert (answer.status_code, answer.json()["code"]) == (422, "refused")
