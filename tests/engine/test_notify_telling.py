"""Webhooks, pings and mails of one run together: sent side by side, and never in a run's way."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from http_servers import Receiver, receiving
from mail_servers import PASSWORD, RECIPIENT, USER, MailHouse, free_port, mute_server
from waiting import within
from written import WrittenJob, file

from pybak.doctor.outbox import check_outbox
from pybak.errors import Interrupted, LockedError, PlanError, StorageError
from pybak.notify import http, notices
from pybak.notify.compare import run_before
from pybak.notify.ending import Ending, is_busy, report_of
from pybak.notify.failures import NoticeError
from pybak.notify.http import HttpSettings, is_address
from pybak.notify.notices import Teller
from pybak.notify.outbox import Outbox
from pybak.notify.ping import PingSettings, ping_end, ping_start
from pybak.notify.smtp import MailSettings
from pybak.notify.wanted import Notices, When
from pybak.problems import Problem
from pybak.report import ArchiveCheck, BackupReport, FileCounts, VerifyReport

NOW = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
SECRET = "s3cr3t-path"
ERROR = Problem("/a", "io_error", "input/output error")


def _ending(status: str = "success", *errors: Problem, at: datetime = NOW) -> Ending:
    report = BackupReport(
        status=status, run_id="3f2a", job="docs", files=FileCounts(failed=len(errors)),
        errors=errors,
    )  # fmt: skip
    return Ending("backup", "docs", "nas", at, at, report)


def _stopped(error: BaseException) -> Ending:
    return Ending("backup", "docs", "nas", NOW, NOW, report_of("backup", error), is_busy(error))


FAILED = _stopped(StorageError("no space"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def house(tmp_path: Path) -> Iterator[MailHouse]:
    with MailHouse(tmp_path / "house") as running:
        yield running


def _mail(house: MailHouse) -> MailSettings:
    return MailSettings(
        host="127.0.0.1", port=house.port, sender=USER, recipients=(RECIPIENT,), user=USER,
        password=PASSWORD, timeout=2.0, ca_file=str(house.ca_file),
    )  # fmt: skip


def _teller(
    tmp_path: Path, ending: Ending, *, mail: MailSettings | None = None,
    webhook: str | None = None, ping: str | None = None, when: When = "on-change",
) -> Teller:  # fmt: skip
    names = Notices(
        "gmail" if mail else None, when, "hook" if webhook else None, "dead-man" if ping else None
    )

    def load_mail(name: str) -> MailSettings:
        assert name == "gmail"
        assert mail is not None
        return mail

    teller = Teller(
        names, ending, home=tmp_path / "home", catalog_url=f"sqlite:///{tmp_path}/none.db",
        load_mail=load_mail, load_webhook=lambda _: HttpSettings(webhook or "", timeout=2),
        load_ping=lambda _: PingSettings(ping or "", timeout=2), first_wait=0.01,
    )  # fmt: skip
    teller.tell()
    return teller


def test_all_are_told_of_a_run(tmp_path: Path, receiver: Receiver, house: MailHouse) -> None:
    teller = _teller(
        tmp_path, _ending(), mail=_mail(house), webhook=f"{receiver.url}/hook",
        ping=f"{receiver.url}/ping",
    )  # fmt: skip
    assert teller.warnings == []
    assert sorted(teller.told) == ["mail gmail", "ping dead-man", "webhook hook"]
    assert sorted(receiver.paths) == ["/hook", "/ping"]
    assert [message["Subject"] for message in house.messages] == [
        "[PyBak] OK: backup of docs on nas"
    ]
    hook = next(request for request in receiver.requests if request.path == "/hook")
    assert hook.headers["content-type"] == "application/json"
    assert json.loads(hook.body)["status"] == "success"


def test_one_that_fails_does_not_keep_the_others(
    tmp_path: Path, receiver: Receiver, house: MailHouse
) -> None:
    teller = _teller(
        tmp_path, _ending(), mail=_mail(house), ping=f"{receiver.url}/ping",
        webhook=f"http://127.0.0.1:{free_port()}/{SECRET}",
    )  # fmt: skip
    assert sorted(teller.told) == ["mail gmail", "ping dead-man"]
    assert teller.warnings == [
        "webhook hook: 127.0.0.1: can't be reached: Connection refused; it was not told"
    ]


def test_a_block_that_can_t_be_loaded_is_a_warning_and_its_mail_waits(tmp_path: Path) -> None:
    def gone(name: str) -> MailSettings:
        raise PlanError(f"block {name}: there is none; make it in Prefect's UI")

    teller = Teller(
        Notices(mail="gmail"), _ending(), home=tmp_path, catalog_url="sqlite:///none.db",
        load_mail=gone, load_webhook=lambda _: pytest.fail("no"),
        load_ping=lambda _: pytest.fail("no"),
    )  # fmt: skip
    teller.tell()
    [warning] = teller.warnings
    assert "block gmail: there is none" in warning
    assert "waits for the next run" in warning
    assert len(Outbox(tmp_path / "outbox").waiting("gmail")) == 1


def test_a_mail_that_could_not_be_sent_goes_with_the_next_run(
    tmp_path: Path, house: MailHouse
) -> None:
    down = replace(_mail(house), port=free_port())
    teller = _teller(tmp_path, _ending("partial", ERROR), mail=down)
    [warning] = teller.warnings
    assert "can't be reached" in warning
    assert warning.endswith("; it waits for the next run")
    assert _teller(tmp_path, _ending(at=NOW + timedelta(minutes=2)), mail=_mail(house)).told
    assert [message["X-PyBak-Status"] for message in house.messages] == ["partial", "success"]


def test_a_run_without_news_sends_what_waits_but_not_at_every_turn(
    tmp_path: Path, house: MailHouse
) -> None:
    down = replace(_mail(house), port=free_port())
    _teller(tmp_path, _ending(at=datetime.now(UTC)), mail=down)
    soon, later = (
        _ending("unchanged", at=datetime.now(UTC) + timedelta(minutes=m)) for m in (2, 12)
    )
    assert _teller(tmp_path, soon, mail=_mail(house)).told == []
    assert house.connections == 0
    assert _teller(tmp_path, later, mail=_mail(house)).told == ["mail gmail"]
    assert len(house.messages) == 1
    assert _teller(tmp_path, later, mail=_mail(house)).told == []
    assert house.connections == 1


def test_letters_that_no_login_gets_out_are_tried_every_ten_minutes_and_keep_their_age(
    tmp_path: Path, house: MailHouse
) -> None:
    wrong, now = replace(_mail(house), password="wrong"), datetime.now(UTC)
    _teller(tmp_path, _ending(at=now - timedelta(days=2)), mail=wrong)
    [path] = Outbox(tmp_path / "home" / "outbox").waiting()
    os.utime(path, (0, now.timestamp() - 3600))
    house.connections = 0
    for minutes in (0, 2, 4, 6, 8):
        _teller(tmp_path, _ending("unchanged", at=now + timedelta(minutes=minutes)), mail=wrong)
    assert house.connections == 1
    [found] = check_outbox({"PYBAK_HOME": str(tmp_path / "home")}, now)
    assert "2 days" in found.line()


def test_a_letter_that_a_server_never_takes_is_not_sent_by_every_run(
    tmp_path: Path, house: MailHouse
) -> None:
    house.answers, now = ["554 5.7.1 spam"], datetime.now(UTC)
    teller = _teller(tmp_path, _ending("partial", ERROR, at=now), mail=_mail(house))
    assert teller.warnings[0].endswith("554 5.7.1 spam; it is tried again in a day")
    _teller(tmp_path, _ending(at=now + timedelta(minutes=2)), mail=_mail(house))
    assert [message["X-PyBak-Status"] for message in house.messages] == ["success"]


@pytest.mark.parametrize("places", [("notices",), ("outbox",), ("notices", "outbox")])
def test_a_home_that_can_t_be_written_makes_no_mail_of_every_run(
    tmp_path: Path, house: MailHouse, monkeypatch: pytest.MonkeyPatch, places: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "home").mkdir()
    for name in places:
        (tmp_path / "home" / name).write_text("a file in the way")
    for minutes in range(0, 10, 2):
        ending = replace(FAILED, ended_at=NOW + timedelta(minutes=minutes))
        _teller(tmp_path, ending, mail=_mail(house), when="on-problem")
    assert len(house.messages) == 1


def test_a_mail_that_was_neither_kept_nor_sent_does_not_count_as_told(
    tmp_path: Path, house: MailHouse
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "outbox").write_text("a file in the way")
    down = replace(_mail(house), port=free_port())
    assert _teller(tmp_path, FAILED, mail=down, when="on-problem").warnings[1].endswith("lost")
    _teller(tmp_path, FAILED, mail=_mail(house), when="on-problem")
    _teller(tmp_path, FAILED, mail=_mail(house), when="on-problem")
    assert len(house.messages) == 1


def test_a_mail_is_sent_even_where_nothing_can_be_kept(tmp_path: Path, house: MailHouse) -> None:
    (tmp_path / "home").write_text("a file in the way")
    teller = _teller(tmp_path, _ending(), mail=_mail(house))
    assert len(house.messages) == 1
    assert any("can't be kept" in warning for warning in teller.warnings)
    teller = _teller(tmp_path, _ending(), mail=replace(_mail(house), port=free_port()))
    assert any(warning.endswith("it is lost") for warning in teller.warnings)


def test_the_rule_holds(tmp_path: Path, house: MailHouse) -> None:
    for minute, status in enumerate(("success", "partial", "partial", "unchanged", "success")):
        errors = (ERROR,) if status == "partial" else ()
        at = NOW + timedelta(minutes=minute)
        _teller(tmp_path, _ending(status, *errors, at=at), mail=_mail(house), when="on-problem")
    assert [message["Subject"].split(":")[0] for message in house.messages] == [
        "[PyBak] PARTIAL", "[PyBak] unchanged"
    ]  # fmt: skip
    assert "(good again)" in house.messages[1]["Subject"]


def test_more_failed_files_than_a_mail_names_lie_in_a_file(
    tmp_path: Path, house: MailHouse
) -> None:
    errors = tuple(Problem(f"/{n}", "io_error", "input/output error") for n in range(60))
    _teller(tmp_path, _ending("partial", *errors), mail=_mail(house))
    report = tmp_path / "home" / "reports" / "3f2a.json"
    assert len(json.loads(report.read_text())["errors"]) == 60
    text = house.messages[0].get_body(("plain",))
    assert text is not None
    assert str(report) in text.get_content()


def _check(name: str, damaged: int = 0) -> ArchiveCheck:
    members = tuple(Problem(f"m{n}", "damaged", "checksum differs") for n in range(damaged))
    return ArchiveCheck(
        archive=f"/mnt/backups/{name}.zip", status="damaged" if damaged else "success",
        members=300, checked=300, damaged=members,
    )  # fmt: skip


def test_more_damaged_members_than_a_mail_names_lie_in_a_file_too(
    tmp_path: Path, house: MailHouse
) -> None:
    report = VerifyReport(status="failed", archives=(_check("a", 120),))
    ending = Ending("verify", "docs", "nas", NOW, NOW, report)
    _teller(tmp_path, ending, mail=_mail(house))
    [kept] = (tmp_path / "home" / "reports").iterdir()
    assert len(json.loads(kept.read_text())["archives"][0]["damaged"]) == 120
    text = house.messages[0].get_body(("plain",))
    assert text is not None
    assert f"and 70 more; all of them: {kept}" in text.get_content()


@pytest.mark.parametrize("damaged", [0, 2])
def test_a_check_of_thousands_of_archives_makes_a_mail_of_readable_size(
    tmp_path: Path, house: MailHouse, damaged: int
) -> None:
    checks = (_check("the-bad-one", 1), *(_check(f"documents_{n}", damaged) for n in range(5040)))
    ending = Ending(
        "verify", "docs", "nas", NOW, NOW, VerifyReport(status="failed", archives=checks)
    )
    _teller(tmp_path, ending, mail=_mail(house))
    [message] = house.messages
    assert len(bytes(message)) < 60_000
    text = message.get_body(("plain",))
    assert text is not None
    assert "the-bad-one" in text.get_content()
    whole = "5040 archives" in text.get_content().replace("\N{NO-BREAK SPACE}", "")
    assert whole is (not damaged)
    assert (tmp_path / "home" / "reports").exists() is bool(damaged)


def test_a_recipient_that_is_refused_is_told_though_the_mail_is_sent(
    tmp_path: Path, house: MailHouse
) -> None:
    house.refused = {"gone@example.org"}
    settings = replace(_mail(house), recipients=(RECIPIENT, "gone@example.org"))
    teller = _teller(tmp_path, _ending(), mail=settings)
    assert len(house.messages) == 1
    [warning] = teller.warnings
    assert "refused gone@example.org, took the others" in warning
    assert "waits" not in warning


def test_servers_that_stall_hold_a_run_for_no_longer_than_agreed(
    tmp_path: Path, house: MailHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAIL_SECONDS", "WEBHOOK_SECONDS", "PING_SECONDS"):
        monkeypatch.setattr(notices, name, 0.5)
    with mute_server(b"2", drip=True) as port, within(4):
        url = f"http://127.0.0.1:{port}/{SECRET}"
        teller = _teller(
            tmp_path, _ending(), mail=replace(_mail(house), port=port), webhook=url, ping=url
        )
    assert sorted(teller.warnings) == [
        "mail gmail: took too long; it waits for the next run",
        "ping dead-man: took too long; it was not told",
        "webhook hook: took too long; it was not told",
    ]
    assert len(Outbox(tmp_path / "home" / "outbox").waiting("gmail")) == 1


def test_a_run_that_was_stopped_keeps_its_mail_and_is_soon_over(
    tmp_path: Path, house: MailHouse
) -> None:
    with mute_server() as port:
        teller = Teller(
            Notices(mail="gmail"), _stopped(Interrupted("interrupted")), home=tmp_path,
            catalog_url=f"sqlite:///{tmp_path}/none.db", stopped=lambda: True,
            load_mail=lambda _: replace(_mail(house), port=port, timeout=30),
            load_webhook=lambda _: pytest.fail("no"), load_ping=lambda _: pytest.fail("no"),
        )  # fmt: skip
        with within(4):
            teller.tell()
    assert teller.warnings == ["mail gmail: was told to stop; it waits for the next run"]
    assert len(Outbox(tmp_path / "outbox").waiting("gmail")) == 1


def test_a_run_that_was_stopped_still_reaches_a_server_that_answers(
    tmp_path: Path, house: MailHouse
) -> None:
    teller = Teller(
        Notices(mail="gmail"), _stopped(Interrupted("interrupted")), home=tmp_path,
        catalog_url=f"sqlite:///{tmp_path}/none.db", stopped=lambda: True,
        load_mail=lambda _: _mail(house), load_webhook=lambda _: pytest.fail("no"),
        load_ping=lambda _: pytest.fail("no"),
    )  # fmt: skip
    teller.tell()
    assert teller.warnings == []
    assert len(house.messages) == 1


def test_neither_a_block_nor_a_catalog_that_stalls_holds_a_run(
    tmp_path: Path, house: MailHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAIL_SECONDS", "WEBHOOK_SECONDS", "PING_SECONDS", "COMPARE_SECONDS"):
        monkeypatch.setattr(notices, name, 0.3)
    monkeypatch.setattr(notices, "run_before", lambda *_: stalled.wait(60))
    stalled = threading.Event()

    def load(_: str) -> Any:
        stalled.wait(60)

    teller = Teller(
        Notices("gmail", "always", "hook", "dead-man"), _ending(), home=tmp_path,
        catalog_url="", load_mail=load, load_webhook=load, load_ping=load,
    )  # fmt: skip
    with within(4):
        teller.tell()
    stalled.set()
    assert [warning.partition(";")[0] for warning in teller.warnings] == [
        "ping dead-man: took too long", "webhook hook: took too long", "mail gmail: took too long"
    ]  # fmt: skip
    assert len(Outbox(tmp_path / "outbox").waiting("gmail")) == 1


def test_no_secret_shows_wherever_it_is_kept_or_told(
    tmp_path: Path, house: MailHouse, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"http://user:{SECRET}@127.0.0.1:{free_port()}/{SECRET}?token={SECRET}"
    caplog.set_level(logging.DEBUG)
    teller = _teller(
        tmp_path, FAILED, webhook=url, ping=url,
        mail=replace(_mail(house), password=f"wrong-{SECRET}"),
    )  # fmt: skip
    assert len(teller.warnings) == 3
    ours = [record.getMessage() for record in caplog.records if record.name != "mail.log"]
    told = "\n".join([*teller.warnings, repr(teller), *ours])
    for path in (tmp_path / "home").rglob("*"):
        told += path.read_text() if path.is_file() else ""
    assert SECRET not in told
    assert PASSWORD not in told


@pytest.mark.parametrize(
    ("ending", "path"),
    [
        (_ending(), "/ping"), (_ending("unchanged"), "/ping"),
        (_ending("partial", ERROR), "/ping/fail"), (FAILED, "/ping/fail"),
        (_stopped(Interrupted("interrupted")), None),
        (_stopped(LockedError("at work")), None),
    ],
    ids=["success", "unchanged", "partial", "failed", "interrupted", "locked"],
)  # fmt: skip
def test_a_ping_tells_success_and_failure(
    receiver: Receiver, ending: Ending, path: str | None
) -> None:
    settings = PingSettings(f"{receiver.url}/ping/?x=1")
    ping_start(settings, "backup of docs")
    ping_end(settings, ending)
    wanted = ["/ping/start?x=1"]
    if path is not None:
        wanted.append({"/ping": "/ping/?x=1"}.get(path, f"{path}?x=1"))
    assert receiver.paths == wanted


def test_a_ping_s_addresses_and_its_way_can_be_chosen(receiver: Receiver) -> None:
    settings = PingSettings(
        f"{receiver.url}/ok", f"{receiver.url}/run", f"{receiver.url}/bad?state=fail",
        method="GET", partial_is_good=True,
    )  # fmt: skip
    ping_start(settings, "backup of docs")
    ping_end(settings, FAILED)
    ping_end(settings, _ending("partial", ERROR))
    ping_end(settings, _ending("unchanged", ERROR))
    ping_start(replace(settings, tell_start=False), "backup of docs")
    assert receiver.paths == ["/run", "/bad?state=fail", "/ok", "/ok"]
    assert {(r.method, r.body) for r in receiver.requests} == {("GET", b"")}


@pytest.mark.parametrize("code", [500, 503, 429])
def test_what_fails_for_a_moment_is_asked_again(receiver: Receiver, code: int) -> None:
    receiver.answers = [code, code]
    ping_end(PingSettings(receiver.url), _ending(), first_wait=0.01)
    assert len(receiver.requests) == 3


@pytest.mark.parametrize("code", [302, 307, 400, 404])
def test_what_fails_for_good_is_not_asked_again_and_nobody_is_sent_elsewhere(
    receiver: Receiver, code: int
) -> None:
    receiver.answers = [code]
    with pytest.raises(NoticeError, match=f"127.0.0.1: answered {code}"):
        ping_end(PingSettings(f"{receiver.url}/{SECRET}"), _ending(), first_wait=0.01)
    assert receiver.paths == [f"/{SECRET}"]


def test_headers_are_sent_and_one_that_can_t_be_shows_nothing(receiver: Receiver) -> None:
    settings = HttpSettings(receiver.url, {"Authorization": f"Bearer {SECRET}"})
    http.send(settings, b"{}", content_type="application/json", method="POST")
    assert receiver.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in repr(settings)
    with pytest.raises(NoticeError, match="can't be sent") as caught:
        http.send(
            replace(settings, headers={"X": f"{SECRET}\r\nY: z"}), b"", content_type="",
            method="POST",
        )  # fmt: skip
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://hc-ping.com/x", True), ("http://[::1]:80/x?y", True), ("ftp://host/x", False),
        ("file:///etc/passwd", False), ("https://", False), ("host/x", False), ("", False),
        ("https://host/a b", False), ("https://host/\r\nx", False), ("http://[::1/", False),
        ("http://host:99999/", False),
    ],
)  # fmt: skip
def test_only_web_addresses_are_addresses(url: str, good: bool) -> None:
    assert is_address(url) is good


def test_a_run_that_the_catalog_does_not_know_is_compared_with_none(tmp_path: Path) -> None:
    report = _ending().report
    assert run_before(report, None, f"sqlite:///{tmp_path}/c.db") is None
    assert run_before(report, "3f2a", f"sqlite:///{tmp_path}/c.db") is None
    assert not (tmp_path / "c.db").exists()
    (tmp_path / "c.db").write_text("this is no catalog")
    assert run_before(report, "3f2a", f"sqlite:///{tmp_path}/c.db") is None


def test_the_run_before_is_as_large_as_its_archive_though_a_consolidation_is_at_work(
    tmp_path: Path,
) -> None:
    job = WrittenJob(f"sqlite:///{tmp_path}/c.db", place=tmp_path)
    first = job.run(file("a"))
    second = job.run(file("a", "b"), base=first)
    job.consolidation(first, size=7000)
    before = run_before(_ending().report, second.run_id, job.url)
    job.close()
    assert before is not None
    assert before.size == 1000
