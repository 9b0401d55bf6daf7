"""Clients that neither send nor read, at a real server: they stand in nobody's way."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx
import pytest
from dashboards import Dashboard, serving

from pybak.api import edge
from pybak.api.services import MemberFile

_PATIENCE_SECONDS = 20.0
_SIZE = 64 << 20
_UPDATE = "_dash-update-component"


class Large:
    """Has every file, each larger than what sockets keep; `ended` are those that were let go."""

    def __init__(self) -> None:
        self.ended: list[bytes] = []

    def find(self, archive_id: int, path: bytes) -> MemberFile:
        return MemberFile(archive_id=archive_id, path=path.decode(), size=_SIZE)

    def send(self, archive_id: int, path: bytes, out: BinaryIO) -> None:
        try:
            for _ in range(_SIZE >> 20):
                out.write(bytes(1 << 20))
        finally:
            self.ended.append(path)


@pytest.fixture(scope="module")
def files() -> Large:
    return Large()


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory, files: Large) -> Iterator[Dashboard]:
    home = tmp_path_factory.mktemp("stalled")
    with serving(home, f"sqlite:///{home}/catalog.db", files=files, streams=2) as made:
        yield made


@pytest.fixture(scope="module")
def visitor(dashboard: Dashboard) -> Iterator[httpx.Client]:
    """Give a client that is logged in."""
    with httpx.Client(
        base_url=dashboard.home, timeout=_PATIENCE_SECONDS, headers={"Origin": dashboard.address}
    ) as made:
        form = {"client": "ann", "secret": dashboard.secrets["ann"]}
        assert made.post("login/client", data=form).status_code == 303
        yield made


@pytest.fixture
def ask(visitor: httpx.Client, dashboard: Dashboard) -> Iterator[Callable[..., socket.socket]]:
    """Give what sends requests over connections that are left as they are."""
    place = urlsplit(dashboard.address)
    assert place.hostname is not None
    assert place.port is not None
    cookie = f"pybak_session={visitor.cookies['pybak_session']}"
    with ExitStack() as stack:

        def send(method: str, path: str, *headers: str, body: bytes = b"") -> socket.socket:
            made = stack.enter_context(socket.socket())
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.settimeout(_PATIENCE_SECONDS)
            made.connect((place.hostname, place.port))
            lines = (
                f"{method} /dashboard/{path} HTTP/1.1", f"Host: {place.netloc}",
                f"Cookie: {cookie}", f"Origin: {dashboard.address}", *headers, "", "",
            )  # fmt: skip
            made.sendall("\r\n".join(lines).encode() + body)
            return made

        yield send


def _half_sent(ask: Callable[..., socket.socket]) -> socket.socket:
    return ask("POST", _UPDATE, "Content-Type: application/json", "Content-Length: 1000", body=b"{")


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_downloads_that_nobody_reads_end(
    dashboard: Dashboard, files: Large, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "STALLED_SECONDS", 1.0)
    context = dashboard.app.state.context
    gc.disable()  # nothing is freed by chance
    try:
        for _ in range(2):
            ask("GET", "download/1/members/x")
        _until(lambda: bool(context.downloads == 2))
        _until(lambda: not context.downloads)
        _until(lambda: len(files.ended) == 2)
    finally:
        gc.enable()


def test_bodies_that_do_not_come_keep_no_worker(
    visitor: httpx.Client, ask: Callable[..., Any]
) -> None:
    for _ in range(8):
        _half_sent(ask)
    answer = visitor.get("_dash-layout")
    assert answer.status_code == 200
    # The headers of a dashboard's answers are its own.
    assert "script-src" in answer.headers["content-security-policy"]
    assert len(answer.headers.get_list("content-security-policy")) == 1
    assert answer.headers["referrer-policy"] == "same-origin"


def test_a_body_that_does_not_come_is_not_waited_for(
    visitor: httpx.Client, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "BODY_SECONDS", 0.2)
    answer = _half_sent(ask).recv(4096).decode().lower()
    assert answer.startswith("http/1.1 408 ")
    assert "connection: close" in answer
    form = ("Content-Type: application/x-www-form-urlencoded", "Content-Length: 100")
    assert ask("POST", "login/client", *form, body=b"a").recv(4096).startswith(b"HTTP/1.1 408 ")
    assert visitor.get("_dash-dependencies").status_code == 200


def test_what_browsers_may_keep_stays_so(visitor: httpx.Client) -> None:
    for path in ("assets/dashboard.css", "assets/icon.svg"):
        answer = visitor.get(path)
        assert answer.status_code == 200
        assert "no-store" not in answer.headers.get("cache-control", "")
        assert visitor.head(path).status_code == 200
