"""The built-in token endpoint: client credentials (RFC 6749 §4.4) and nothing else."""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from pybak.api.auth.clients import Client, Clients
from pybak.api.auth.signing import SigningKey
from pybak.api.limits import RateLimit, network_of
from pybak.api.settings import ApiSettings
from pybak.display import escape

PATH: Final = "/oauth/token"
_FORM: Final = "application/x-www-form-urlencoded"
_MOST_FIELDS: Final = 20
_AT_ONCE: Final = 2  # each takes 16 MiB
_MOST_SHOWN: Final = 64
_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_logger = logging.getLogger("pybak.api")


class OAuthError(Exception):
    """An answer of RFC 6749 §5.2."""

    def __init__(self, status: int, error: str, description: str, wait: float = 0) -> None:
        super().__init__(description)
        self.status = status
        self.error = error
        self.wait = wait


class TokenEndpoint:
    """Gives tokens to clients that know their secret."""

    def __init__(
        self,
        settings: ApiSettings,
        clients: Clients,
        key: SigningKey,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clients = clients
        self._key = key
        self._now = now
        limit = settings.token_requests_a_minute
        self._by_address = RateLimit(limit, clock=clock)
        self._by_client = RateLimit(limit, clock=clock)
        self._room = anyio.CapacityLimiter(_AT_ONCE)

    async def answer(self, request: Request) -> JSONResponse:
        """Answer a request for a token."""
        try:
            return JSONResponse(await self._grant(request), headers=_NO_STORE)
        except OAuthError as error:
            headers = dict(_NO_STORE)
            if error.wait:
                headers["Retry-After"] = str(int(error.wait) + 1)
            if error.status == 401:
                headers["WWW-Authenticate"] = 'Basic realm="pybak", charset="UTF-8"'
            content = {"error": error.error, "error_description": str(error)}
            return JSONResponse(content, error.status, headers=headers)

    async def _grant(self, request: Request) -> dict[str, Any]:
        address = request.client.host if request.client else "?"
        self._take(self._by_address, network_of(address))
        form = await _form(request)
        if form.get("grant_type") != "client_credentials":
            known = "grant_type" in form
            raise OAuthError(
                400, "unsupported_grant_type" if known else "invalid_request",
                "grant_type must be client_credentials",
            )  # fmt: skip
        name, secret = _credentials(request.headers.get("authorization"), form)
        client = await run_sync(self._clients.authenticate, name, secret, limiter=self._room)
        if client is None:
            shown = escape(name[:_MOST_SHOWN])
            _logger.warning("no token for %s: wrong name or secret, from %s", shown, address)
            raise OAuthError(401, "invalid_client", "no client has this name and secret")
        # Only now, so that strangers use up nobody's share but their own.
        self._take(self._by_client, client.name)
        scopes = _scopes(client, form.get("scope", ""))
        token = self._key.token(
            client.name, scopes, issuer=self._settings.own_issuer,
            audience=self._settings.audience, now=self._now(), seconds=self._settings.token_seconds,
        )  # fmt: skip
        return {
            "access_token": token, "token_type": "Bearer",
            "expires_in": self._settings.token_seconds, "scope": " ".join(scopes),
        }  # fmt: skip

    def _take(self, limit: RateLimit, name: str) -> None:
        if wait := limit.take(name):
            raise OAuthError(429, "temporarily_unavailable", "too many requests", wait)


async def _form(request: Request) -> dict[str, str]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != _FORM:
        raise OAuthError(400, "invalid_request", f"the body must be {_FORM}")
    try:
        pairs = parse_qsl(
            (await request.body()).decode("utf-8"), keep_blank_values=True, errors="strict",
            max_num_fields=_MOST_FIELDS,
        )  # fmt: skip
    except ValueError:
        raise OAuthError(400, "invalid_request", "the body is no form") from None
    form = dict(pairs)
    if len(form) != len(pairs):  # RFC 6749 §3.2
        raise OAuthError(400, "invalid_request", "a field is there twice")
    return form


def _credentials(header: str | None, form: dict[str, str]) -> tuple[str, str]:
    """Give name and secret, from the header or the form, not from both (RFC 6749 §2.3)."""
    if header is None:
        return form.get("client_id", ""), form.get("client_secret", "")
    if "client_secret" in form:
        raise OAuthError(400, "invalid_request", "credentials are given in two ways")
    scheme, _, value = header.partition(" ")
    unreadable = OAuthError(401, "invalid_client", "the credentials can't be read")
    try:
        name, colon, secret = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
    except (ValueError, binascii.Error):
        raise unreadable from None
    if scheme.lower() != "basic" or not colon:
        raise unreadable
    return unquote_plus(name), unquote_plus(secret)


def _scopes(client: Client, wanted: str) -> tuple[str, ...]:
    """Give the scopes that are asked for, or all that the client may have."""
    asked = tuple(dict.fromkeys(wanted.split()))
    if not set(asked) <= set(client.scopes):
        raise OAuthError(400, "invalid_scope", "this client may not have all of these scopes")
    return asked or client.scopes


def _refused(description: str, error: str, words: str) -> dict[str, Any]:
    """Give how OpenAPI describes a refusal, as RFC 6749 §5.2 has it."""
    texts = {"error": {"type": "string"}, "error_description": {"type": "string"}}
    return {
        "description": description,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["error"], "properties": texts},
                "example": {"error": error, "error_description": words},
            }
        },
    }


def router(endpoint: TokenEndpoint) -> APIRouter:
    """Give the route of the endpoint."""
    made = APIRouter(tags=["tokens"])

    @made.post(
        PATH,
        operation_id="getToken",
        summary="Get a token with a client's name and secret",
        openapi_extra={
            "security": [],
            "requestBody": {
                "required": True,
                "content": {
                    _FORM: {
                        "schema": {
                            "type": "object",
                            "required": ["grant_type"],
                            "properties": {
                                "grant_type": {"const": "client_credentials"},
                                "client_id": {"type": "string"},
                                "client_secret": {"type": "string", "format": "password"},
                                "scope": {"type": "string"},
                            },
                        },
                        "example": {
                            "grant_type": "client_credentials",
                            "client_id": "nightly",
                            "client_secret": "what `clients.py add` printed",
                            "scope": "backup:read",
                        },
                    }
                },
            },
        },
        responses={
            200: {
                "description": "A token.",
                "content": {
                    "application/json": {
                        "schema": {"type": "object"},
                        "example": {
                            "access_token": "eyJ…", "token_type": "Bearer", "expires_in": 600,
                            "scope": "backup:read",
                        },
                    }
                },
            },
            400: _refused("The request is not as it should be.", "invalid_scope",
                          "this client may not have all of these scopes"),
            401: _refused("No client has this name and secret.", "invalid_client",
                          "no client has this name and secret"),
            429: _refused("Too many requests; see Retry-After.", "temporarily_unavailable",
                          "too many requests"),
        },
    )  # fmt: skip
    async def get_token(request: Request) -> JSONResponse:
        """Ask by the form's fields, or by HTTP Basic; the token is sent as `Bearer`."""
        return await endpoint.answer(request)

    return made
