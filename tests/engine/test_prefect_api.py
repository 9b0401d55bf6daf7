"""Asking a Prefect server by its REST API, without Prefect."""

from __future__ import annotations

import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect_double import URL, Double

from pybak import prefect_server
from pybak.doctor.server import check_answer
from pybak.logs.server import ServerLogs
from pybak.prefect_api import PAGE, ApiError, PrefectApi, moment


def test_all_rows_are_given_page_by_page() -> None:
    rows = list(range(2 * PAGE + 3))

    def page(body: dict[str, Any]) -> list[int]:
        return rows[body["offset"] : body["offset"] + body["limit"]]

    double = Double({"/flow_runs/filter": page})
    assert list(double.api().pages("/flow_runs/filter", {"sort": "ID_DESC"})) == rows
    assert [body["sort"] for _, _, body in double.asked] == ["ID_DESC"] * 3


@pytest.mark.parametrize(
    ("auth", "told"), [(None, "password is asked for"), ("a:b", "password is another one")]
)
def test_a_server_that_wants_another_password_is_told_apart(auth: str | None, told: str) -> None:
    double = Double({"/admin/version": httpx.Response(401, json={"exception_message": "no"})})
    with pytest.raises(ApiError, match=told) as raised:
        double.api(auth=auth).get("/admin/version")
    assert "PREFECT_API_AUTH_STRING" in str(raised.value)
    assert raised.value.status == 401


def test_the_password_goes_with_each_question_and_into_no_message() -> None:
    sent: list[str] = []

    def look(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["authorization"])
        return httpx.Response(500, text="no")

    with pytest.raises(ApiError) as raised:
        PrefectApi(URL, auth="me:s3cret", transport=httpx.MockTransport(look)).get("/x")
    assert sent == [httpx.BasicAuth("me", "s3cret")._auth_header]
    assert "s3cret" not in str(raised.value)


SECRET = "HUNTER2"


@pytest.mark.parametrize(
    "url", [f"http://me:{SECRET}@127.0.0.1:9/api", f"http://me:{SECRET}/x@127.0.0.1:9/api"]
)
def test_the_password_of_an_address_is_in_no_message(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ApiError) as raised:
        PrefectApi(url).get("/x")
    assert SECRET not in str(raised.value)
    for code in (200, 401, 404, 500):
        answers = httpx.MockTransport(lambda _, code=code: httpx.Response(code, text="<"))
        with pytest.raises(ApiError) as raised:
            PrefectApi(f"http://me:{SECRET}@h/api", transport=answers).get("/x")
        assert SECRET not in str(raised.value)
        assert "http://h/api" in str(raised.value)
    assert ServerLogs(PrefectApi(url)).where == "http://127.0.0.1:9/api"
    version = httpx.MockTransport(lambda _: httpx.Response(200, json="3.8.8"))
    (found,) = check_answer(PrefectApi(f"http://me:{SECRET}@h/api", transport=version), "3.8.8")
    assert found.text == "Prefect 3.8.8 answers at http://h/api"
    monkeypatch.setattr(prefect_server, "is_healthy", lambda _url: False)
    with pytest.raises(prefect_server.ServerError) as away:
        prefect_server.find_server({"PREFECT_API_URL": url}, "3.8.8")
    assert SECRET not in str(away.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"),
     (socket.AF_INET6, "::")],
)  # fmt: skip
def test_what_a_server_listens_at_is_known(family: int, address: str) -> None:
    try:
        listener = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip("no such addresses here")
    with listener:
        assert prefect_server.listening(listener.getsockname()[1]) == [address]


def test_a_server_that_is_away_is_one_line_with_what_to_do() -> None:
    with pytest.raises(ApiError, match="no Prefect server answers") as raised:
        PrefectApi("http://127.0.0.1:9/api").get("/health")
    assert "python deployments/start.py server" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_another_programs_page_is_no_prefect_server() -> None:
    double = Double({"/admin/version": httpx.Response(200, text="<html>")})
    with pytest.raises(ApiError, match="this is no Prefect server"):
        double.api().get("/admin/version")


def test_what_a_server_refuses_is_told_short_and_without_control_characters() -> None:
    double = Double({"/x": httpx.Response(422, json={"detail": "bad \x1b[2J" + "x" * 999})})
    with pytest.raises(ApiError) as raised:
        double.api().post("/x")
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_server_with_csrf_protection_is_asked_with_a_token() -> None:
    given: dict[str, str] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/csrf-token":
            given["client"] = request.url.params["client"]
            return httpx.Response(200, json={"token": "t", "expiration": "2026-11-21T10:00:00Z"})
        if request.headers.get("prefect-csrf-token") != "t":
            return httpx.Response(403, json={"detail": "Invalid CSRF token or client identifier."})
        assert request.headers["prefect-csrf-client"] == given["client"]
        return httpx.Response(200, json=[1])

    api = PrefectApi(URL, transport=httpx.MockTransport(answer))
    assert api.post("/flows/filter") == [1]
    assert api.post("/flows/filter") == [1]


def test_the_servers_clock_is_known_after_an_answer() -> None:
    double = Double({"/health": True}, date="Sat, 21 Nov 2026 10:15:00 GMT")
    api = double.api()
    api.get("/health")
    assert api.server_time == datetime(2026, 11, 21, 10, 15, tzinfo=UTC)


def test_times_without_a_zone_are_utc() -> None:
    expected = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
    assert moment("2026-11-21T10:15:00") == moment("2026-11-21T10:15:00Z") == expected
    assert moment(None) is None


def test_password_and_address_come_from_prefects_profile_too(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(
        'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://h:1/api/"\n'
        'PREFECT_API_AUTH_STRING = "me:pw"\n'
    )
    environ = {"PREFECT_HOME": str(tmp_path)}
    api = PrefectApi.from_environment(environ)
    assert api is not None
    assert (api.url, api.has_auth) == ("http://h:1/api", True)
    assert prefect_server.named_url(environ | {"PREFECT_API_URL": "http://x/api"}) == "http://x/api"


def test_certificates_that_can_not_be_read_are_told() -> None:
    environ = {"PREFECT_API_URL": "https://h/api", "PREFECT_API_SSL_CERT_FILE": "/no/such.pem"}
    with pytest.raises(ApiError, match="PREFECT_API_SSL_CERT_FILE"):
        PrefectApi.from_environment(environ)


def test_without_any_server_there_is_nothing_to_ask(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(prefect_server, "is_own_listener", lambda _port: False)
    assert PrefectApi.from_environment({"PREFECT_HOME": str(tmp_path)}) is None


def test_asking_needs_no_prefect() -> None:
    import subprocess

    code = (
        "import sys, pybak.prefect_api, pybak.doctor.examine, pybak.logs.server, "
        "pybak.logs.database, pybak.cli.doctor, pybak.cli.logs\n"
        "print([name for name in ('prefect', 'dask', 'httpx', 'sqlalchemy') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
