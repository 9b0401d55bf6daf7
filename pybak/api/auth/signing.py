"""Tokens of our own: signed with Ed25519 (RFC 8037) by a key in PYBAK_HOME, good for minutes."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pybak.api.private_files import FOLDER, exclusive, read_private, write_private
from pybak.errors import PlanError

ALGORITHM: Final = "EdDSA"


class SigningKey:
    """The service's private key. It is made when it is first needed."""

    def __init__(self, home: Path) -> None:
        """Read it. Raises PlanError if the file can't be used, or others can read it."""
        self.path = home / FOLDER / "signing-key.pem"
        with exclusive(self.path):
            data = read_private(self.path)
            if data is None:
                data = Ed25519PrivateKey.generate().private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
                write_private(self.path, data)
        try:
            key = serialization.load_pem_private_key(data, None)
        except (ValueError, TypeError) as error:
            raise PlanError(f"{self.path}: is no key; remove it, and a new one is made") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise PlanError(f"{self.path}: is no Ed25519 key; remove it, and a new one is made")
        self._key = key
        self.version = 0
        public = key.public_key().public_bytes_raw()
        self._kid = hashlib.sha256(public).hexdigest()[:16]
        self._jwk: Mapping[str, Any] = {
            "kty": "OKP", "crv": "Ed25519", "alg": ALGORITHM, "kid": self._kid,
            "x": base64.urlsafe_b64encode(public).rstrip(b"=").decode(),
        }  # fmt: skip

    async def find(self, kid: str | None) -> Mapping[str, Any] | None:
        """Give the public key, if it is called `kid`."""
        return self._jwk if kid in (None, self._kid) else None

    def token(
        self,
        client: str,
        scopes: Iterable[str],
        *,
        issuer: str,
        audience: str,
        now: float,
        seconds: float,
    ) -> str:
        """Make an access token (RFC 9068 §2) for a client; `now` is in seconds since 1970."""
        claims = {
            "iss": issuer, "aud": audience, "sub": client, "client_id": client,
            "scope": " ".join(scopes), "iat": int(now), "exp": int(now + seconds),
            "jti": secrets.token_urlsafe(16),
        }  # fmt: skip
        return jwt.encode(
            claims, self._key, algorithm=ALGORITHM, headers={"typ": "at+jwt", "kid": self._kid}
        )
