"""Settings, headers, limits, logs: what holds for all requests."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_doubles import FLOW_RUN, Logs, Service, run
from hypothesis import given
from hypothesis import strategies as st

from pybak.api.caching import Recent
from pybak.api.downloads import disposition, pieces
from pybak.api.services import StartedRun
from pybak.api.settings import ApiSettings, from_environment
from pybak.errors import ArchiveError, PlanError


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


def test_importing_the_engine_imports_no_web_framework() -> None:
    code = (
        "import sys, pybak, pybak.options, pybak.catalog.runs, pybak.restore.ask\n"
        "print([name for name in ('fastapi', 'jwt', 'uvicorn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestSettings:
    def test_they_come_from_the_environment(self) -> None:
        made = from_environment(
            {
                "PYBAK_API_PORT": "9000",
                "PYBAK_API_ISSUER": "https://login.example",
                "PYBAK_API_SOURCE_ROOTS": "/srv/a, /srv/b",
                "PYBAK_API_DESTINATION_ROOTS": "/with, comma\ns3://bucket/x\n",
                "PYBAK_API_SCOPE_NAMES": '{"Backup.Read": "backup:read"}',
                "PYBAK_API_TOKEN_ENDPOINT": "true",
                "PYBAK_API_AUDIENCE": "",
                "PYBAK_HOME": "/elsewhere",
            }
        )
        assert made.port == 9000
        assert made.source_roots == ("/srv/a", "/srv/b")
        assert made.destination_roots == ("/with, comma", "s3://bucket/x")
        assert made.scope_names == {"Backup.Read": "backup:read"}
        assert made.token_endpoint
        assert made.audience == "pybak"

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("PORT", "x1y", "PYBAK_API_PORT: "),
            ("PORTS", "1", "PYBAK_API_PORTS: there is no such setting"),
            ("ISSUER", "http://login.example", "PYBAK_API_ISSUER: must begin with https"),
            ("ALGORITHMS", "HS256", "PYBAK_API_ALGORITHMS: HS256 is none of"),
            ("ALGORITHMS", "none", "PYBAK_API_ALGORITHMS: none is none of"),
            ("SCOPE_NAMES", '{"a": "all"}', "PYBAK_API_SCOPE_NAMES: all is none of"),
            ("SCOPE_NAMES", "a=b", "PYBAK_API_SCOPE_NAMES: is no JSON"),
            ("TLS_KEY", "/x", "PYBAK_API_TLS_CERTIFICATE: goes with"),
        ],
    )
    def test_wrong_ones_are_named(self, name: str, value: str, words: str) -> None:
        with pytest.raises(PlanError) as raised:
            from_environment({f"PYBAK_API_{name}": value})
        assert str(raised.value).startswith(words)
        assert "x1y" not in str(raised.value)

    def test_nobody_is_let_in_by_mistake(self) -> None:
        with pytest.raises(PlanError, match="no authentication is set up"):
            ApiSettings().check_startable()
        with pytest.raises(PlanError, match="only goes with a host of this machine"):
            from_environment({"PYBAK_API_NO_AUTHENTICATION": "1", "PYBAK_API_HOST": "0.0.0.0"})
        with pytest.raises(PlanError, match="contradicts"):
            from_environment(
                {"PYBAK_API_NO_AUTHENTICATION": "1", "PYBAK_API_ISSUER": "https://login.example"}
            )
        ApiSettings(no_authentication=True).check_startable()


class TestWithoutAuthentication:
    """A switch for one's own machine: a page in a browser there must not get through."""

    @pytest.fixture
    def service(self, tmp_path: Path) -> Service:
        return Service(tmp_path, issuer=None, no_authentication=True)

    def test_programs_on_this_machine_are_answered(self, service: Service) -> None:
        assert service.get("/logs", token=None).status_code == 200
        assert service.post("/compress", token=None, json={"job": "x"}).status_code == 202

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "evil.example"},
            {"Host": "127.0.0.1.evil.example"},
            {"Host": ""},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:9999"},
        ],
    )
    def test_what_a_page_has_a_browser_send_is_not(
        self, service: Service, headers: dict[str, str]
    ) -> None:
        assert service.get("/logs", token=None, headers=headers).status_code == 401

    def test_a_form_of_a_page_starts_nothing(self, service: Service) -> None:
        """Without a preflight a page can send text/plain only."""
        for kind in ("text/plain", "application/x-www-form-urlencoded", None):
            headers = {"Content-Type": kind} if kind else {}
            answer = service.post("/compress", token=None, content=b'{"job": "x"}', headers=headers)
            assert answer.status_code == 422, answer.text
        assert service.runs.made == []


