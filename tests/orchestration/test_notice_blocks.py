"""Mail servers, webhooks and pings in Prefect blocks: loaded by name, shown nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from http_servers import receiving
from mail_servers import PASSWORD, RECIPIENT, USER, MailHouse, free_port
from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from blocks import MailServer, Ping, Webhook
from blocks.mail_server import load_mail_server
from blocks.ping import load_ping
from blocks.webhook import load_webhook
from deployments.register_blocks import make_documents
from pybak.errors import PlanError
from pybak.notify.failures import NoticeError

SECRET = "s3cr3t-path"
URL = f"https://hooks.example.org/{SECRET}"


class _Standards(BlockStandardTestSuite):
    """What Prefect asks of every block."""

    test_has_a_valid_image = None  # type: ignore[assignment]  # they have no logo


class TestMailServer(_Standards):
    @pytest.fixture
    def block(self) -> type[MailServer]:
        return MailServer


class TestWebhook(_Standards):
    @pytest.fixture
    def block(self) -> type[Webhook]:
        return Webhook


class TestPing(_Standards):
    @pytest.fixture
    def block(self) -> type[Ping]:
        return Ping


@pytest.fixture
def house(tmp_path: Path) -> Iterator[MailHouse]:
    with MailHouse(tmp_path / "house") as running:
        yield running


def _mail(**more: Any) -> MailServer:
    given: dict[str, Any] = {
        "host": "127.0.0.1", "sender": USER, "recipients": [RECIPIENT], "user": USER,
        "password": PASSWORD, **more,
    }  # fmt: skip
    return MailServer(**given)


def test_a_mail_server_comes_back_with_its_password(in_prefect: None) -> None:
    _mail(port=2525, ca_file="/etc/ca.pem", timeout=3).save("stored-mail", overwrite=True)
    for name in ("stored-mail", "pybak-mail-server/stored-mail"):
        settings = load_mail_server(name)
        assert settings.password == PASSWORD
        assert (settings.host, settings.port, settings.timeout) == ("127.0.0.1", 2525, 3.0)
        assert settings.recipients == (RECIPIENT,)
        assert PASSWORD not in repr(settings)
    MailServer.delete("stored-mail")


@pytest.mark.parametrize(("security", "port"), [("STARTTLS", 587), ("SSL", 465), ("none", 25)])
def test_a_port_that_is_left_out_is_the_usual_one(security: str, port: int) -> None:
    assert _mail(security=security, allow_plain_password=True).settings().port == port


def test_a_webhook_and_a_ping_come_back_with_their_addresses(in_prefect: None) -> None:
    Webhook(url=URL, headers={"X-Key": SECRET}).save("stored-hook", overwrite=True)  # type: ignore[arg-type]
    settings = load_webhook("stored-hook")
    assert settings.url == URL
    assert settings.headers == {"X-Key": SECRET}
    Ping(url=URL, failure_url=f"{URL}/bad").save("stored-ping", overwrite=True)  # type: ignore[arg-type]
    ping = load_ping("pybak-ping/stored-ping")
    assert ping.for_start() == f"{URL}/start"
    assert ping.for_failure() == f"{URL}/bad"
    assert SECRET not in repr(settings) + repr(ping)
    Webhook.delete("stored-hook")
    Ping.delete("stored-ping")


def test_the_server_shows_no_secret_of_theirs(in_prefect: None, prefect_api: httpx.Client) -> None:
    _mail().save("seen-mail", overwrite=True)
    Webhook(url=URL, headers={"X-Key": SECRET}).save("seen-hook", overwrite=True)  # type: ignore[arg-type]
    Ping(url=URL, start_url=URL).save("seen-ping", overwrite=True)  # type: ignore[arg-type]
    found = prefect_api.post("/block_documents/filter", json={}).text
    assert {"seen-mail", "seen-hook", "seen-ping"} <= {one["name"] for one in json.loads(found)}
    assert PASSWORD not in found
    assert SECRET not in found
    for kind, name in ((MailServer, "seen-mail"), (Webhook, "seen-hook"), (Ping, "seen-ping")):
        assert SECRET not in repr(kind.load(name))  # type: ignore[attr-defined]
        kind.delete(name)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "given",
    [
        {"security": "none"}, {"user": None}, {"password": None}, {"recipients": []},
        {"recipients": ["ann"]}, {"recipients": ["a@b\r\nBcc: c@d"]}, {"sender": "a, b@c"},
        {"sender": "Ann <a@b>"}, {"host": "smtp.example.org/x"}, {"port": 0},
        {"security": "TLS"}, {"timeout": 0},
    ],
    ids=str,
)  # fmt: skip
def test_a_mail_server_that_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _mail(**given)


@pytest.mark.parametrize("url", ["hooks.example.org/x", "ftp://h/x", "https://h/a b", ""])
def test_an_address_that_is_none_is_refused_without_being_shown(url: str) -> None:
    for kind in (Webhook, Ping):
        with pytest.raises(ValidationError, match="is no address") as caught:
            kind(url=url)
        assert not url or url not in str(caught.value)


def test_a_block_that_is_missing_or_of_another_type_is_told(in_prefect: None) -> None:
    for load in (load_mail_server, load_webhook, load_ping):
        with pytest.raises(PlanError, match="block nowhere: there is none"):
            load("nowhere")
        with pytest.raises(PlanError, match="block secret/x: is no"):
            load("secret/x")


def test_prefect_can_notify_by_a_mail_server(house: MailHouse) -> None:
    assert "notify" in MailServer.get_block_capabilities()
    assert issubclass(MailServer, NotificationBlock)
    block = _mail(port=house.port, ca_file=str(house.ca_file))
    block.notify("the flow <failed>\nat once", subject="flow run\r\nBcc: eve@example.org")
    [message] = house.messages
    assert message["Subject"] == "flow run Bcc: eve@example.org"
    assert message["Bcc"] is None
    html = message.get_body(("html",))
    assert html is not None
    assert "&lt;failed&gt;" in html.get_content()


async def _notified(block: MailServer) -> None:
    with block.raise_on_failure():
        await block.anotify("body", subject="subject")


def test_prefect_is_told_of_a_failure_in_its_own_words(house: MailHouse) -> None:
    import asyncio

    block = _mail(port=house.port, ca_file=str(house.ca_file))
    asyncio.run(_notified(block))
    assert len(house.messages) == 1
    down = _mail(port=free_port())
    with pytest.raises(NotificationError) as caught:
        asyncio.run(_notified(down))
    assert "can't be reached" in caught.value.log
    with pytest.raises(NoticeError, match="can't be reached"):
        down.notify("body")


def test_they_are_made_from_the_environment(in_prefect: None) -> None:
    variables = {
        "PYBAK_BLOCK_MAIL_HOST": "smtp.example.org",
        "PYBAK_BLOCK_MAIL_NAME": "env-mail",
        "PYBAK_BLOCK_MAIL_SENDER": "nas@example.org",
        "PYBAK_BLOCK_MAIL_RECIPIENTS": "ann@example.org, bob@example.org",
        "PYBAK_BLOCK_MAIL_USER": "nas",
        "PYBAK_BLOCK_MAIL_PASSWORD": PASSWORD,
        "PYBAK_BLOCK_MAIL_PORT": "2525",
        "PYBAK_BLOCK_WEBHOOK_URL": URL,
        "PYBAK_BLOCK_WEBHOOK_NAME": "env-hook",
        "PYBAK_BLOCK_WEBHOOK_HEADERS": '{"Authorization": "Bearer x"}',
        "PYBAK_BLOCK_PING_URL": URL,
        "PYBAK_BLOCK_PING_NAME": "env-ping",
        "PYBAK_BLOCK_PING_TELL_START": "false",
    }
    names = {"pybak-mail-server/env-mail", "pybak-webhook/env-hook", "pybak-ping/env-ping"}
    assert dict(make_documents(variables)) == dict.fromkeys(names, "made")
    assert dict(make_documents(variables)) == dict.fromkeys(names, "unchanged")
    mail = load_mail_server("env-mail")
    assert mail.recipients == ("ann@example.org", "bob@example.org")
    assert (mail.port, mail.password) == (2525, PASSWORD)
    assert load_webhook("env-hook").headers == {"Authorization": "Bearer x"}
    assert not load_ping("env-ping").tell_start
    for kind, name in ((MailServer, "env-mail"), (Webhook, "env-hook"), (Ping, "env-ping")):
        kind.delete(name)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"MAIL_HOST": "h", "MAIL_SENDER": "a@b"}, "recipients"),
        ({"WEBHOOK_URL": SECRET}, "url"),
        ({"WEBHOOK_URL": URL, "WEBHOOK_HEADERS": f"X: {SECRET}"}, "headers"),
    ],
)
def test_variables_that_make_none_are_told_without_their_values(
    variables: dict[str, str], told: str
) -> None:
    given = {f"PYBAK_BLOCK_{name}": value for name, value in variables.items()}
    with pytest.raises(click.ClickException, match=f"{told}: makes no .*docs/notices.md") as caught:
        list(make_documents(given))
    assert SECRET not in str(caught.value)


def test_a_loaded_webhook_reaches_its_address(in_prefect: None) -> None:
    from pybak.notify import http

    with receiving() as receiver:
        Webhook(url=f"{receiver.url}/{SECRET}").save("live-hook", overwrite=True)  # type: ignore[arg-type]
        http.send(load_webhook("live-hook"), b"{}", content_type="application/json", method="POST")
        assert receiver.paths == [f"/{SECRET}"]
    Webhook.delete("live-hook")
