"""Who gets into the dashboard: sessions, other sites, scopes, where logins lead."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from dashboard_site import OWN, PAGE, Site

from pybak.api.auth.scopes import Caller
from pybak.dashboard.login import safe_next
from pybak.dashboard.session import COOKIE, Sessions
from pybak.dashboard.settings import PATH, from_environment
from pybak.errors import PlanError


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


PROTECTED = (
    "/", "/files", "/_dash-layout", "/_dash-dependencies", "/download/1/members/a",
    "/_dash-component-suites/dash/deps/react@18.3.1.min.js", "/assets/dashboard.js", "/static/x",
    "/_reload-hash", "/nothing",
)  # fmt: skip


@pytest.mark.parametrize("path", PROTECTED)
def test_nothing_is_seen_without_a_login(site: Site, path: str) -> None:
    assert site.ask("GET", path).status_code == 401
    page = site.ask("GET", path, headers=PAGE)
    assert page.status_code == 303
    assert page.headers["location"].startswith(f"{PATH}/login?next=")


def test_callbacks_are_refused_without_a_login(site: Site) -> None:
    answer = site.ask("POST", "/_dash-update-component", json={}, headers=OWN)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_login_page_and_its_style_are_for_everybody(site: Site) -> None:
    assert "Client" in site.ask("GET", "/login").text
    assert site.ask("GET", "/assets/dashboard.css").headers["content-type"].startswith("text/css")


def test_a_client_gets_in_and_out_again(site: Site) -> None:
    answer = site.log_in("ann", ("backup:read",))
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{PATH}/files"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/dashboard" in cookie
    assert "Secure" not in cookie
    seen = site.ask("GET", "/", headers=PAGE)
    assert seen.status_code == 200
    assert "_dash-config" in seen.text
    kept = httpx.Cookies(site.cookies)
    assert site.ask("POST", "/logout", headers=OWN).status_code == 303
    assert site.cookies.get(COOKIE) is None
    site.cookies = kept
    assert site.ask("GET", "/").status_code == 401


def test_over_tls_the_cookie_is_for_tls_alone(site: Site) -> None:
    secret = site.clients.add("ann", ("backup:read",), now=datetime.now(UTC))
    root = "https://backups.example"
    answer = site.ask(
        "POST", "/login/client", data={"client": "ann", "secret": secret},
        headers={"Origin": root}, root=root,
    )  # fmt: skip
    assert "Secure" in answer.headers["set-cookie"]


def test_a_client_that_was_removed_is_out_at_once(site: Site) -> None:
    site.log_in("ann", ("backup:read",))
    assert site.ask("GET", "/_dash-dependencies").status_code == 200
    site.clients.remove("ann")
    assert site.ask("GET", "/_dash-dependencies").status_code == 401


def test_a_client_that_was_made_again_has_to_log_in_again(site: Site) -> None:
    site.log_in("ann", ("backup:read",))
    site.clients.remove("ann")
    site.clients.add("ann", ("backup:read",), now=datetime.now(UTC))
    assert site.ask("GET", "/_dash-dependencies").status_code == 401


def test_without_the_scope_to_read_there_is_only_the_way_out(site: Site) -> None:
    site.log_in("bob", ("backup:restore",))
    answer = site.ask("GET", "/", headers=PAGE)
    assert answer.status_code == 403
    assert "backup:read" in answer.text
    assert site.ask("GET", "/_dash-layout").status_code == 403


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "https://evil.example"}, {"Origin": "null"},
     {"Sec-Fetch-Site": "cross-site", **OWN}, {"Sec-Fetch-Site": "same-site", **OWN},
     {"Sec-Fetch-Site": "none"}],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/_dash-update-component", "/logout", "/login/client"])
def test_what_other_sites_send_is_refused(site: Site, path: str, headers: dict[str, str]) -> None:
    site.log_in("ann", ("backup:read",))
    assert site.ask("POST", path, content=b"x=1", headers=headers).status_code == 403
    assert site.ask("GET", "/").status_code == 200


def test_only_getting_and_posting_is_known(site: Site) -> None:
    site.log_in("ann", ("backup:read",))
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert site.ask(method, "/", headers=OWN).status_code == 403


def test_a_body_that_is_too_large_is_not_read(site: Site) -> None:
    site.log_in("ann", ("backup:read",))
    answer = site.ask("POST", "/_dash-update-component", content=b"x" * (1 << 20 | 1), headers=OWN)
    assert answer.status_code == 413


def test_every_answer_has_the_headers_that_keep_it_in(site: Site) -> None:
    for path in ("/login", "/", "/assets/dashboard.css"):
        headers = site.ask("GET", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_what_tells_of_backups_is_kept_by_no_browser_and_no_proxy(site: Site) -> None:
    site.log_in("ann", ("backup:read",))
    for path in ("/", "/_dash-layout", "/download/7/members/none"):
        assert site.ask("GET", path).headers["cache-control"] == "no-store"
    answer = site.call_back("page.children", {"url.pathname": "/dashboard/files"})
    assert answer.headers["cache-control"] == "no-store"


def test_what_a_request_says_is_never_a_part_of_a_page(site: Site) -> None:
    nasty = '"><script>alert(1)</script>'
    form = {"client": nasty, "secret": nasty, "next": nasty}
    refused = site.ask("POST", "/login/client", data=form, headers=OWN | PAGE)
    shown = site.ask("GET", "/login", params={"next": f"/dashboard/{nasty}"})
    site.log_in("ann", ("backup:read", "backup:restore"))
    missing = site.ask("GET", f"/download/7/members/{nasty}", headers=PAGE)
    for answer in (refused, shown, missing):
        assert "<script>alert" not in answer.text


def test_a_login_that_was_given_to_somebody_is_not_taken_over(site: Site) -> None:
    """A session begins with the login: no cookie of before it is good after it."""
    site.log_in("ann", ("backup:read",))
    before = site.cookies.get(COOKIE)
    secret = site.clients.add("bob", ("backup:read",), now=datetime.now(UTC))
    form = {"client": "bob", "secret": secret}
    site.ask("POST", "/login/client", data=form, headers=OWN)
    assert site.cookies.get(COOKIE) not in (None, before)


def test_downloads_ask_for_the_scope_and_tell_faults_as_pages(site: Site) -> None:
    site.files.contents[7, b"a b.txt"] = b"content"
    site.log_in("ann", ("backup:read",))
    assert site.ask("GET", "/download/7/members/a%20b.txt").status_code == 403
    site.log_in("bob", ("backup:read", "backup:restore"))
    answer = site.ask("GET", "/download/7/members/a%20b.txt")
    assert answer.content == b"content"
    assert answer.headers["content-disposition"].startswith('attachment; filename="a b.txt"')
    missing = site.ask("GET", "/download/7/members/none")
    assert missing.status_code == 404
    assert "There is no such file" in missing.text


def test_logins_are_limited(tmp_path: Path) -> None:
    site = Site(tmp_path, token_requests_a_minute=3)
    form = {"client": "ann", "secret": "guess"}
    seen = [site.ask("POST", "/login/client", data=form, headers=OWN).status_code for _ in range(4)]
    assert seen == [401, 401, 401, 429]


def test_a_service_that_asks_nobody_answers_only_this_machine(tmp_path: Path) -> None:
    site = Site(tmp_path, token_endpoint=False, no_authentication=True)
    assert site.ask("GET", "/", headers=PAGE).status_code == 200
    assert site.ask("GET", "/", root="http://evil.example").status_code == 403


def test_a_session_ends_by_itself_and_can_not_be_changed(tmp_path: Path) -> None:
    clock = [1000.0]
    sessions = Sessions(tmp_path, 60, now=lambda: clock[0])
    cookie = sessions.make(Caller("ann", frozenset({"backup:read"})), "client")
    found = sessions.read(cookie)
    assert found is not None
    assert found.name == "ann"
    assert found.expires_at == 1060
    assert sessions.read(cookie[:-2] + ("AA" if cookie[-2:] != "AA" else "BB")) is None
    assert sessions.read(None) is None
    assert sessions.read("nonsense") is None
    assert Sessions(tmp_path, 60, now=lambda: clock[0]).read(cookie) == found
    assert sessions.read(sessions.sign_login({"state": "x"})) is None
    clock[0] = 1061
    assert sessions.read(cookie) is None


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("/dashboard/files?job=a%2Fb", "/dashboard/files?job=a%2Fb"),
        ("https://evil.example/dashboard/", "/dashboard/"),
        ("//evil.example/dashboard/", "/dashboard/"),
        ("/\\evil.example", "/dashboard/"), ("/dashboard/../oauth/token", "/dashboard/"),
        ("/runs", "/dashboard/"), ("/dashboard/logout", "/dashboard/"), (None, "/dashboard/"),
        ("/dashboard/%2e%2e/oauth/token", "/dashboard/"),
        ("/dashboard/\nx", "/dashboard/"), ("javascript:alert(1)", "/dashboard/"),
    ],
)  # fmt: skip
def test_a_login_leads_only_to_pages_of_the_dashboard(wanted: str | None, given: str) -> None:
    assert safe_next(wanted) == given


def test_settings_come_from_the_environment_and_name_their_faults() -> None:
    found = from_environment(
        {"PYBAK_DASHBOARD_CLIENT_ID": "pages", "PYBAK_DASHBOARD_CLIENT_SECRET": "hush", "HOME": "/"}
    )
    assert found.client_id == "pages"
    assert "hush" not in repr(found)
    with pytest.raises(PlanError, match="PYBAK_DASHBOARD_SESSION_MINUTES: "):
        from_environment({"PYBAK_DASHBOARD_SESSION_MINUTES": "0"})
    with pytest.raises(PlanError, match="PYBAK_DASHBOARD_COLOUR: there is no such setting"):
        from_environment({"PYBAK_DASHBOARD_COLOUR": "red"})
