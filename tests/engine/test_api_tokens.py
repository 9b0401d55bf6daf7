"""Who is let in: bearer tokens of a provider, and what is said to all others."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from api_doubles import AUDIENCE, ISSUER, Key, Provider, Service, run, unsigned

from pybak.api.auth import jwks, tokens
from pybak.api.auth.judged import Judged
from pybak.api.auth.jwks import ProviderKeys
from pybak.api.auth.refusals import InvalidTokenError, ProviderError
from pybak.api.auth.scopes import Caller

READ = "backup:read"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


def refused(answer: httpx.Response, words: str) -> None:
    """Check a refusal of a token: status, challenge and body (RFC 6750 §3, RFC 9457)."""
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith('Bearer realm="pybak"')
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert words in answer.json()["detail"]


def test_a_good_token_is_let_in(service: Service) -> None:
    assert service.get("/logs", token=service.token(READ)).status_code == 200


def test_a_request_without_a_token_gets_a_challenge_that_names_no_error(service: Service) -> None:
    answer = service.get("/logs", token=None)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="pybak"'
    assert answer.json()["code"] == "unauthorized"


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer ", "bearer  x y", "x"])
def test_what_is_no_bearer_token_is_refused(service: Service, header: str) -> None:
    answer = service.get("/logs", token=None, headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": int(time.time()) - 60}, "expired"),
        ({"aud": "https://another.example"}, "another audience"),
        ({"aud": None}, "lacks the claim aud"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"exp": None}, "lacks the claim exp"),
        ({"iat": None}, "lacks the claim iat"),
        ({"nbf": int(time.time()) + 600}, "not valid"),
        ({"iat": int(time.time()) + 600}, "not valid"),
    ],
)
def test_a_token_whose_claims_are_not_for_here_is_refused(
    service: Service, claims: dict[str, Any], words: str
) -> None:
    refused(service.get("/logs", token=service.token(**claims)), words)


def test_an_unsigned_token_is_refused(service: Service) -> None:
    refused(service.get("/logs", token=unsigned()), "algorithm")


def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(service: Service) -> None:
    """The old trick: HS256, whose secret is the key that everybody knows (RFC 8725 §2.1)."""
    now = int(time.time())
    for secret in (service.key.pem, json.dumps(service.key.jwk).encode()):
        head = {"alg": "HS256", "typ": "at+jwt", "kid": "one"}
        said = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 300, "scope": READ}
        parts = [
            base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
            for part in (head, said)
        ]
        import hashlib
        import hmac

        mac = hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
        token = b".".join([*parts, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode()
        refused(service.get("/logs", token=token), "algorithm")


def test_an_id_token_is_no_access_token(service: Service) -> None:
    """RFC 9068 §4: the type keeps a login's token from being used here."""
    token = service.key.token(header={"typ": "JWT"})
    refused(service.get("/logs", token=token), "no access token")
    token = service.key.token(header={"typ": "application/at+JWT"})
    assert service.get("/logs", token=token).status_code == 200


def test_a_provider_that_has_no_such_type_can_be_taken_as_it_is(tmp_path: Path) -> None:
    service = Service(tmp_path, token_types=("any",))
    token = service.key.token(header={"typ": "JWT"})
    assert service.get("/logs", token=token).status_code == 200


def test_a_token_with_a_critical_header_is_refused(service: Service) -> None:
    token = service.key.token(header={"crit": ["exp"], "exp": 1})
    assert service.get("/logs", token=token).status_code == 401


def test_a_token_signed_by_another_key_of_the_same_name_is_refused(service: Service) -> None:
    refused(service.get("/logs", token=Key("one").token()), "signature")


def test_a_key_is_only_taken_for_its_own_algorithm(tmp_path: Path) -> None:
    """A key for RS256 does not check a signature of PS256, nor does one of another kind."""
    rsa, curve = Key("one"), Key("two", curve=True)
    service = Service(tmp_path, provider=Provider(rsa, curve), algorithms=("RS256", "PS256"))
    now = int(time.time())
    said = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 300, "scope": READ}
    token = jwt.encode(
        said, rsa.private, algorithm="PS256", headers={"typ": "at+jwt", "kid": "one"}
    )
    refused(service.get("/logs", token=token), "not that of its key")
    token = jwt.encode(
        said, rsa.private, algorithm="RS256", headers={"typ": "at+jwt", "kid": "two"}
    )
    refused(service.get("/logs", token=token), "not that of its key")
    refused(service.get("/logs", token=curve.token()), "algorithm")


