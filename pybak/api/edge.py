"""What every request and answer passes: limits of size and time, and how answers are treated."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY_BYTES: Final = 1 << 20
BODY_SECONDS: Final = 30.0
STALLED_SECONDS: Final = 60.0
"""How long a client may take nothing of an answer; what it holds here is others' after that."""
_PART_BYTES: Final = 64 << 10
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

    def __init__(self, app: ASGIApp, mounts: tuple[str, ...] = ()) -> None:
        """Wrap an application; what is mounted at `mounts` has the same limits of size and time.

        It gives its answers their headers itself, and answers HEAD as it likes.
        """
        self._app = app
        self._mounts = mounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and the answer back. HEAD is answered as GET is (RFC 9110 §9.3.2)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_mounted = self._is_mounted(scope["path"])
        is_head = scope["method"] == "HEAD" and not is_mounted
        passed = {**scope, "method": "GET"} if is_head else scope
        answer = _Answer(send, is_head=is_head, headers=() if is_mounted else _HEADERS)
        try:
            await self._app(passed, _Body(receive).receive, answer.send)
        except _StalledError:
            _logger.info("a client took nothing for %.0f s; it is left", STALLED_SECONDS)
        except ClientDisconnect:
            pass  # nobody is left to be answered

    def _is_mounted(self, path: str) -> bool:
        return any(path == root or path.startswith(f"{root}/") for root in self._mounts)


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

    def __init__(
        self, send: Send, *, is_head: bool, headers: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        self._send = send
        self._is_head = is_head
        self._headers = headers
        self._has_ended = False

    async def send(self, message: Message) -> None:
        if self._has_ended:
            return
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            names = {name.lower() for name, _ in headers}
            headers += [one for one in self._headers if one[0] not in names]
            message = {**message, "headers": headers}
        elif self._is_head:
            message = {"type": "http.response.body", "body": b"", "more_body": False}
            self._has_ended = True
        try:
            for part in _parts(message):
                async with asyncio.timeout(STALLED_SECONDS):
                    await self._send(part)
        except TimeoutError:
            raise _StalledError from None


def _parts(message: Message) -> Iterator[Message]:
    """Split a long body: a client that takes it slowly is none that takes nothing."""
    body = message.get("body", b"")
    if len(body) <= _PART_BYTES:
        yield message
        return
    for at in range(0, len(body), _PART_BYTES):
        end = at + _PART_BYTES
        more = message.get("more_body", False) or end < len(body)
        yield {**message, "body": bytes(body[at:end]), "more_body": more}
