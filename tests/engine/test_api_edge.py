"""Headers, bodies, limits and problems: what holds for all requests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_doubles import Service, run

from pybak.api.caching import Recent
from pybak.api.settings import ApiSettings


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
