"""A real OpenID provider on loopback, oidc-provider from npm: it certifies itself, we don't.

It needs the component `oidc`; see `.ci/install-components`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
from components import find_component
from cryptography.hazmat.primitives.asymmetric import rsa
from servers import free_port, running, wait_until

SERVER = Path(__file__).with_name("oidc_server.mjs")
SCOPES = ("backup:read", "backup:write", "backup:restore")
AUDIENCE = "https://backup.example/api"


@dataclass(frozen=True)
class OpenIdProvider:
    """A running provider with two clients: `cli`, which may everything, and `ro`."""

    issuer: str
    audience: str = AUDIENCE

    def answer(self, client: str = "cli", **fields: str) -> httpx.Response:
        """Ask for a token as a client does, with its credentials."""
        form = {"grant_type": "client_credentials", **fields}
        return httpx.post(f"{self.issuer}/token", data=form, auth=(client, secret_of(client)))

    def token(self, client: str = "cli", **fields: str) -> str:
        """Give a client's access token."""
        given = self.answer(client, **fields)
        assert given.status_code == 200, given.text
        return str(given.json()["access_token"])


def secret_of(client: str) -> str:
    """Give a client's secret; providers want long ones."""
    return f"{client}-secret-{client}-secret-{client}-secret"


def private_jwk(kid: str) -> dict[str, Any]:
    """Make a key for a provider to sign with."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    algorithm: Any = jwt.get_algorithm_by_name("RS256")
    made: dict[str, Any] = algorithm.to_jwk(key, as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": kid, "use": "sig", "alg": "RS256"}


@contextmanager
def running_provider(
    folder: Path,
    *,
    keys: Sequence[Mapping[str, Any]],
    port: int | None = None,
    seconds: int = 600,
    clients: Sequence[Mapping[str, Any]] = (),
    interactive: bool = False,
) -> Iterator[OpenIdProvider]:
    """Run a provider that signs with the first of `keys`; its tokens last for `seconds`.

    With `interactive` people log in there, by whatever name. On the same `port` with other keys it
    is a provider that has rotated them.
    """
    import json

    programs = find_component("oidc")
    assert programs is not None
    port = port or free_port()
    own = [
        {
            "client_id": name, "client_secret": secret_of(name), "scope": scope,
            "grant_types": ["client_credentials"], "redirect_uris": [], "response_types": [],
        }
        for name, scope in (("cli", " ".join(SCOPES)), ("ro", "backup:read"))
    ]  # fmt: skip
    config = {
        "port": port, "audience": AUDIENCE, "scopes": list(SCOPES), "seconds": seconds,
        "jwks": {"keys": list(keys)}, "clients": [*own, *clients], "interactive": interactive,
    }  # fmt: skip
    issuer = f"http://127.0.0.1:{port}"
    module = (programs / "oidc-provider").resolve()
    with running(
        [programs / "node", SERVER, module, json.dumps(config)], folder / "oidc.log"
    ) as process:
        wait_until(
            lambda: httpx.get(f"{issuer}/.well-known/openid-configuration").raise_for_status(),
            [process], folder,
        )  # fmt: skip
        yield OpenIdProvider(issuer)
