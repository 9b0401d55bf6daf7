"""Mails over real connections: what servers take, refuse, and how they fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mail_servers import PASSWORD, RECIPIENT, USER, MailHouse, free_port, mute_server
from waiting import within

from pybak.notify.bounded import Job, side_by_side
from pybak.notify.deliver import Delivery
from pybak.notify.failures import NoticeError
from pybak.notify.letter import Letter
from pybak.notify.outbox import Outbox
from pybak.notify.smtp import MailSettings, connected

NOW = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
SETTINGS = MailSettings(
    host="127.0.0.1", port=1, sender=USER, recipients=(RECIPIENT,), user=USER, password=PASSWORD,
    timeout=2.0,
)  # fmt: skip


def _letter(subject: str = "[PyBak] OK: backup of docs on nas") -> Letter:
    return Letter.write(
        "mail", subject=subject, text="text \N{SNOWMAN}\n" + "x" * 2000, status="success",
        html="<p>html \N{SNOWMAN}</p>", now=NOW,
    )  # fmt: skip


@pytest.fixture
def house(tmp_path: Path) -> Iterator[MailHouse]:
    with MailHouse(tmp_path / "house") as running:
        yield running


@pytest.fixture
def settings(house: MailHouse) -> MailSettings:
    return replace(SETTINGS, port=house.port, ca_file=str(house.ca_file))


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


def _send(settings: MailSettings, letter: Letter) -> tuple[str, ...]:
    with connected(settings) as connection:
        return connection.send(letter)


def test_a_mail_arrives_over_starttls_in_text_and_html(
    house: MailHouse, settings: MailSettings
) -> None:
    letter = _letter()
    assert _send(settings, letter) == ()
    [message] = house.messages
    assert house.envelopes == [(USER, (RECIPIENT,))]
    assert message["Subject"] == letter.subject
    assert message["From"] == USER
    assert message["To"] == RECIPIENT
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"] == f"<pybak.{letter.id}@example.org>"
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().replace("\r", "") == letter.text + "\n"
    assert "<p>html \N{SNOWMAN}</p>" in html.get_content()


def test_a_server_with_tls_from_the_start_does_as_well(tmp_path: Path) -> None:
    with MailHouse(tmp_path, implicit_tls=True) as house:
        _send(
            replace(SETTINGS, port=house.port, ca_file=str(house.ca_file), security="SSL"),
            _letter(),
        )
        assert len(house.messages) == 1


def test_a_server_of_this_machine_needs_neither_encryption_nor_a_user(tmp_path: Path) -> None:
    with MailHouse(tmp_path, require_tls=False, require_auth=False) as house:
        _send(
            replace(SETTINGS, port=house.port, security="none", user=None, password=None),
            _letter(),
        )
        assert len(house.messages) == 1


def test_a_password_never_goes_over_the_network_unencrypted_unless_told_so(tmp_path: Path) -> None:
    with MailHouse(tmp_path, require_tls=False) as house:
        plain = replace(SETTINGS, port=house.port, security="none")
        with pytest.raises(NoticeError, match="unencrypted; set security") as caught:
            _send(plain, _letter())
        assert not caught.value.retryable
        assert house.connections == 0
        _send(replace(plain, allow_plain_password=True), _letter())
        assert len(house.messages) == 1


def test_a_server_without_starttls_gets_no_password(tmp_path: Path) -> None:
    with MailHouse(tmp_path, require_tls=False) as house:
        with pytest.raises(NoticeError, match="offers no STARTTLS; set security"):
            _send(replace(SETTINGS, port=house.port), _letter())
        assert not house.messages


def test_a_certificate_that_is_not_trusted_is_refused_unless_told_so(
    house: MailHouse, settings: MailSettings
) -> None:
    unknown = replace(settings, ca_file=None)
    with pytest.raises(NoticeError, match="certificate is not trusted") as caught:
        _send(unknown, _letter())
    assert not caught.value.retryable
    _send(replace(unknown, verify=False), _letter())
    assert len(house.messages) == 1


def test_a_certificate_of_another_name_is_not_trusted(tmp_path: Path) -> None:
    with (
        MailHouse(tmp_path, names=("mail.example.org",)) as house,
        pytest.raises(NoticeError, match=r"not trusted: IP address mismatch"),
    ):
        _send(replace(SETTINGS, port=house.port, ca_file=str(house.ca_file)), _letter())


@pytest.mark.parametrize("ca_file", ["missing.pem", "empty.pem"])
def test_a_ca_file_that_can_t_be_read_is_told(
    settings: MailSettings, tmp_path: Path, ca_file: str
) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(NoticeError, match=f"the CA file .*{ca_file} can't be read"):
        _send(replace(settings, ca_file=str(tmp_path / ca_file)), _letter())


def test_a_bad_password_is_told_without_showing_it(
    house: MailHouse, settings: MailSettings
) -> None:
    with pytest.raises(NoticeError, match="refused the user and password: 535") as caught:
        _send(replace(settings, password="hunter2-secret"), _letter())
    assert "hunter2-secret" not in str(caught.value)
    assert "app password" in str(caught.value)
    assert not caught.value.retryable
    house.auth_answer = "454 4.7.0 try later"
    with pytest.raises(NoticeError, match="454") as caught:
        _send(settings, _letter())
    assert caught.value.retryable


def test_a_password_that_is_not_ascii_is_told_without_showing_it(settings: MailSettings) -> None:
    with pytest.raises(NoticeError, match="must be ASCII") as caught:
        _send(replace(settings, password="hünter2"), _letter())
    assert "nter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("answer", "retryable"), [("552 too large", False), ("451 try later", True)]
)
def test_what_a_server_says_to_a_mail_decides_whether_it_is_tried_again(
    house: MailHouse, settings: MailSettings, answer: str, retryable: bool
) -> None:
    house.answers = [answer]
    with pytest.raises(NoticeError, match=answer) as caught:
        _send(settings, _letter())
    assert caught.value.retryable is retryable
    assert caught.value.is_refused


def test_a_recipient_that_is_refused_does_not_keep_the_others(
    house: MailHouse, settings: MailSettings
) -> None:
    house.refused = {"gone@example.org"}
    both = replace(settings, recipients=(RECIPIENT, "gone@example.org"))
    assert _send(both, _letter()) == ("gone@example.org",)
    assert house.envelopes == [(USER, (RECIPIENT,))]
    house.refused.add(RECIPIENT)
    with pytest.raises(NoticeError, match=r"refused the recipient .* and 1 more: 550") as caught:
        _send(both, _letter())
    assert caught.value.is_refused
    assert not caught.value.retryable


def test_a_server_that_is_down_can_be_tried_again() -> None:
    with pytest.raises(NoticeError, match="can't be reached: Connection refused") as caught:
        _send(replace(SETTINGS, port=free_port()), _letter())
    assert caught.value.retryable


def test_a_server_that_says_nothing_is_left_after_its_timeout() -> None:
    with within(5):
        with mute_server() as port, pytest.raises(NoticeError) as caught:
            _send(replace(SETTINGS, port=port, timeout=0.3), _letter())
        assert caught.value.retryable


def test_a_server_that_talks_no_smtp_is_told() -> None:
    with mute_server(b"HTTP/1.1 400 Bad Request\r\n") as port, pytest.raises(NoticeError):
        _send(replace(SETTINGS, port=port, timeout=0.3), _letter())


def test_a_line_end_in_a_subject_makes_no_header(house: MailHouse, settings: MailSettings) -> None:
    _send(settings, _letter("docs\r\nBcc: eve@example.org\r\n\r\nbody\x00\x1b[31m\udcff"))
    [message] = house.messages
    assert message["Bcc"] is None
    assert house.envelopes[0][1] == (RECIPIENT,)
    assert message["Subject"].startswith("docs Bcc: eve@example.org body")
    assert "\x1b" not in message["Subject"]
    assert r"\xff" in message["Subject"] or r"\udcff" in message["Subject"]


@pytest.mark.parametrize("what", ["451 try later", None], ids=["451", "cut"])
def test_what_fails_for_a_moment_is_tried_again(
    house: MailHouse, settings: MailSettings, outbox: Outbox, what: str | None
) -> None:
    house.answers = [what, what]
    outbox.put(_letter(), NOW)
    Delivery(settings, outbox, "mail", first_wait=0.01).run()
    assert len(house.messages) == 1
    assert outbox.waiting() == []


def test_what_is_refused_for_good_is_not_tried_again_and_waits(
    house: MailHouse, settings: MailSettings, outbox: Outbox
) -> None:
    outbox.put(_letter(), NOW)
    wrong = replace(settings, password="wrong")
    with pytest.raises(NoticeError, match="535"):
        Delivery(wrong, outbox, "mail", first_wait=0.01).run()
    assert house.connections == 1
    [path] = outbox.waiting("mail")
    assert path.stat().st_mode & 0o777 == 0o600
    Delivery(settings, outbox, "mail", first_wait=0.01).run()
    assert len(house.messages) == 1
    assert outbox.waiting() == []


def test_a_mail_that_no_server_takes_does_not_keep_the_others(
    house: MailHouse, settings: MailSettings, outbox: Outbox
) -> None:
    outbox.put(_letter("first"), NOW)
    outbox.put(_letter("second"), NOW.replace(minute=16))
    house.answers = ["552 too large"]
    with pytest.raises(NoticeError, match="552"):
        Delivery(settings, outbox, "mail", first_wait=0.01).run()
    assert [message["Subject"] for message in house.messages] == ["second"]
    assert outbox.waiting("mail") == []
    assert len(outbox.waiting()) == 1


def test_waiting_mails_go_first_and_in_order(
    house: MailHouse, settings: MailSettings, outbox: Outbox
) -> None:
    for minute in (17, 15, 16):
        outbox.put(_letter(f"of minute {minute}"), NOW.replace(minute=minute))
    outbox.put(replace(_letter("of another block"), block="other"), NOW)
    Delivery(settings, outbox, "mail").run()
    assert [m["Subject"] for m in house.messages] == [f"of minute {n}" for n in (15, 16, 17)]
    assert house.connections == 1
    assert len(outbox.waiting("other")) == 1


@pytest.mark.parametrize("drip", [False, True])
def test_a_server_that_stalls_holds_nobody_for_longer_than_agreed(
    outbox: Outbox, drip: bool
) -> None:
    """A byte now and then keeps every timeout of a socket from coming."""
    outbox.put(_letter(), NOW)
    with mute_server(b"220 hello", drip=drip) as port:
        delivery = Delivery(replace(SETTINGS, port=port, timeout=30), outbox, "mail")
        job = Job(delivery.run, 0.5)
        with within(3):
            side_by_side([job])
    assert job.is_late
    assert len(outbox.waiting("mail")) == 1


def test_whoever_waits_can_be_stopped() -> None:
    with mute_server() as port:
        stops: list[float] = []

        def stopped() -> bool:
            stops.append(time.monotonic())
            return len(stops) > 2

        job = Job(lambda: _send(replace(SETTINGS, port=port, timeout=30), _letter()), 60)
        with within(5):
            side_by_side([job], stopped=stopped)
    assert job.is_late