@pytest.mark.parametrize(
    "token",
    ["x", "a.b", "a.b.c", "..", "eyJhbGciOiJSUzI1NiJ9..", "é.é.é", "a" * 20_000, "null.null.null"],
)
def test_what_is_no_token_at_all_is_refused(service: Service, token: str) -> None:
    answer = service.get(
        "/logs", token=None, headers=[(b"Authorization", b"Bearer " + token.encode())]
    )
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_two_tokens_in_one_request_are_refused(service: Service) -> None:
    good = ("Authorization", f"Bearer {service.token()}")

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/logs", headers=[good, good])

    assert run(send()).status_code == 401


def test_a_token_in_the_url_is_not_looked_at(service: Service) -> None:
    assert service.get(f"/logs?access_token={service.token()}", token=None).status_code == 401


def test_a_token_without_the_scope_is_told_which_one(service: Service) -> None:
    answer = service.get("/logs", token=service.token("backup:write other"))
    assert answer.status_code == 403
    assert answer.json()["code"] == "insufficient-scope"
    challenge = answer.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="backup:read"' in challenge


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/status", "backup:read"),
        ("GET", "/metrics", "backup:read"),
        ("GET", "/logs/stream", "backup:read"),
        ("GET", "/archives/1/members/x", "backup:restore"),
        ("POST", "/compress", "backup:write"),
        ("POST", "/verify", "backup:write"),
        ("POST", "/prune", "backup:write"),
        ("POST", "/restore", "backup:restore"),
        ("POST", "/runs/x/cancel", "backup:write"),
    ],
)
def test_every_route_asks_for_its_scope(
    service: Service, method: str, path: str, scope: str
) -> None:
    others = " ".join({"backup:read", "backup:write", "backup:restore"} - {scope})
    answer = service.ask(method, path, token=service.token(others), json={"job": "x", "to": "/x"})
    assert answer.status_code == 403, answer.text
    assert f'scope="{scope}"' in answer.headers["www-authenticate"]


def test_scopes_in_other_claims_and_under_other_names_count_as_the_settings_say(
    tmp_path: Path,
) -> None:
    """Entra ID has `scp`, or `roles` for programs, and no colons in names."""
    service = Service(
        tmp_path, scope_claims=("scp", "roles"), scope_names={"Backup.Read": "backup:read"}
    )
    for claims in ({"scp": "Backup.Read"}, {"roles": ["Backup.Read", 7]}):
        token = service.key.token(scope=None, **claims)
        assert service.get("/logs", token=token).status_code == 200
        assert service.post("/prune", token=token, json={"job": "x"}).status_code == 403
    assert service.get("/logs", token=service.key.token(scope="Backup.Read")).status_code == 403


def test_a_new_key_is_fetched_when_a_token_names_it(service: Service) -> None:
    assert service.get("/logs").status_code == 200
    fresh = Key("two")
    service.provider.keys = [fresh]
    _elapse(service, jwks.PAUSE_SECONDS)
    assert service.get("/logs", token=fresh.token()).status_code == 200
    refused(service.get("/logs"), "a key that its issuer does not have")


def test_inventing_names_of_keys_does_not_make_the_provider_busy(service: Service) -> None:
    for number in range(20):
        token = service.key.token(header={"kid": f"made-up-{number}"})
        refused(service.get("/logs", token=token), "a key that its issuer does not have")
    assert service.provider.asked.count("/realm/keys") == 1


def test_keys_are_kept_while_the_provider_is_down_but_not_for_ever(service: Service) -> None:
    assert service.get("/logs").status_code == 200
    service.provider.is_down = True
    _elapse(service, jwks.LIFE_SECONDS + 1)
    assert service.get("/logs").status_code == 200
    _elapse(service, jwks.STALE_SECONDS)
    answer = service.get("/logs")
    assert answer.status_code == 503
    assert answer.json()["code"] == "provider"
    assert "login.example" not in answer.text


