"""What every request and answer passes: limits of size and time, and how answers are treated."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY_BYTES: Final = 1 << 20
BODY_SECONDS: Final = 30.0
STALLED_SECONDS: Final = 60.0
"""How long a client may take nothing of an answer; what it holds here is others' after that."""
HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HEADERS: Final = tuple((name.lower().encode(), text.encode()) for name, text in HEADERS.items())
_logger = logging.getLogger("pybak.api")


class Edge:
    """The outermost layer. There is no CORS: pages of other origins can't read any answer."""

    def __init__(self, app: ASGIApp, unlimited: tuple[str, ...] = ()) -> None:
        """Wrap an application; what is mounted at the paths `unlimited` looks after itself."""
        self._app = app
        self._unlimited = unlimited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and the answer back. HEAD is answered as GET is (RFC 9110 §9.3.2)."""
        if scope["type"] != "http" or self._is_mounted(scope["path"]):
            await self._app(scope, receive, send)
            return
        passed = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        answer = _Answer(send, is_head=scope["method"] == "HEAD")
        try:
            await self._app(passed, _Body(receive).receive, answer.send)
        except _StalledError:
            _logger.info("a client took nothing for %.0f s; it is left", STALLED_SECONDS)

    def _is_mounted(self, path: str) -> bool:
        return any(path == root or path.startswith(f"{root}/") for root in self._unlimited)


class _StalledError(Exception):
    """A client that does not take its answer."""


class _Body:
    """A request's body, with limits. What is raised is passed on as it is by whoever reads it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen = 0
        self._is_whole = False
        self._due = asyncio.get_running_loop().time() + BODY_SECONDS

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._due):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408, f"the body did not come within {BODY_SECONDS:.0f} s; send it again",
                headers={"Connection": "close"},
            ) from None  # fmt: skip
        self._seen += len(message.get("body", b""))
        if self._seen > MOST_BODY_BYTES:
            raise HTTPException(413, f"a body may have {MOST_BODY_BYTES} bytes at most")
        self._is_whole = not message.get("more_body", False)
        return message


class _Answer:
    """An answer on its way; that to HEAD ends with its headers."""

    def __init__(self, send: Send, *, is_head: bool) -> None:
        self._send = send
        self._is_head = is_head
        self._has_ended = False

    async def send(self, message: Message) -> None:
        if self._has_ended:
            return
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            names = {name.lower() for name, _ in headers}
            headers += [one for one in _HEADERS if one[0] not in names]
            message = {**message, "headers": headers}
        elif self._is_head:
            message = {"type": "http.response.body", "body": b"", "more_body": False}
            self._has_ended = True
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                await self._send(message)
        except TimeoutError:
            raise _StalledError from None
