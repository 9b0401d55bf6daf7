"""Login at an OpenID provider: authorization code (OpenID Connect Core §3.1) with PKCE (RFC 7636).

Who it is says the ID token, what they may do the access token, which is judged as the API judges
it. Both are verified here, and neither is kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

from pybak.api.auth.jwks import ProviderKeys, fetch_json, is_private
from pybak.api.auth.refusals import InvalidTokenError, ProviderError
from pybak.api.auth.scopes import Caller
from pybak.api.auth.tokens import ANY_TYPE, Issuer, claims_of
from pybak.display import escape

if TYPE_CHECKING:
    import httpx

    from pybak.api.auth.guard import Guard
    from pybak.api.settings import ApiSettings
    from pybak.dashboard.settings import DashboardSettings

_DISCOVERY: Final = "/.well-known/openid-configuration"
_TIMEOUT_SECONDS: Final = 10.0
_REFUSED: Final = 400
_MOST_NAME: Final = 100


class LoginError(Exception):
    """A login that did not work; the text is for people."""


class Provider:
    """An OpenID provider that people log in at."""

    def __init__(
        self,
        api: ApiSettings,
        settings: DashboardSettings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Take what both services know of it."""
        assert api.issuer is not None
        assert settings.client_id is not None
        self._issuer = api.issuer
        self._audience = api.audience
        self._client_id = settings.client_id
        self._secret = settings.client_secret
        self._scope = settings.scope
        self._transport = transport
        self._document: Mapping[str, Any] | None = None
        # An ID token is for the client, and has no type of its own.
        self._identity = Issuer(
            api.issuer, settings.client_id,
            ProviderKeys(api.issuer, jwks_url=api.jwks_url, transport=transport),
            api.algorithms, (ANY_TYPE,), leeway_seconds=api.leeway_seconds,
        )  # fmt: skip

    @property
    def host(self) -> str:
        """What people know it by."""
        return urlsplit(self._issuer).netloc

    async def begin(self, redirect_uri: str) -> tuple[str, dict[str, str]]:
        """Give where to send somebody, and what to remember meanwhile. Raises ProviderError."""
        document = await self._discover()
        facts = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
        digest = hashlib.sha256(facts["verifier"].encode()).digest()
        asked = {
            "response_type": "code", "client_id": self._client_id, "redirect_uri": redirect_uri,
            "scope": self._scope, "state": facts["state"], "nonce": facts["nonce"],
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }  # fmt: skip
        if urlsplit(self._audience).scheme:  # RFC 8707: an address names the resource
            asked["resource"] = self._audience
        endpoint = str(document["authorization_endpoint"])
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}", facts

    async def finish(
        self, query: Mapping[str, str], facts: Mapping[str, Any], redirect_uri: str, guard: Guard
    ) -> Caller:
        """Give who came back. Raises LoginError, ProviderError."""
        state = str(facts.get("state", ""))
        if not state or not hmac.compare_digest(state.encode(), query.get("state", "").encode()):
            raise LoginError("this answer belongs to no login that was begun here; try again")
        if query.get("iss", self._issuer) != self._issuer:  # RFC 9207
            raise LoginError("the answer is of another provider; try again")
        if "error" in query:
            said = query.get("error_description") or query["error"]
            raise LoginError(f"the provider says: {escape(said)[:200]}")
        tokens = await self._exchange(query.get("code", ""), str(facts["verifier"]), redirect_uri)
        try:
            claims = await claims_of(str(tokens.get("id_token", "")), self._identity)
        except InvalidTokenError as error:
            raise LoginError(f"the ID token can't be taken: {error.detail}") from error
        nonce = str(claims.get("nonce", "")).encode()
        if not hmac.compare_digest(nonce, str(facts["nonce"]).encode()):
            raise LoginError("the ID token belongs to another login; try again")
        if claims.get("azp", self._client_id) != self._client_id:
            raise LoginError("the ID token is for another client")
        try:
            allowed = await guard.judge(str(tokens.get("access_token", "")))
        except InvalidTokenError as error:
            raise LoginError(
                f"the access token can't be taken: {error.detail}; see docs/dashboard.md"
            ) from error
        return Caller(_name(claims), allowed.scopes)

    async def _discover(self) -> Mapping[str, Any]:
        if self._document is None:
            import httpx

            try:
                async with self._client() as client:
                    found = await fetch_json(client, self._issuer.rstrip("/") + _DISCOVERY)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError) as error:
                raise ProviderError(
                    f"{self._issuer}: can't be asked ({escape(str(error))})"
                ) from error
            if found.get("issuer") != self._issuer:
                raise ProviderError(f"{self._issuer}: calls itself {found.get('issuer')}")
            for name in ("authorization_endpoint", "token_endpoint"):
                if not is_private(str(found.get(name))):
                    raise ProviderError(f"{self._issuer}: names no {name} with https")
            self._document = found
        return self._document

    async def _exchange(self, code: str, verifier: str, redirect_uri: str) -> Mapping[str, Any]:
        import httpx

        document = await self._discover()
        form = {
            "grant_type": "authorization_code", "code": code, "code_verifier": verifier,
            "redirect_uri": redirect_uri,
        }  # fmt: skip
        if urlsplit(self._audience).scheme:
            form["resource"] = self._audience
        auth: Any = None
        methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if self._secret is None:
            form["client_id"] = self._client_id
        elif "client_secret_basic" in methods:  # RFC 6749 §2.3.1: both are encoded first
            auth = httpx.BasicAuth(
                quote_plus(self._client_id), quote_plus(self._secret.get_secret_value())
            )
        else:
            form["client_id"] = self._client_id
            form["client_secret"] = self._secret.get_secret_value()
        try:
            async with self._client() as client:
                answer = await client.post(str(document["token_endpoint"]), data=form, auth=auth)
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ProviderError(
                f"{self._issuer}: gives no tokens ({escape(str(error))})"
            ) from error
        if answer.status_code >= _REFUSED or not isinstance(found, dict):
            said = found.get("error") if isinstance(found, dict) else None
            raise LoginError(f"the provider gives no token: {escape(str(said or 'no reason'))}")
        return found

    def _client(self) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(
            timeout=_TIMEOUT_SECONDS, transport=self._transport, follow_redirects=False
        )


def _name(claims: Mapping[str, Any]) -> str:
    for claim in ("preferred_username", "email", "name", "sub"):
        if found := claims.get(claim):
            return escape(str(found))[:_MOST_NAME]
    return "?"
