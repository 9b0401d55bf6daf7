"""The dashboard's login without a browser: what strangers send, and how often they may."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_doubles import run
from dashboards import SCOPES, Dashboard, application

from pybak.api.auth.clients import Clients
from pybak.api.settings import ApiSettings
from pybak.dashboard.login import safe_next

ADDRESS = "http://127.0.0.1:8000"
OWN = {"Origin": ADDRESS}


class Site:
    """A dashboard in the same process, for clients of any address."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.made = Dashboard(ADDRESS)
        self.made.secrets["ann"] = Clients(home).add("ann", SCOPES, now=datetime.now(UTC))
        api = ApiSettings(token_endpoint=True, **settings)
        self.app = application(self.made, api, home, f"sqlite:///{home}/catalog.db")

    def ask(
        self, *asked: tuple[str, str, Mapping[str, Any]], address: str = "192.0.2.1"
    ) -> list[httpx.Response]:
        """Send requests, each a method, a path and more, one after the other."""

        async def send() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url=ADDRESS) as one:
                return [
                    await one.request(method, f"/dashboard{path}", **more)
                    for method, path, more in asked
                ]

        return run(send())

    def log_in(self, secret: str = "", *, times: int = 1, address: str = "192.0.2.1") -> list[int]:
        """Give the statuses of logins as ann, by default with the right secret."""
        form = {"client": "ann", "secret": secret or self.made.secrets["ann"]}
        one = ("POST", "/login/client", {"headers": OWN, "data": form})
        return [answer.status_code for answer in self.ask(*[one] * times, address=address)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, token_requests_a_minute=3)


@pytest.mark.parametrize("wanted", ["//[", "http://[", "//]", "https://evil.example/dashboard/"])
def test_an_address_that_leads_nowhere_leads_to_the_start(wanted: str) -> None:
    assert safe_next(wanted) == "/dashboard/"


def test_what_strangers_send_is_no_fault_of_ours(site: Site) -> None:
    fields = {f"field-{number}": "x" for number in range(11)}
    [shown, page, foreign, foreign_host, many] = site.ask(
        ("GET", "/login?next=//[", {}),
        ("GET", "/", {"headers": {"Host": "[", "Accept": "text/html"}}),
        ("POST", "/logout", {"headers": {"Origin": "http://["}}),
        ("POST", "/logout", {"headers": {"Origin": "http://[", "Host": "["}}),
        ("POST", "/login/client", {"headers": OWN, "data": fields}),
    )
    assert shown.status_code == 200
    assert 'value="/dashboard/"' in shown.text
    assert page.status_code == 303
    assert foreign.status_code == foreign_host.status_code == 403
    assert many.status_code == 400
    assert "Log in" in many.text


@pytest.mark.parametrize("path", ["/dashboard/login/client", "/oauth/token"])
def test_who_goes_away_in_the_middle_of_a_body_is_no_fault_of_ours(site: Site, path: str) -> None:
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "",
        "client": ("192.0.2.1", 1), "server": ("x", 1), "asgi": {"spec_version": "2.3"},
        "headers": [
            (b"origin", ADDRESS.encode()), (b"host", b"127.0.0.1:8000"), (b"content-length", b"9"),
            (b"content-type", b"application/x-www-form-urlencoded"),
        ],
    }  # fmt: skip
    messages = [{"type": "http.request", "body": b"a", "more_body": True}]

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        pass

    run(site.app(scope, receive, send))


class TestHowOften:
    def test_wrong_secrets_use_up_the_share_of_their_sender_alone(self, site: Site) -> None:
        assert site.log_in("wrong", times=4) == [401, 401, 401, 429]
        assert site.log_in(address="192.0.2.2") == [303]

    def test_who_knows_the_secret_has_a_share_from_wherever(self, site: Site) -> None:
        codes = [site.log_in(address=f"192.0.2.{number}")[0] for number in range(1, 5)]
        assert codes == [303, 303, 303, 429]

    def test_a_network_of_ipv6_is_one_sender(self, site: Site) -> None:
        codes = [
            site.log_in("wrong", address=f"2001:db8::{number:x}:1")[0] for number in range(1, 5)
        ]
        assert codes == [401, 401, 401, 429]
        assert site.log_in(address="2001:db8:0:1::1") == [303]