def test_keys_that_move_are_found_again() -> None:
    now = [0.0]
    provider = Provider(Key("one"))
    keys = ProviderKeys(ISSUER, transport=provider, clock=lambda: now[0])
    provider.document = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/old/keys"}
    assert run(keys.find("one")) is not None
    provider.document = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/new/keys"}
    provider.gone = "/old/keys"
    for _ in range(2):  # where they were is looked at once more
        now[0] += jwks.LIFE_SECONDS
        assert run(keys.find("one")) is not None
    assert provider.asked[-1].endswith("/new/keys")


def test_a_provider_that_is_down_at_first_is_found_later(service: Service) -> None:
    service.provider.is_down = True
    assert service.get("/logs").status_code == 503
    service.provider.is_down = False
    assert service.get("/logs").status_code == 503  # it is not asked again at once
    _elapse(service, jwks.PAUSE_SECONDS)
    assert service.get("/logs").status_code == 200


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example", "jwks_uri": f"{ISSUER}/keys"},
        {"issuer": ISSUER, "jwks_uri": "http://evil.example/keys"},
        {"issuer": ISSUER},
        {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/nothing"},
    ],
)
def test_a_discovery_that_is_not_the_issuers_own_is_not_believed(
    document: dict[str, str],
) -> None:
    provider = Provider(Key("one"))
    provider.document = document
    keys = ProviderKeys(ISSUER, transport=provider)
    with pytest.raises(ProviderError):
        run(keys.find("one"))


def test_one_fetch_serves_all_who_ask_at_once() -> None:
    import asyncio

    provider = Provider(Key("one"))
    keys = ProviderKeys(ISSUER, transport=provider)

    async def ask() -> list[Any]:
        return list(await asyncio.gather(*(keys.find("one") for _ in range(20))))

    assert all(run(ask()))
    assert len(provider.asked) == 2


def test_the_only_key_serves_a_token_that_names_none() -> None:
    keys = ProviderKeys(ISSUER, transport=Provider(Key("one")))
    assert run(keys.find(None)) is not None
    keys = ProviderKeys(ISSUER, transport=Provider(Key("one"), Key("two")))
    assert run(keys.find(None)) is None


class TestTokensThatWereJudged:
    """A good token is not judged again for half a minute, and not a moment too long."""

    def test_a_token_that_comes_again_is_not_judged_again(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        judged = []

        async def judge(token: str, issuers: Any) -> Caller:
            judged.append(token)
            return await tokens.judge(token, issuers)

        monkeypatch.setattr("pybak.api.auth.judged.judge", judge)
        assert service.get("/logs").status_code == 200  # now the keys are known
        judged.clear()
        token, other = service.token(), service.token(READ)
        for one in (token, token, other, token):
            assert service.get("/logs", token=one).status_code == 200
        assert judged == [token, other]
        assert service.post("/prune", token=other, json={"job": "x"}).status_code == 403

    def test_it_expires_all_the_same(self) -> None:
        at = [1000.0]
        key = Key("one")
        issuer = tokens.Issuer(
            ISSUER, AUDIENCE, ProviderKeys(ISSUER, transport=Provider(key)), leeway_seconds=0
        )
        judged = Judged([issuer], now=lambda: at[0])
        token = key.token(exp=int(time.time()) + 2)
        at[0] = time.time()
        assert run(judged.caller(token)).name == "ann (cli)"
        assert run(judged.caller(token)).name == "ann (cli)"
        time.sleep(2.1)
        at[0] = time.time()
        with pytest.raises(InvalidTokenError, match="expired"):
            run(judged.caller(token))

    def test_a_key_that_was_taken_back_opens_nothing_any_more(self, service: Service) -> None:
        token = service.token()
        assert service.get("/logs", token=token).status_code == 200
        fresh = Key("two")
        service.provider.keys = [fresh]
        _elapse(service, jwks.PAUSE_SECONDS)
        assert service.get("/logs", token=fresh.token()).status_code == 200
        refused(service.get("/logs", token=token), "a key that its issuer does not have")

    def test_bad_ones_are_judged_each_time(self, service: Service) -> None:
        token = service.token(aud="other")
        for _ in range(2):
            refused(service.get("/logs", token=token), "another audience")


def _elapse(service: Service, seconds: float) -> None:
    keys: Any = service.app.state.context.guard._issuers[0].keys
    at = keys._clock() + seconds
    keys._clock = lambda: at
