"""Downloads: pieces, names in headers, and clients that take nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from api_doubles import Service, run
from hypothesis import given
from hypothesis import strategies as st

from pybak.api.downloads import disposition, pieces
from pybak.errors import ArchiveError


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


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
