"""Lets requests through that may: the token, its scope, and where nobody is asked, the place.

Routes say in OpenAPI's words which scope they want, and `GuardedRoute` asks for it before anything
of a request is read: to somebody without a token a bad body is no business of his.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.routing import APIRoute

from pybak.api.auth.judged import Judged
from pybak.api.auth.refusals import InsufficientScopeError, InvalidTokenError, Refusal
from pybak.api.auth.scopes import EVERYBODY, Caller
from pybak.api.auth.tokens import Issuer
from pybak.api.problems import too_many

SCHEME: Final = "oauth2"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Knows whose tokens are good."""

    def __init__(self, issuers: Sequence[Issuer], *, open_to_all: bool = False) -> None:
        """Take the issuers; `open_to_all` asks nobody, for a service on the loopback address."""
        self._issuers = tuple(issuers)
        self._open_to_all = open_to_all
        self._judged = Judged(self._issuers)

    async def caller(self, request: Request) -> Caller:
        """Give who sends this. Raises Refusal, or ProviderError when that can't be told."""
        if self._open_to_all:
            check_local(request)
            return EVERYBODY
        given = request.headers.getlist("authorization")
        if not given:
            raise Refusal("this needs a bearer token; see the security schemes in /openapi.json")
        scheme, _, token = given[0].partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer":
            raise Refusal("this needs one header: Authorization: Bearer TOKEN")
        if not token.strip():
            raise InvalidTokenError("there is no token after Bearer")
        return await self._judged.caller(token.strip())

    async def judge(self, token: str) -> Caller:
        """Give whose access token this is. Raises as `caller`."""
        return await self._judged.caller(token)

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked who they are."""
        return self._open_to_all


def check_local(request: Request) -> None:
    """Refuse what a web page could have a browser on this machine send (DNS rebinding, CSRF)."""
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        origin = request.headers.get("origin")
        is_own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:  # no address at all, such as `[`
        host, is_own = None, False
    if host not in _LOOPBACK or not is_own:
        raise Refusal("without authentication only programs on this machine are answered")


class GuardedRoute(APIRoute):
    """A route that asks for the one scope that it names in its `openapi_extra`, before all else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give what answers a request."""
        answer = super().get_route_handler()
        [wanted] = (self.openapi_extra or {})["security"] or [None]
        if wanted is None:
            return answer
        [scope] = wanted[SCHEME]

        async def guarded(request: Request) -> Response:
            context = request.app.state.context
            caller: Caller = await context.guard.caller(request)
            if scope not in caller.scopes:
                raise InsufficientScopeError(scope)
            if wait := context.requests.take(caller.key):
                raise too_many(wait, "requests")
            request.state.caller = caller
            return await answer(request)

        return guarded


async def caller_of(request: Request) -> Caller:
    """Give who sent a request to a guarded route."""
    caller: Caller = request.state.caller
    return caller


def protected(scope: str) -> dict[str, Any]:
    """Give what a route's decorator takes so that the route asks for a scope, and says so."""
    return {"openapi_extra": {"security": [{SCHEME: [scope]}]}}
