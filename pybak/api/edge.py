"""What every request and answer passes: bodies have a limit, answers say how to be treated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY_BYTES: Final = 1 << 20
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Edge:
    """The outermost layer. There is no CORS: pages of other origins can't read any answer."""

    def __init__(self, app: ASGIApp, unlimited: tuple[str, ...] = ()) -> None:
        """Wrap an application; what is mounted at the paths `unlimited` looks after itself."""
        self._app = app
        self._unlimited = unlimited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and the answer back."""
        if scope["type"] != "http" or self._is_mounted(scope["path"]):
            await self._app(scope, receive, send)
            return
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MOST_BODY_BYTES:
                # Of this kind, so that whoever reads the body passes it on as it is.
                raise HTTPException(413, f"a body may have {MOST_BODY_BYTES} bytes at most")
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                names = {name.lower() for name, _ in headers}
                headers += [one for one in _HEADERS if one[0] not in names]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, limited, with_headers)

    def _is_mounted(self, path: str) -> bool:
        return any(path == root or path.startswith(f"{root}/") for root in self._unlimited)
