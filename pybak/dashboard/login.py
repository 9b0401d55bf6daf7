"""Logging in and out: at an OpenID provider, or with the name and secret of a built-in client."""

from __future__ import annotations

import hashlib
import hmac
import logging
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote, urlsplit

import anyio
from anyio.to_thread import run_sync
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pybak.api.auth.refusals import ProviderError
from pybak.api.auth.scopes import Caller
from pybak.api.limits import RateLimit, network_of
from pybak.dashboard import plain
from pybak.dashboard.provider import LoginError
from pybak.dashboard.session import CLIENT, COOKIE, LOGIN_COOKIE, LOGIN_SECONDS, PROVIDER
from pybak.dashboard.settings import PATH
from pybak.display import escape

if TYPE_CHECKING:
    from starlette.requests import Request

    from pybak.api.auth.clients import Client, Clients
    from pybak.api.auth.guard import Guard
    from pybak.api.settings import ApiSettings
    from pybak.dashboard.provider import Provider
    from pybak.dashboard.session import Session, Sessions

_logger = logging.getLogger("pybak.dashboard")
_AT_ONCE: Final = 2  # each secret takes 16 MiB
_MOST_BODY_BYTES: Final = 8192
_MOST_FIELDS: Final = 10
_MOST_NEXT: Final = 2000
_SEE_OTHER: Final = 303


