"""What every request to the dashboard passes: the login, the scope to read, other sites kept out.

Requests that change something must come from the dashboard's own pages: browsers say where a
request was made (`Sec-Fetch-Site`, `Origin`), and cookies are not sent with those of other sites.
"""

from __future__ import annotations

import http
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from pybak.api.auth.guard import check_local
from pybak.api.auth.refusals import Refusal
from pybak.api.auth.scopes import EVERYBODY, READ, Caller
from pybak.dashboard import plain
from pybak.dashboard.session import COOKIE
from pybak.dashboard.settings import PATH

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from pybak.dashboard.login import Logins
    from pybak.dashboard.session import Sessions

CALLER: Final = "pybak.caller"
"""Where the ASGI scope has who sends a request."""
_OPEN: Final = frozenset(
    ("/login", "/login/client", "/login/provider", "/login/callback", "/logout",
     "/assets/dashboard.css", "/assets/icon.svg")
)  # fmt: skip
_MOST_BODY_BYTES: Final = 1 << 20
_SAFE_METHODS: Final = ("GET", "HEAD")
_KEPT: Final = "/_dash-component-suites/"


class DashboardGuard:
    """The outermost layer of the dashboard."""

    def __init__(
        self, app: ASGIApp, sessions: Sessions, logins: Logins, *,
        is_open: bool, public_url: str | None, script_hashes: Sequence[str],
    ) -> None:  # fmt: skip
        """Wrap an application; `is_open` asks nobody, on this machine alone."""
        self._app = app
        self._sessions = sessions
        self._logins = logins
        self._is_open = is_open
        self._public = urlsplit(public_url or "").netloc
        scripts = " ".join(("'self'", *script_hashes))
        # Dash sets styles of elements; Plotly adds a style sheet of its own.
        policy = (
            f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data:; connect-src 'self'; font-src 'self'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        )
        self._headers: tuple[tuple[bytes, bytes], ...] = (
            (b"content-security-policy", policy.encode("ascii")),
            (b"x-content-type-options", b"nosniff"),
            # Not "no-referrer": then forms would not say which page they are of.
            (b"referrer-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"x-frame-options", b"DENY"),
            (b"cache-control", b"no-store"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                names = {name.lower() for name, _ in headers}
                if path.startswith((_KEPT, "/assets/")):
                    names.add(b"cache-control")
                headers += [one for one in self._headers if one[0] not in names]
                message = {**message, "headers": headers}
            await send(message)

        request = Request(scope, receive)
        refused = self._checked(request, path)
        if refused is not None:
            await refused(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _checked(self, request: Request, path: str) -> Response | None:
        """Give the answer to a request that may not go on."""
        if request.method not in _SAFE_METHODS:
            if request.method != "POST" or not self._is_own(request.headers):
                return _refusal(request, 403, "This was not sent by a page of the dashboard.")
            if not _is_small(request.headers):
                return _refusal(request, 413, "This is too large.")
        if self._is_open:
            try:
                check_local(request)
            except Refusal as error:
                return _refusal(request, 403, error.detail)
            request.scope[CALLER] = EVERYBODY
            return None
        if path in _OPEN:
            return None
        caller = self._caller(request)
        if caller is None:
            if _wants_page(request):
                following = request.url.path
                if request.url.query:
                    following += f"?{request.url.query}"
                return RedirectResponse(f"{PATH}/login?next={quote(following, safe='')}", 303)
            return _refusal(request, 401, "Nobody is logged in.")
        if READ not in caller.scopes:
            if _wants_page(request):
                return plain.message(
                    "No access", f"{caller.name} may not see backups: the scope {READ} is missing.",
                    403, logout=True,
                )  # fmt: skip
            return _refusal(request, 403, f"The scope {READ} is missing.")
        request.scope[CALLER] = caller
        return None

    def _caller(self, request: Request) -> Caller | None:
        session = self._sessions.read(request.cookies.get(COOKIE))
        return None if session is None else self._logins.still_allowed(session)

    def _is_own(self, headers: Headers) -> bool:
        site = headers.get("sec-fetch-site")
        if site is not None and site != "same-origin":
            return False
        origin = headers.get("origin")
        if origin is None:
            return site is not None
        try:
            place = urlsplit(origin).netloc
        except ValueError:
            return False
        return place in {headers.get("host"), self._public} - {"", None}


def _is_small(headers: Headers) -> bool:
    length = headers.get("content-length", "")
    return length.isdecimal() and int(length) <= _MOST_BODY_BYTES


def _wants_page(request: Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


def _refusal(request: Request, status: int, text: str) -> Response:
    if _wants_page(request):
        return plain.message(http.HTTPStatus(status).phrase, text, status)
    content = {
        "type": "about:blank", "title": http.HTTPStatus(status).phrase, "status": status,
        "detail": text,
    }  # fmt: skip
    return JSONResponse(content, status, media_type="application/problem+json")
