"""Lets requests through that may: the token, its scope, and where nobody is asked, the place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request

from pybak.api.auth.judged import Judged
from pybak.api.auth.refusals import InsufficientScopeError, InvalidTokenError, Refusal
from pybak.api.auth.scopes import EVERYBODY, Caller
from pybak.api.auth.tokens import Issuer

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
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    origin = request.headers.get("origin")
    if host not in _LOOPBACK or (
        origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    ):
        raise Refusal("without authentication only programs on this machine are answered")


def needs(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    """Give what a route depends on to get its caller, who must have this scope."""

    async def allowed(request: Request) -> Caller:
        guard: Guard = request.app.state.context.guard
        caller = await guard.caller(request)
        if scope not in caller.scopes:
            raise InsufficientScopeError(scope)
        return caller

    return allowed


def protected(scope: str) -> dict[str, Any]:
    """Give what a route's decorator takes so that the route asks for a scope, and says so."""
    return {
        "dependencies": [Depends(needs(scope))],
        "openapi_extra": {"security": [{SCHEME: [scope]}]},
    }
