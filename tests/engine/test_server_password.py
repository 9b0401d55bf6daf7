"""A Prefect server that asks for a password is told apart from one that is away."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from refusing import refusing

from pybak import prefect_server
from pybak.prefect_refusals import refused
from pybak.prefect_server import PasswordError, find_server, standing_server

PASSWORD = base64.b64encode(b"me:s3cret").decode()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with refusing(500, password=PASSWORD, version="9") as url:
        yield url


@pytest.mark.parametrize(
    ("auth", "told"),
    [(None, "password is asked for"), ("me:wr0ng", "password is another one")],
)
def test_a_named_server_that_wants_a_password_says_how_to_give_it(
    url: str, auth: str | None, told: str
) -> None:
    environ = {"PREFECT_API_URL": url, "PREFECT_HOME": "/nowhere"}
    if auth:
        environ["PREFECT_API_AUTH_STRING"] = auth
    with pytest.raises(PasswordError, match=told) as raised:
        find_server(environ, "9")
    assert "set -a; . ~/.config/pybak/secrets.env; set +a" in str(raised.value)
    assert "wr0ng" not in str(raised.value)


def test_with_the_password_it_is_used(url: str) -> None:
    environ = {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": "me:s3cret"}
    assert find_server(environ, "1") == url
    assert standing_server(environ, "1") == url


def test_one_at_the_default_address_is_told_to_who_can_start_none(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command goes on with a server of its own."""
    monkeypatch.setattr(prefect_server, "DEFAULT_URL", url)
    monkeypatch.setattr(prefect_server, "is_own_listener", lambda _port: True)
    environ = {"PREFECT_HOME": "/nowhere"}
    assert find_server(environ, "9") is None
    with pytest.raises(PasswordError, match="password is asked for"):
        standing_server(environ, "9")
    environ["PREFECT_API_AUTH_STRING"] = "me:s3cret"
    assert standing_server(environ, "9") == url


def test_only_a_failure_that_reads_blocks_speaks_of_their_key() -> None:
    path = "/block_types/slug/secret/block_documents/name/x"
    assert "PREFECT_SERVER_ENCRYPTION_KEY" in refused("http://h/api", path, 500, has_auth=False)
    assert refused("http://h/api", "/flows/filter", 500, has_auth=False, detail="no") == (
        "http://h/api/flows/filter: the server answers 500: no"
    )
    assert "KEY" not in refused("http://h/api", path, 503, has_auth=False)
