"""Judge bearer tokens: JWTs as access tokens (RFC 9068), signed by keys that others publish.

Only asymmetric algorithms of a list are taken, so that neither `none` nor a public key used as a
secret gets through (RFC 8725 §3.1); the key must be one of the algorithm's kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

import jwt

from pybak.api.auth.refusals import InvalidTokenError
from pybak.api.auth.scopes import Caller, granted

ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""All that may be allowed: none of them has a shared secret."""
ANY_TYPE: Final = "any"
_KEY_TYPES: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_MOST_CHARACTERS: Final = 16 << 10
_MALFORMED: Final = "this is no JSON Web Token"


class Keys(Protocol):
    """Where public keys come from; `version` grows when there may be other ones."""

    version: int

    async def find(self, kid: str | None) -> Mapping[str, Any] | None:
        """Give the key with this name as a JWK; None if there is none."""


@dataclass(frozen=True)
class Issuer:
    """Whose tokens are taken, and what they must say. `leeway_seconds` is for clocks that differ.

    `types` are the values of the header `typ` that are taken; ANY_TYPE among them takes all.
    """

    name: str
    audience: str
    keys: Keys
    algorithms: tuple[str, ...] = ("RS256",)
    types: tuple[str, ...] = ("at+jwt",)
    scope_claims: tuple[str, ...] = ("scope", "scp")
    renamed: Mapping[str, str] | None = None
    leeway_seconds: float = 30.0


async def judge(token: str, issuers: Sequence[Issuer]) -> Caller:
    """Give whose token this is and what it allows.

    Raises InvalidTokenError for one that is not good here, ProviderError when that can't be told.
    """
    if len(token) > _MOST_CHARACTERS:
        raise InvalidTokenError("the token is too long")
    try:
        header = jwt.get_unverified_header(token)
        said = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise InvalidTokenError(_MALFORMED) from None
    issuer = next((one for one in issuers if one.name == said), None)
    if issuer is None:
        raise InvalidTokenError("the token is of another issuer")
    claims = await _verified(token, header, issuer)
    client = next((str(claims[key]) for key in ("client_id", "azp") if claims.get(key)), "")
    who = str(claims.get("sub") or client or "?")
    return Caller(
        name=f"{who} ({client})" if client not in ("", who) else who,
        scopes=granted(claims, issuer.scope_claims, issuer.renamed or {}),
        expires_at=float(claims["exp"]),
        ident="\0".join((issuer.name, client, who)),
    )


async def claims_of(token: str, issuer: Issuer) -> dict[str, Any]:
    """Give the claims of any good token of an issuer, such as an ID token. Raises as `judge`."""
    if len(token) > _MOST_CHARACTERS:
        raise InvalidTokenError("the token is too long")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise InvalidTokenError(_MALFORMED) from None
    return await _verified(token, header, issuer)


async def _verified(token: str, header: Mapping[str, Any], issuer: Issuer) -> dict[str, Any]:
    algorithm = header.get("alg")
    if algorithm not in issuer.algorithms or algorithm not in ALGORITHMS:
        raise InvalidTokenError("the token is signed by an algorithm that is not taken here")
    if "crit" in header:  # RFC 7515 §4.1.11: what is not understood must be refused
        raise InvalidTokenError("the token has a critical header that is not known here")
    if not _is_of_type(header.get("typ"), issuer.types):
        raise InvalidTokenError("the token is no access token (its typ is not at+jwt)")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise InvalidTokenError(_MALFORMED)
    found = await issuer.keys.find(kid)
    if found is None:
        raise InvalidTokenError("the token is signed by a key that its issuer does not have")
    if found.get("kty") != _KEY_TYPES[algorithm[:2]] or found.get("alg", algorithm) != algorithm:
        raise InvalidTokenError("the token's algorithm is not that of its key")
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            _key(json.dumps(dict(found)), algorithm),
            algorithms=[algorithm],
            audience=issuer.audience,
            issuer=issuer.name,
            leeway=issuer.leeway_seconds,
            options={"require": ["exp", "iat", "aud", "iss"]},
        )
    except jwt.ExpiredSignatureError:
        raise InvalidTokenError("the token has expired") from None
    except jwt.InvalidAudienceError:
        raise InvalidTokenError("the token is for another audience") from None
    except jwt.MissingRequiredClaimError as error:
        raise InvalidTokenError(f"the token lacks the claim {error.claim}") from None
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        raise InvalidTokenError("the token's signature or its claims are not valid") from None
    return claims


@lru_cache(maxsize=64)
def _key(text: str, algorithm: str) -> jwt.PyJWK:
    """Read a key; that takes as long as checking a signature."""
    return jwt.PyJWK(json.loads(text), algorithm)


def _is_of_type(given: object, taken: Sequence[str]) -> bool:
    if ANY_TYPE in taken:
        return True
    # RFC 7515 §4.1.9: a media type, whose "application/" may be left out.
    return isinstance(given, str) and given.lower().removeprefix("application/") in taken
