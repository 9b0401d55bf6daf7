"""The built-in token endpoint, its clients and its key."""

from __future__ import annotations

import base64
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from api_doubles import Service

from pybak.api.auth.clients import Client, Clients
from pybak.api.auth.signing import SigningKey
from pybak.api.limits import RateLimit, network_of
from pybak.errors import NotFoundError, PlanError

NOW = datetime(2026, 11, 21, tzinfo=UTC)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def made(home: Path, **settings: Any) -> tuple[Service, str]:
    """Give a service with a client `nightly` that may read and write, and its secret."""
    secret = Clients(home).add("nightly", ["backup:read", "backup:write"], now=NOW)
    given = {"issuer": None, "token_endpoint": True, "token_requests_a_minute": 0, **settings}
    return Service(home, **given), secret


def ask(service: Service, secret: str, **fields: str | None) -> httpx.Response:
    form = {
        "grant_type": "client_credentials", "client_id": "nightly", "client_secret": secret,
        **fields,
    }  # fmt: skip
    return service.post("/oauth/token", token=None, data={k: v for k, v in form.items() if v})


def test_a_client_gets_a_token_that_opens_what_it_may(tmp_path: Path) -> None:
    service, secret = made(tmp_path)
    answer = ask(service, secret)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    given = answer.json()
    assert given["token_type"] == "Bearer"
    assert given["expires_in"] == 600
    assert given["scope"] == "backup:read backup:write"
    header = jwt.get_unverified_header(given["access_token"])
    assert (header["typ"], header["alg"]) == ("at+jwt", "EdDSA")
    claims = jwt.decode(given["access_token"], options={"verify_signature": False})
    assert {"iss", "aud", "sub", "client_id", "exp", "iat", "jti", "scope"} <= claims.keys()
    assert service.get("/logs", token=given["access_token"]).status_code == 200
    denied = service.post("/restore", token=given["access_token"], json={"job": "x", "to": "/x"})
    assert denied.status_code == 403


def test_a_client_can_ask_for_less_than_it_may(tmp_path: Path) -> None:
    service, secret = made(tmp_path)
    answer = ask(service, secret, scope="backup:read").json()
    assert answer["scope"] == "backup:read"
    token = answer["access_token"]
    assert service.post("/prune", token=token, json={"job": "x"}).status_code == 403
    more = ask(service, secret, scope="backup:read backup:restore")
    assert (more.status_code, more.json()["error"]) == (400, "invalid_scope")


def test_name_and_secret_may_come_by_http_basic(tmp_path: Path) -> None:
    service, secret = made(tmp_path)
    basic = base64.b64encode(f"nightly:{secret}".encode()).decode()
    form = {"grant_type": "client_credentials"}
    answer = service.post(
        "/oauth/token", token=None, data=form, headers={"Authorization": f"Basic {basic}"}
    )
    assert answer.status_code == 200
    twice = service.post(
        "/oauth/token", token=None, data={**form, "client_id": "x", "client_secret": "y"},
        headers={"Authorization": f"Basic {basic}"},
    )  # fmt: skip
    assert (twice.status_code, twice.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "fields",
    [
        {"client_secret": "wrong"},
        {"client_secret": None},
        {"client_id": "nobody"},
        {"client_id": None},
        {"client_secret": "x" * 100_000},
        {"client_id": "\u00e9\x00"},
    ],
)
def test_wrong_credentials_get_one_answer_that_tells_nothing(
    tmp_path: Path, fields: dict[str, str | None]
) -> None:
    service, secret = made(tmp_path)
    answer = ask(service, secret, **fields)
    assert answer.status_code == 401
    assert answer.json() == {
        "error": "invalid_client",
        "error_description": "no client has this name and secret",
    }
    assert answer.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!", "Basic YWJj", "Bearer x", "Basic w6k6/w=="]
)
def test_credentials_that_cant_be_read_are_refused(tmp_path: Path, header: str) -> None:
    service, _ = made(tmp_path)
    answer = service.post(
        "/oauth/token", token=None, data={"grant_type": "client_credentials"},
        headers={"Authorization": header},
    )  # fmt: skip
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("body", "kind", "error"),
    [
        (b"grant_type=password", FORM, "unsupported_grant_type"),
        (b"", FORM, "invalid_request"),
        (b"grant_type=client_credentials&grant_type=client_credentials", FORM, "invalid_request"),
        (b"%ff=%ff", FORM, "invalid_request"),
        (b"&".join(b"a%d=1" % n for n in range(100)), FORM, "invalid_request"),
        (b"{}", {"Content-Type": "application/json"}, "invalid_request"),
    ],
)
def test_a_request_that_is_none_is_told_what_is_wrong(
    tmp_path: Path, body: bytes, kind: dict[str, str], error: str
) -> None:
    service, _ = made(tmp_path)
    answer = service.post("/oauth/token", token=None, content=body, headers=kind)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_guessing_is_slowed_down_by_address(tmp_path: Path) -> None:
    service, secret = made(tmp_path, token_requests_a_minute=5)
    answers = [ask(service, "wrong").status_code for _ in range(6)]
    assert answers == [401] * 5 + [429]
    late = ask(service, secret)
    assert late.status_code == 429
    assert int(late.headers["retry-after"]) > 0
    assert ask(service, secret, client_id="other").status_code == 429  # the same address