class Logins:
    """All ways to log in. One that is None is not there."""

    def __init__(
        self, api: ApiSettings, sessions: Sessions, *,
        clients: Clients | None, provider: Provider | None, guard: Guard,
    ) -> None:  # fmt: skip
        self._api = api
        self._sessions = sessions
        self._clients = clients
        self._provider = provider
        self._guard = guard
        self._by_address = RateLimit(api.token_requests_a_minute)
        self._by_name = RateLimit(api.token_requests_a_minute)
        self._room = anyio.CapacityLimiter(_AT_ONCE)

    def routes(self) -> list[Route]:
        """Give the routes, without the dashboard's path."""
        return [
            Route("/login", self._show, methods=["GET"]),
            Route("/login/client", self._by_client, methods=["POST"]),
            Route("/login/provider", self._begin, methods=["GET"]),
            Route("/login/callback", self._finish, methods=["GET"]),
            Route("/logout", self._logout, methods=["POST"]),
        ]

    def still_allowed(self, session: Session) -> Caller | None:
        """Give who a session is; a client that was removed, or may less now, is known at once.

        One that was made again under its old name has another secret: its sessions are over.

        Raises PlanError if the file of clients can't be read.
        """
        if session.kind == PROVIDER:
            return session.caller if self._provider is not None else None
        if self._clients is None:
            return None
        known = {client.name: client for client in self._clients.all()}
        client = known.get(session.name)
        if client is None or not hmac.compare_digest(session.stamp, _stamp(client)):
            return None
        scopes = session.caller.scopes & frozenset(client.scopes)
        return Caller(session.name, scopes, session.expires_at)

    def page(self, following: str, error: str = "", status: int = 200) -> Response:
        """Give the login page."""
        return plain.login(
            following=following, client=self._clients is not None, error=error, status=status,
            provider=self._provider.host if self._provider is not None else None,
        )  # fmt: skip

    async def _show(self, request: Request) -> Response:
        return self.page(safe_next(request.query_params.get("next")))

    async def _by_client(self, request: Request) -> Response:
        body = await request.body()
        text = body[:_MOST_BODY_BYTES].decode("utf-8", "replace")
        try:
            form = parse_qs(text, max_num_fields=_MOST_FIELDS)
        except ValueError:
            return self.page(f"{PATH}/", "This is not what the login's form sends.", 400)
        name, secret, wanted = (form.get(key, [""])[0] for key in ("client", "secret", "next"))
        following = safe_next(wanted)
        if self._clients is None:
            return self.page(following, "There is no login with a client here.", 404)
        address = request.client.host if request.client else "?"
        if wait := self._by_address.take(network_of(address)):
            return self._too_many(following, wait)
        client = await run_sync(
            self._clients.authenticate, name.strip(), secret.strip(), limiter=self._room
        )
        if client is None:
            _logger.warning("login as %s refused, from %s", escape(name)[:64], address)
            return self.page(following, "No client has this name and secret.", 401)
        # Only now, so that strangers use up nobody's share but their own.
        if wait := self._by_name.take(client.name):
            return self._too_many(following, wait)
        return self._let_in(
            request, Caller(client.name, frozenset(client.scopes)), CLIENT, following,
            _stamp(client),
        )  # fmt: skip

    async def _begin(self, request: Request) -> Response:
        following = safe_next(request.query_params.get("next"))
        if self._provider is None:
            return self.page(following, "There is no provider to log in at.", 404)
        try:
            address, facts = await self._provider.begin(self._callback(request))
        except ProviderError as error:
            return self._silent(following, error)
        answer = RedirectResponse(address, _SEE_OTHER)
        # Lax: the provider sends people back from another site.
        answer.set_cookie(
            LOGIN_COOKIE, self._sessions.sign_login({**facts, "next": following}),
            max_age=LOGIN_SECONDS, path=f"{PATH}/login", httponly=True, samesite="lax",
            secure=self._is_secure(request),
        )  # fmt: skip
        return answer

    async def _finish(self, request: Request) -> Response:
        facts = self._sessions.read_login(request.cookies.get(LOGIN_COOKIE))
        if self._provider is None or facts is None:
            answer = self.page(f"{PATH}/", "That login took too long; try again.", 400)
        else:
            following = safe_next(str(facts.get("next")))
            query = dict(request.query_params)
            try:
                caller = await self._provider.finish(
                    query, facts, self._callback(request), self._guard
                )
                answer = self._let_in(request, caller, PROVIDER, following)
            except LoginError as error:
                _logger.warning("login at %s refused: %s", self._provider.host, error)
                text = str(error)
                answer = self.page(following, f"{text[:1].upper()}{text[1:]}.", 401)
            except ProviderError as error:
                answer = self._silent(following, error)
        answer.delete_cookie(LOGIN_COOKIE, path=f"{PATH}/login")
        return answer

    async def _logout(self, request: Request) -> Response:
        session = self._sessions.read(request.cookies.get(COOKIE))
        if session is not None:
            self._sessions.end(session)
        answer = RedirectResponse(f"{PATH}/login", _SEE_OTHER)
        answer.delete_cookie(COOKIE, path=PATH)
        return answer

    def _let_in(
        self, request: Request, caller: Caller, kind: str, following: str, stamp: str = ""
    ) -> Response:
        _logger.info("%s logged in", escape(caller.name))
        answer = RedirectResponse(following, _SEE_OTHER)
        answer.set_cookie(
            COOKIE, self._sessions.make(caller, kind, stamp), max_age=self._sessions.seconds,
            path=PATH, httponly=True, samesite="lax", secure=self._is_secure(request),
        )  # fmt: skip
        return answer

    def _too_many(self, following: str, wait: float) -> Response:
        return self.page(following, f"Too many logins; try again in {int(wait) + 1} s.", 429)

    def _silent(self, following: str, error: ProviderError) -> Response:
        _logger.error("%s", error)
        return self.page(following, "The provider can't be asked now; try later.", 503)

    def _callback(self, request: Request) -> str:
        own = self._api.public_url
        root = own.rstrip("/") if own else f"{request.url.scheme}://{request.url.netloc}"
        return f"{root}{PATH}/login/callback"

    def _is_secure(self, request: Request) -> bool:
        return request.url.scheme == "https" or (self._api.public_url or "").startswith("https:")


def safe_next(wanted: str | None) -> str:
    """Give where to go after a login: a page of the dashboard, whatever was asked for."""
    start = f"{PATH}/"
    if not wanted or len(wanted) > _MOST_NEXT or not wanted.isprintable() or "\\" in wanted:
        return start
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return start
    inside = not parts.scheme and not parts.netloc and parts.path.startswith(start)
    of_login = parts.path.startswith((f"{PATH}/login", f"{PATH}/logout"))
    climbs = ".." in unquote(parts.path)  # browsers take %2e for a dot
    return wanted if inside and not climbs and not of_login else start


def _stamp(client: Client) -> str:
    """Give what tells a client's secret from those that it had before."""
    return hashlib.sha256(client.digest.encode()).hexdigest()[:16]
