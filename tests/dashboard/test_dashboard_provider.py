"""Login at a real OpenID provider, in Chromium: there and back with PKCE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from dashboards import Dashboard, serving, write_catalog
from oidc import SCOPES, OpenIdProvider, private_jwk, running_provider, secret_of
from servers import free_port

pytestmark = [pytest.mark.needs_tool("chromium"), pytest.mark.needs_component("oidc")]


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[OpenIdProvider]:
    client = {
        "client_id": "dashboard", "client_secret": secret_of("dashboard"),
        "grant_types": ["authorization_code"], "response_types": ["code"],
        "redirect_uris": [f"http://127.0.0.1:{port}/dashboard/login/callback"],
        "scope": " ".join(("openid", *SCOPES)),
    }  # fmt: skip
    with running_provider(
        tmp_path_factory.mktemp("oidc"), keys=[private_jwk("one")], clients=[client],
        interactive=True,
    ) as made:  # fmt: skip
        yield made


@pytest.fixture(scope="module")
def dashboard(
    provider: OpenIdProvider, port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dashboard]:
    home = tmp_path_factory.mktemp("home")
    url = f"sqlite:///{home}/catalog.db"
    write_catalog(url)
    with serving(
        home, url, port=port, clients={}, token_endpoint=False, issuer=provider.issuer,
        audience=provider.audience,
        dashboard={"client_id": "dashboard", "client_secret": secret_of("dashboard")},
    ) as made:  # fmt: skip
        yield made


def _sign_in(page: Any, name: str) -> None:
    page.locator("input[name=login]").fill(name)
    page.locator("input[name=password]").fill("whatever")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()


@pytest.fixture
def own_page(chromium: Any) -> Iterator[Any]:
    """Give a page; the provider's own pages want fonts of others, and don't get them."""
    context = chromium.new_context()
    context.set_default_timeout(15_000)
    context.route(lambda url: "127.0.0.1" not in url, lambda route: route.abort())
    yield context.new_page()
    context.close()


def test_people_log_in_there_and_come_back(own_page: Any, dashboard: Dashboard) -> None:
    page = own_page
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.goto(dashboard.home + "files")
    assert page.get_by_label("Secret").count() == 0
    page.get_by_role("link", name="Continue with 127.0.0.1").click()
    _sign_in(page, "ann")
    page.get_by_role("heading", name="Files", level=1).wait_for()
    assert page.locator(".who .name").inner_text() == "ann"
    begun = next(one for one in asked if "/auth?" in one)
    query = parse_qs(urlsplit(begun).query)
    assert query["response_type"] == ["code"]
    assert query["code_challenge_method"] == ["S256"]
    assert len(query["state"][0]) >= 32
    assert len(query["nonce"][0]) >= 32
    names = {one["name"] for one in page.context.cookies(dashboard.home)}
    assert "pybak_session" in names
    assert "pybak_login" not in names
    page.get_by_role("button", name="Log out").click()
    page.goto(dashboard.home)
    page.get_by_role("heading", name="Log in").wait_for()


def test_an_answer_that_was_not_asked_for_lets_nobody_in(
    own_page: Any, dashboard: Dashboard
) -> None:
    page = own_page
    seen: list[str] = []
    page.on("request", lambda one: seen.append(one.url))
    page.goto(dashboard.home)
    page.get_by_role("link", name="Continue with 127.0.0.1").click()
    _sign_in(page, "eve")
    page.get_by_role("heading", name="Overview").wait_for()
    answer = next(one for one in seen if "/login/callback?" in one)
    # Somebody else's browser, which began no login; and one that began another.
    other = page.context.browser.new_context().new_page()
    assert other.goto(answer).status == 400
    other.goto(dashboard.home)
    other.request.get(dashboard.home + "login/provider", max_redirects=0)
    assert other.goto(answer).status == 401
    assert "belongs to no login that was begun here" in other.locator("main").inner_text()
    other.goto(dashboard.home)
    assert "/login" in other.url
    other.context.close()
    # Nor is it good twice.
    assert page.goto(answer).status == 400