def test_answers_say_how_to_be_treated_and_other_origins_can_read_none(service: Service) -> None:
    answer = service.get("/logs", headers={"Origin": "https://evil.example"})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    preflight = service.ask(
        "OPTIONS", "/compress",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
    )  # fmt: skip
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control-")]


def test_a_body_that_is_too_large_is_not_read(service: Service) -> None:
    sent = [0]

    async def body() -> Any:
        for _ in range(64):
            sent[0] += 1
            yield b" " * (256 << 10)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            headers = {"Content-Type": "application/json",
                       "Authorization": f"Bearer {service.token()}"}  # fmt: skip
            return await client.post("/compress", content=body(), headers=headers)

    answer = run(send())
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert sent[0] < 10


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"job": "\\ud800"}'])
def test_a_body_that_is_no_json_is_a_problem(service: Service, body: bytes) -> None:
    answer = service.post("/compress", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_unknown_paths_and_methods_are_problems(service: Service) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("DELETE", "/runs", 405)):
        answer = service.ask(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status


def test_what_goes_wrong_inside_stays_inside(service: Service) -> None:
    service.runs.trouble = RuntimeError("the secret is 1234")
    answer = service.post("/compress", json={"job": "x"}, raises=False)
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "1234" not in answer.text


def test_what_is_mounted_beside_the_api_is_served_as_it_is(tmp_path: Path) -> None:
    from starlette.responses import PlainTextResponse

    from pybak.api.app import create_app

    one = Service(tmp_path)
    app = create_app(
        ApiSettings(issuer="https://login.example/realm"), home=tmp_path,
        overview=lambda: None,  # type: ignore[arg-type,return-value]
        runs_service=one.runs, log_source=one.logs, file_service=one.files,
        mounts={"/dashboard": PlainTextResponse("pages")},
    )  # fmt: skip
    one.app = app
    assert one.get("/dashboard/x", token=None).text == "pages"
    bare = one.get("/dashboard?a=b", token=None, headers={"Host": "evil.example"})
    assert (bare.status_code, bare.headers["location"]) == (307, "dashboard/?a=b")
    assert one.get("/logs/").status_code == 404
    assert one.get("/logs", token=None).status_code == 401


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
                return super().lines(**asked)

        service.app.state.context.logs = Growing("first")
        answer = service.get(f"/logs/stream?run={FLOW_RUN}")
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [one for one in answer.text.split("\n\n") if one.startswith("event: ")]
        data = [json.loads(one.split("data: ", 1)[1]) for one in events]
        assert [one.get("message") for one in data] == ["first", "late\nin two lines", None]
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


class TestDownloads:
    def test_pieces_come_in_order_and_wait_for_the_reader(self) -> None:
        written = [0]

        def send(out: Any) -> None:
            for number in range(100):
                out.write(bytes([number]) * (300 << 10))
                written[0] += 1

        async def read() -> None:
            content = pieces(send)
            await anext(content)
            await asyncio.sleep(0.1)
            assert written[0] < 10
            total = 256 << 10
            async for piece in content:
                total += len(piece)
            assert total == 100 * (300 << 10)

        run(read())

    def test_a_reader_that_goes_away_ends_the_writer(self) -> None:
        ended: list[BaseException] = []

        def send(out: Any) -> None:
            try:
                while True:
                    out.write(b"x" * (256 << 10))
            except BrokenPipeError as error:
                ended.append(error)
                raise

        async def read() -> None:
            content = pieces(send)
            await anext(content)
            await content.aclose()
            for _ in range(100):
                await asyncio.sleep(0.02)
                if ended:
                    return

        run(read())
        assert ended

    def test_what_goes_wrong_comes_out_at_its_place(self) -> None:
        def send(out: Any) -> None:
            out.write(b"good")
            raise ArchiveError("damaged")

        async def read() -> list[bytes]:
            return [piece async for piece in pieces(send)]

        with pytest.raises(ArchiveError, match="damaged"):
            run(read())

    def test_a_member_of_another_length_than_known_is_no_whole_answer(
        self, service: Service
    ) -> None:
        for size in (3, 5):
            service.files.contents[1, b"x"] = b"1234"
            service.files.sizes[1, b"x"] = size
            with pytest.raises(RuntimeError, match="not as long"):
                service.get("/archives/1/members/x")
        assert service.app.state.context.downloads == 0

    def test_there_is_room_for_so_many(self, service: Service) -> None:
        service.files.contents[1, b"x"] = b"1"
        service.app.state.context.downloads = service.app.state.context.settings.streams
        assert service.get("/archives/1/members/x").status_code == 429

    @pytest.mark.parametrize(
        ("path", "plain", "extended"),
        [
            ("docs/a.txt", "a.txt", "a.txt"),
            ("docs/..", "file", "file"),
            ('a"; filename="b', "a_; filename=_b", "a_%3B%20filename%3D_b"),
            ("a\r\nSet-Cookie: x", "a__Set-Cookie_ x", "a__Set-Cookie_%20x"),
            ("..\\..\\evil.exe", "_.._evil.exe", "_.._evil.exe"),
            ("exe.\u202etxt", "exe._txt", "exe._txt"),
            ("caf\udce9.txt", "caf_.txt", "caf_.txt"),
            ("\u65e5\u672c.zip", "__.zip", "%E6%97%A5%E6%9C%AC.zip"),
            ("", "file", "file"),
        ],
    )
    def test_names_in_headers_are_harmless(self, path: str, plain: str, extended: str) -> None:
        assert disposition(path) == (
            f"attachment; filename=\"{plain}\"; filename*=UTF-8''{extended}"
        )

    @given(st.binary(max_size=300))
    def test_no_name_breaks_the_header(self, name: bytes) -> None:
        header = disposition(name.decode("utf-8", "surrogateescape"))
        assert header.isascii()
        assert header.isprintable()
        assert header.count('"') == 2
        assert "/" not in header
        assert len(header) < 1000


class TestRecentAnswers:
    def test_many_who_ask_at_once_have_it_made_once(self) -> None:
        made = [0]

        async def make() -> bytes:
            made[0] += 1
            await asyncio.sleep(0.01)
            return b"x"

        async def ask() -> None:
            recent = Recent()
            assert await asyncio.gather(*(recent.get("a", make) for _ in range(50))) == [b"x"] * 50

        run(ask())
        assert made == [1]

    def test_it_is_made_anew_after_a_while_and_after_a_failure(self) -> None:
        now = [0.0]
        made = [0]

        async def make() -> bytes:
            made[0] += 1
            if made[0] == 1:
                raise OSError("once")
            return b"%d" % made[0]

        async def ask() -> None:
            recent = Recent(1, clock=lambda: now[0])
            with pytest.raises(OSError, match="once"):
                await recent.get("a", make)
            await asyncio.sleep(0)
            assert await recent.get("a", make) == b"2"
            await asyncio.sleep(0)
            assert await recent.get("a", make) == b"2"
            now[0] = 1.1
            assert await recent.get("a", make) == b"2"  # the old one, while a new one is made
            await asyncio.sleep(0.01)
            assert await recent.get("a", make) == b"3"
            now[0] = 10
            assert await recent.get("a", make) == b"4"

        run(ask())

    def test_one_who_goes_away_takes_it_from_nobody(self) -> None:
        async def make() -> bytes:
            await asyncio.sleep(0.05)
            return b"x"

        async def ask() -> None:
            recent = Recent()
            first = asyncio.create_task(recent.get("a", make))
            second = asyncio.create_task(recent.get("a", make))
            await asyncio.sleep(0.01)
            first.cancel()
            assert await second == b"x"

        run(ask())


class TestBeforeAnythingIsRead:
    """Whoever has no token is told so, whatever else he sends."""

    @pytest.mark.parametrize("body", [b"{", b" " * (2 << 20), b'{"job": 7}'])
    def test_a_body_of_a_stranger_is_not_looked_at(self, service: Service, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        answer = service.post("/compress", token=None, content=body, headers=headers)
        assert answer.status_code == 401

    def test_one_caller_gets_so_many_answers_a_minute(self, tmp_path: Path) -> None:
        service = Service(tmp_path, requests_a_minute=2)
        codes = [service.get("/logs").status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        assert service.get("/logs", token=service.token(sub="bob")).status_code == 200
        assert service.get("/logs", token=None).status_code == 401

    def test_a_route_without_a_declared_scope_is_none(self) -> None:
        from fastapi import APIRouter

        from pybak.api.auth.guard import GuardedRoute

        router = APIRouter(route_class=GuardedRoute)
        with pytest.raises(KeyError):
            router.add_api_route("/open", lambda: None)


@pytest.mark.parametrize("header", ["Host", "Origin"])
def test_a_header_that_is_no_address_is_no_fault_of_ours(tmp_path: Path, header: str) -> None:
    service = Service(tmp_path, issuer=None, no_authentication=True)
    headers = {header: "[" if header == "Host" else "http://["}
    assert service.get("/logs", token=None, headers=headers).status_code == 401


def test_head_is_answered_as_get_without_a_body(service: Service) -> None:
    for path, token in (("/logs", ""), ("/logs/stream", "")):
        answer = service.ask("HEAD", path, token=token)
        assert (answer.status_code, answer.content) == (200, b""), path
    assert service.ask("HEAD", "/logs", token=None).status_code == 401
    assert service.app.state.context.streams == 0


def test_what_goes_wrong_has_the_headers_of_all_answers_and_one_line_in_the_log(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    def find(*_: object) -> None:
        raise RuntimeError("bug")

    service.app.state.context.files.find = find
    answer = service.get("/archives/1/members/a%0aERROR%20forged", raises=False)
    assert answer.status_code == 500
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    [told] = [one.getMessage() for one in caplog.records if one.name == "pybak.api"]
    assert "forged" in told
    assert len(told.splitlines()) == 1


def test_a_body_that_comes_too_slowly_is_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pybak.api import edge

    monkeypatch.setattr(edge, "BODY_SECONDS", 0.05)

    async def body() -> Any:
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            headers = {"Content-Type": "application/json",
                       "Authorization": f"Bearer {service.token()}"}  # fmt: skip
            return await client.post("/compress", content=body(), headers=headers)

    answer = run(send())
    assert (answer.status_code, answer.headers["connection"]) == (408, "close")
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_client_that_takes_nothing_holds_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place among the downloads, the thread and the archive's lock are others' again."""
    from pybak.api import edge

    monkeypatch.setattr(edge, "STALLED_SECONDS", 0.05)
    service.files.contents[1, b"x"] = b"1" * (4 << 20)
    path = b"/archives/1/members/x"
    scope = {
        "type": "http", "method": "GET", "path": path.decode(), "raw_path": path,
        "query_string": b"", "headers": [(b"authorization", f"Bearer {service.token()}".encode())],
        "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("x", 1),
        "root_path": "", "asgi": {"spec_version": "2.3"},
    }  # fmt: skip
    sent: list[Any] = []

    async def ask() -> None:
        is_asked = False

        async def receive() -> Any:
            nonlocal is_asked
            if is_asked:
                await asyncio.sleep(60)
            is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)
            if message.get("body"):
                await asyncio.sleep(60)

        await asyncio.wait_for(service.app(scope, receive, send), 10)
        for _ in range(100):
            if not service.app.state.context.downloads:
                return
            await asyncio.sleep(0.02)

    run(ask())
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
    assert service.app.state.context.downloads == 0


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
