"""Clients that stop reading, at a real server: what they held is others' again."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from api_doubles import Files, Service

from pybak.api import edge
from pybak.api.streams import Streamed

_PATIENCE_SECONDS = 20.0
_SIZE = 64 << 20


class Large(Files):
    """Has every file, each larger than what sockets keep; `ended` are those that were let go."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes[1, b"x"] = _SIZE
        self.contents[1, b"x"] = b""
        self.ended: list[bytes] = []

    def send(self, archive_id: int, path: bytes, out: Any) -> None:
        try:
            for _ in range(_SIZE >> 20):
                out.write(bytes(1 << 20))
        finally:
            self.ended.append(path)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(edge, "STALLED_SECONDS", 1.0)
    made = Service(tmp_path, streams=2)
    made.app.state.context.files = made.files = Large()
    return made


@pytest.fixture
def port(service: Service) -> Iterator[int]:
    """Give the port of a server; nothing is freed by chance while it runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(service.app, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        gc.disable()
        try:
            yield int(listener.getsockname()[1])
        finally:
            gc.enable()
            server.should_exit = server.force_exit = True
            thread.join(10)


def _ask(port: int, service: Service, path: str) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(_PATIENCE_SECONDS)
    made.connect(("127.0.0.1", port))
    bearer = f"Authorization: Bearer {service.token()}"
    made.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{bearer}\r\n\r\n".encode())
    return made


def _status(port: int, service: Service, path: str) -> int:
    with _ask(port, service, path) as one:
        return int(one.recv(64).split()[1])


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_downloads_that_nobody_reads_end(service: Service, port: int) -> None:
    context, path = service.app.state.context, "/archives/1/members/x"
    stalled = [_ask(port, service, path) for _ in range(2)]
    _until(lambda: bool(context.downloads == 2))
    _until(lambda: not context.downloads)
    _until(lambda: len(service.files.ended) == 2)  # type: ignore[attr-defined]
    assert _status(port, service, path) == 200
    for one in stalled:
        one.close()


def test_a_log_that_nobody_reads_ends(service: Service, port: int) -> None:
    context = service.app.state.context
    service.logs.messages = ["x" * 10_000] * 5000
    stalled = [_ask(port, service, "/logs/stream") for _ in range(2)]
    _until(lambda: bool(context.streams == 2))
    _until(lambda: not context.streams)
    for one in stalled:
        one.close()


def test_what_was_never_begun_is_let_go_too() -> None:
    """A client may take not even the headers."""
    closed: list[str] = []

    async def source() -> Any:
        try:
            yield b"first"
            yield b"second"
        finally:
            closed.append("source")

    async def send(_message: Any) -> None:
        raise ConnectionError

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def answer() -> None:
        made = source()
        await anext(made)
        with pytest.raises(ConnectionError):
            await Streamed((piece async for piece in made), made)(
                {"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send
            )
        assert closed == ["source"]

    asyncio.run(answer())


def test_who_reads_a_long_answer_slowly_gets_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "STALLED_SECONDS", 0.25)
    content = bytes(range(256)) * 4096 + b"end"
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": content})

    async def send(message: Any) -> None:
        await asyncio.sleep(len(message.get("body", b"")) / len(content) / 2)
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/pages/x"}
    asyncio.run(edge.Edge(app, ("/pages",))(scope, receive, send))
    assert b"".join(one["body"] for one in sent[1:]) == content
    assert [one.get("more_body", False) for one in sent[1:]] == [True] * (len(sent) - 2) + [False]