def test_strangers_use_up_nobodys_share_but_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pybak.api.auth import endpoint

    service, secret = made(tmp_path, token_requests_a_minute=3)
    for number in range(9):
        monkeypatch.setattr(endpoint, "network_of", lambda _, number=number: f"192.0.2.{number}")
        assert ask(service, "wrong").status_code == 401
    monkeypatch.undo()
    assert [ask(service, secret).status_code for _ in range(3)] == [200] * 3
    assert ask(service, "x", client_id="a\nb").status_code == 429
    told = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(told) == 9
    assert told[0].startswith("no token for nightly")
    assert "wrong" not in told[0].replace("wrong name", "")


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"), ("?", "?"),
    ],
)  # fmt: skip
def test_one_household_of_ipv6_is_one_sender(address: str, counted: str) -> None:
    assert network_of(address) == counted


def test_the_endpoint_is_off_unless_it_is_switched_on(tmp_path: Path) -> None:
    Clients(tmp_path).add("nightly", ["backup:read"], now=NOW)
    service = Service(tmp_path)
    assert ask(service, "x").status_code == 404
    assert not (tmp_path / "api" / "signing-key.pem").exists()


def test_a_token_of_another_services_key_is_refused(tmp_path: Path) -> None:
    service, _ = made(tmp_path / "one")
    foreign = SigningKey(tmp_path / "two").token(
        "x", ["backup:read"], issuer=service.app.state.context.settings.own_issuer,
        audience="https://backup.example/api", now=NOW.timestamp(), seconds=1e9,
    )  # fmt: skip
    assert service.get("/logs", token=foreign).status_code == 401


def test_tokens_outlive_a_restart_and_expire_to_the_second(tmp_path: Path) -> None:
    service, secret = made(tmp_path, token_seconds=10)
    token = ask(service, secret).json()["access_token"]
    again, _ = Service(tmp_path, issuer=None, token_endpoint=True), secret
    assert again.get("/logs", token=token).status_code == 200
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 10
    old = SigningKey(tmp_path).token(
        "nightly", ["backup:read"], issuer=claims["iss"], audience=claims["aud"],
        now=claims["iat"] - 11, seconds=10,
    )  # fmt: skip
    answer = again.get("/logs", token=old)
    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]


def test_tokens_of_a_provider_and_of_the_endpoint_are_good_side_by_side(tmp_path: Path) -> None:
    service, secret = made(tmp_path, issuer="https://login.example/realm")
    own = ask(service, secret).json()["access_token"]
    assert service.get("/logs", token=own).status_code == 200
    assert service.get("/logs").status_code == 200


def test_secrets_are_kept_as_hashes_in_files_that_only_the_owner_reads(tmp_path: Path) -> None:
    _, secret = made(tmp_path)
    folder = tmp_path / "api"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("clients.json", "signing-key.pem"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert secret not in (folder / "clients.json").read_text()
    assert len(secret) >= 43  # 256 bits


def test_a_digest_takes_16_mib_to_make() -> None:
    made = Client(name="a", scopes=(), created_at=NOW, salt="", digest="")
    assert 128 * made.n * made.r * made.p == 16 << 20


def test_files_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "api" / "clients.json").chmod(0o644)
    with pytest.raises(PlanError, match="others can read it"):
        Clients(tmp_path).all()
    (tmp_path / "api" / "signing-key.pem").chmod(0o640)
    with pytest.raises(PlanError, match="others can read it"):
        SigningKey(tmp_path)


def test_clients_that_are_added_or_removed_count_at_once(tmp_path: Path) -> None:
    service, secret = made(tmp_path)
    other = Clients(tmp_path).add("other", ["backup:restore"], now=NOW)
    assert ask(service, other, client_id="other").json()["scope"] == "backup:restore"
    Clients(tmp_path).remove("nightly")
    assert ask(service, secret).status_code == 401
    with pytest.raises(NotFoundError):
        Clients(tmp_path).remove("nightly")


@pytest.mark.parametrize(
    ("name", "scopes", "words"),
    [
        ("nightly", ["backup:read"], "there is such a client"),
        ("a b", ["backup:read"], "is no name"),
        ("", ["backup:read"], "is no name"),
        ("x" * 65, ["backup:read"], "is no name"),
        ("new", ["backup:everything"], "is no scope"),
        ("new", [], "name scopes"),
    ],
)
def test_a_client_that_cant_be_made_says_why(
    tmp_path: Path, name: str, scopes: list[str], words: str
) -> None:
    clients = Clients(tmp_path)
    clients.add("nightly", ["backup:read"], now=NOW)
    with pytest.raises(PlanError, match=words):
        clients.add(name, scopes, now=NOW)
    assert [client.name for client in Clients(tmp_path).all()] == ["nightly"]


def test_a_rate_limit_gives_back_with_time_and_keeps_names_apart() -> None:
    now = [0.0]
    limit = RateLimit(2, clock=lambda: now[0])
    assert [limit.take("a"), limit.take("a")] == [0, 0]
    assert limit.take("a") == 30
    assert limit.take("b") == 0
    now[0] = 31
    assert limit.take("a") == 0
    assert limit.take("a") > 0
    assert all(RateLimit(0).take("a") == 0 for _ in range(100))


def test_a_rate_limit_remembers_a_bounded_number_of_names() -> None:
    limit = RateLimit(1)
    for number in range(20_000):
        limit.take(str(number))
    assert len(limit._left) <= 10_000
