"""A provider's public keys (RFC 7517): found by discovery, cached, and fetched anew in time.

A key that is not known makes one fetch, at most every few seconds, so that nobody can have the
provider asked again and again by inventing names of keys. Keys that were good go on being good for
a while when the provider can't be reached.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pybak.api.auth.refusals import ProviderError
from pybak.display import escape

if TYPE_CHECKING:
    import httpx

LIFE_SECONDS: Final = 300.0
STALE_SECONDS: Final = 3600.0
PAUSE_SECONDS: Final = 10.0
_TIMEOUT_SECONDS: Final = 5.0
_MOST_BYTES: Final = 256 << 10
_DISCOVERY: Final = "/.well-known/openid-configuration"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

Jwk = Mapping[str, Any]


class ProviderKeys:
    """The keys of one issuer. Safe to be asked by many requests at once; one fetches for all."""

    def __init__(
        self,
        issuer: str,
        *,
        jwks_url: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Take the issuer as its tokens name it; `jwks_url` saves the discovery."""
        self._issuer = issuer
        self._named_url = jwks_url
        self._found_url: str | None = None
        self._clock = clock
        self._transport = transport
        self._keys: tuple[Jwk, ...] = ()
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._trouble = ""
        self._lock = asyncio.Lock()
        self.version = 0

    async def find(self, kid: str | None) -> Jwk | None:
        """Give the key called `kid`, or the only one there is if it is None; None for none.

        Raises ProviderError when no keys can be had.
        """
        if self._age() >= LIFE_SECONDS:
            await self._refresh(lambda: self._age() >= LIFE_SECONDS)
        found = self._among(kid)
        if found is None and self._may_try():
            before = self._fetched_at
            await self._refresh(lambda: self._fetched_at == before)
            found = self._among(kid)
        return found

    def _among(self, kid: str | None) -> Jwk | None:
        named = [key for key in self._keys if kid is None or key.get("kid") == kid]
        return named[0] if len(named) == 1 else None

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock() - self._fetched_at

    def _may_try(self) -> bool:
        return self._tried_at is None or self._clock() - self._tried_at >= PAUSE_SECONDS

    async def _refresh(self, is_due: Callable[[], bool]) -> None:
        async with self._lock:
            if is_due() and self._may_try():
                self._tried_at = self._clock()
                try:
                    keys = await self._fetch()
                    if keys != self._keys:
                        self._keys = keys
                        self.version += 1
                    self._fetched_at, self._trouble = self._clock(), ""
                except ProviderError as error:
                    self._trouble = str(error)
        if self._age() >= STALE_SECONDS:
            self._keys = ()
            raise ProviderError(self._trouble or f"{self._issuer}: its keys can't be had now")

    async def _fetch(self) -> tuple[Jwk, ...]:
        import httpx

        try:
            async with httpx.AsyncClient(
                timeout=_TIMEOUT_SECONDS, transport=self._transport, follow_redirects=False
            ) as client:
                url = self._named_url or self._found_url or await self._discover(client)
                self._found_url = None  # what does not work is looked for again
                keys = (await fetch_json(client, url)).get("keys")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError) as error:
            what = escape(str(error)) or type(error).__name__
            raise ProviderError(f"{self._issuer}: its keys can't be had ({what})") from error
        if not isinstance(keys, list):
            raise ProviderError(f"{url}: this is no set of keys (RFC 7517)")
        self._found_url = url
        return tuple(
            key for key in keys if isinstance(key, dict) and key.get("use", "sig") == "sig"
        )

    async def _discover(self, client: httpx.AsyncClient) -> str:
        document = await fetch_json(client, self._issuer.rstrip("/") + _DISCOVERY)
        if document.get("issuer") != self._issuer:
            raise ValueError(f"it calls itself {document.get('issuer')}")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or not is_private(url):
            raise ValueError("its discovery names no jwks_uri with https")
        return url


def is_private(url: str) -> bool:
    """Whether what comes from an address can't be changed on its way: TLS, or this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


async def fetch_json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """Fetch a small JSON object. Raises httpx.HTTPError or ValueError."""
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
        answer.raise_for_status()
        body = b""
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise ValueError(f"{url} is longer than {_MOST_BYTES} bytes")
    document = json.loads(body)
    if not isinstance(document, dict):
        raise TypeError(f"{url} is no JSON object")
    return document
