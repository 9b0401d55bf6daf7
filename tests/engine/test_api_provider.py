"""Tokens of a real OpenID provider: what it gives, and what others make of it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from api_doubles import Service
from oidc import AUDIENCE, OpenIdProvider, private_jwk, running_provider, secret_of

from pybak.api.auth import jwks

pytestmark = pytest.mark.needs_component("oidc")
KEY = private_jwk("first")


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenIdProvider]:
    with running_provider(tmp_path_factory.mktemp("oidc"), keys=[KEY]) as made:
        yield made


def service_for(provider: OpenIdProvider, home: Path, **settings: Any) -> Service:
    """Give a service that asks the provider itself for its keys."""
    transport: Any = httpx.AsyncHTTPTransport()
    return Service(
        home, provider=transport, issuer=provider.issuer, leeway_seconds=0,
        **{"audience": provider.audience, **settings},
    )  # fmt: skip


@pytest.fixture
def service(provider: OpenIdProvider, tmp_path: Path) -> Service:
    return service_for(provider, tmp_path)


def refused(answer: httpx.Response, words: str) -> None:
    assert answer.status_code == 401, answer.text
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert words in answer.json()["detail"]


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_its_tokens_open_what_their_scopes_allow(
    provider: OpenIdProvider, service: Service
) -> None:
    token = provider.token(scope="backup:read backup:write")
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    assert service.get("/logs", token=token).status_code == 200
    assert service.post("/compress", token=token, json={"job": "x"}).status_code == 202
    answer = service.post("/restore", token=token, json={"job": "x", "to": "/x"})
    assert answer.status_code == 403
    assert 'scope="backup:restore"' in answer.headers["www-authenticate"]


def test_a_client_that_may_only_read_gets_no_more(
    provider: OpenIdProvider, service: Service
) -> None:
    assert provider.answer("ro", scope="backup:write").status_code == 400
    token = provider.token("ro", scope="backup:read")
    assert service.get("/logs", token=token).status_code == 200
    assert service.post("/prune", token=token, json={"job": "x"}).status_code == 403
    bare = provider.token("ro")
    assert service.get("/logs", token=bare).status_code == 403


def test_wrong_credentials_get_none(provider: OpenIdProvider) -> None:
    answer = httpx.post(
        f"{provider.issuer}/token", data={"grant_type": "client_credentials"},
        auth=("cli", secret_of("ro")),
    )  # fmt: skip
    assert answer.status_code == 401


def test_an_expired_one_is_refused(tmp_path: Path) -> None:
    with running_provider(tmp_path, keys=[KEY], seconds=1) as provider:
        service = service_for(provider, tmp_path)
        token = provider.token(scope="backup:read")
        time.sleep(2.1)
        refused(service.get("/logs", token=token), "expired")


def test_one_for_another_audience_is_refused(
    provider: OpenIdProvider, service: Service, tmp_path: Path
) -> None:
    token = provider.token(scope="backup:read", resource="https://other.example/api")
    refused(service.get("/logs", token=token), "another audience")
    other = service_for(provider, tmp_path, audience="https://other.example/api")
    assert other.get("/logs", token=token).status_code == 200


def test_one_of_another_issuer_is_refused_even_with_the_same_key(
    service: Service, tmp_path: Path
) -> None:
    with running_provider(tmp_path, keys=[KEY]) as other:
        refused(service.get("/logs", token=other.token(scope="backup:read")), "another issuer")


def test_one_without_a_signature_or_with_the_public_key_as_its_secret_is_refused(
    provider: OpenIdProvider, service: Service
) -> None:
    header, claims, _ = provider.token(scope="backup:read").split(".")
    for algorithm in ("none", "None", ""):
        bare = f"{_part({'alg': algorithm, 'typ': 'at+jwt'})}.{claims}."
        refused(service.get("/logs", token=bare), "algorithm")
    [public] = httpx.get(f"{provider.issuer}/jwks").json()["keys"]
    pem = jwt.PyJWK(public).key.public_bytes
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    for secret in (
        pem(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        pem(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(public).encode(),
    ):
        signed = f"{_part({'alg': 'HS256', 'typ': 'at+jwt', 'kid': public['kid']})}.{claims}"
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        forged = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        refused(service.get("/logs", token=forged), "algorithm")
    refused(service.get("/logs", token=f"{header}.{claims}.AAAA"), "signature")


def test_claims_that_were_changed_are_refused(provider: OpenIdProvider, service: Service) -> None:
    token = provider.token("ro", scope="backup:read")
    header, _, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    claims["scope"] = "backup:read backup:write backup:restore"
    refused(service.get("/logs", token=f"{header}.{_part(claims)}.{signature}"), "signature")


def test_keys_that_are_rotated_are_found_and_old_ones_forgotten(tmp_path: Path) -> None:
    second = private_jwk("second")
    with running_provider(tmp_path, keys=[KEY]) as provider:
        port = int(provider.issuer.rpartition(":")[2])
        service = service_for(provider, tmp_path)
        old = provider.token(scope="backup:read")
        assert service.get("/logs", token=old).status_code == 200
    with running_provider(tmp_path, keys=[second], port=port) as provider:
        fresh = provider.token(scope="backup:read")
        assert jwt.get_unverified_header(fresh)["kid"] == "second"
        # Asked again only after a pause, so that made-up keys don't keep the provider busy.
        refused(service.get("/logs", token=fresh), "a key that its issuer does not have")
        keys: Any = service.app.state.context.guard._issuers[0].keys
        at = time.monotonic() + jwks.PAUSE_SECONDS
        keys._clock = lambda: at
        assert service.get("/logs", token=fresh).status_code == 200
        refused(service.get("/logs", token=old), "a key that its issuer does not have")


def test_a_replayed_request_starts_nothing_new(provider: OpenIdProvider, service: Service) -> None:
    headers = {"Idempotency-Key": "once"}
    runs = {
        service.post(
            "/compress", token=provider.token(scope="backup:write"), json={"job": "x"},
            headers=headers,
        ).json()["flow_run_id"]
        for _ in range(3)
    }  # fmt: skip
    assert len(runs) == 1
    assert provider.audience == AUDIENCE
