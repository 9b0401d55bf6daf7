"""What mails and webhooks say."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pybak.errors import StorageError
from pybak.notify import payload as payloads
from pybak.notify.compare import Before
from pybak.notify.ending import Ending, report_of
from pybak.notify.message import NAMED, Written, write_mail
from pybak.notify.past import Past
from pybak.notify.payload import payload
from pybak.notify.rest import KEPT, leave_report
from pybak.notify.rules import decide
from pybak.problems import Problem
from pybak.report import BackupReport, FileCounts

NOW = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
ARCHIVE = "/mnt/backups/docs_20261121_101500.zip"


def _ending(status: str = "success", errors: tuple[Problem, ...] = (), **more: Any) -> Ending:
    report = BackupReport(
        status=status, run_id="3f2a91c0", job="docs", archive=ARCHIVE, format="zip",
        files=FileCounts(new=200, failed=len(errors)), folders=12, bytes_read=1_000_000_000,
        bytes_stored=400_000_000, duration_seconds=42.0, errors=errors,
    )  # fmt: skip
    start = NOW - timedelta(seconds=44)
    return replace(Ending("backup", "docs", "nas", start, NOW, report, flow_run="f1"), **more)


def _written(ending: Ending, past: Past = Past(), **more: Any) -> Written:  # noqa: B008
    return write_mail(ending, decision=decide("always", ending, past), **more)


class _Page(HTMLParser):
    """The text of a page, its tags, and everything that it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self._is_style = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._is_style = tag == "style"
        self.loads += [str(v) for name, v in attrs if name in ("src", "href", "background")]

    def handle_endtag(self, tag: str) -> None:
        self._is_style = False

    def handle_data(self, data: str) -> None:
        if self._is_style:
            self.loads += ["style"] if "url(" in data or "@import" in data else []
        elif data.strip():
            self.text.append(" ".join(data.split()))


def test_a_mail_says_what_was_done_and_where_the_archive_is() -> None:
    mail = _written(_ending())
    assert mail.subject == "[PyBak] OK: backup of docs on nas"
    page = _Page(mail.html)
    for said in ("docs", "nas", ARCHIVE, "212", "2.50", "400 MB", "1.00 GB", "42 s"):
        expected = said if said != "212" else "200 files in 12 folders"
        assert expected in mail.text
        assert any(expected in text for text in page.text), expected
    assert "#1a7f4b" in mail.html


def test_a_page_loads_nothing_and_fits_a_phone_and_the_dark() -> None:
    mail = _written(_ending())
    page = _Page(mail.html)
    assert page.loads == []
    assert not {"script", "img", "link", "iframe", "a"} & set(page.tags)
    assert 'name="viewport"' in mail.html
    assert "max-width: 600px" in mail.html
    assert "prefers-color-scheme: dark" in mail.html
    assert page.tags.count("html") == 1


@pytest.mark.parametrize(
    ("status", "word", "colour"),
    [
        ("success", "OK", "#1a7f4b"), ("partial", "PARTIAL", "#9a5b00"),
        ("failed", "FAILED", "#b3261e"), ("cancelled", "cancelled", "#4a5568"),
        ("unchanged", "unchanged", "#4a5568"),
    ],
)  # fmt: skip
def test_the_state_is_told_in_a_word_and_a_colour(status: str, word: str, colour: str) -> None:
    mail = _written(_ending(status))
    assert mail.subject.startswith(f"[PyBak] {word}: ")
    assert mail.text.startswith(f"{word}: ")
    assert f"background: {colour}; color: #ffffff" in mail.html
    assert f">{word}<" in mail.html


def test_the_first_fifty_failed_files_are_named_the_others_counted() -> None:
    errors = tuple(
        Problem(f"/home/ann/{n:03d}.txt", "unreadable", "permission denied") for n in range(75)
    )
    mail = _written(_ending("partial", errors), rest="/var/lib/pybak/reports/3f2a91c0.json")
    for form in (mail.text, " ".join(_Page(mail.html).text)):
        assert f"/home/ann/{NAMED - 1:03d}.txt" in form
        assert f"/home/ann/{NAMED:03d}.txt" not in form
        assert "and 25 more" in form
        assert "/var/lib/pybak/reports/3f2a91c0.json" in form


def test_names_can_be_neither_markup_nor_control_characters_nor_headers() -> None:
    name = "/home/<script>alert(1)</script>&\u202e\r\nBcc: eve@x\x1b[31m\udcff"
    job = "docs\r\nBcc: eve@example.org\x00\u202e<b>"
    errors = (Problem(name, "io_error", f"{name}: input/output error \x07"),)
    mail = _written(_ending("partial", errors, what=job, machine="nas\n\x1b[2J", notes=("a\r\nb",)))
    page = _Page(mail.html)
    assert "script" not in page.tags
    assert "b" not in page.tags
    for form in (mail.subject, mail.text, mail.html):
        assert not set(form) & set("\x00\x07\r\x1b\u202e\udcff")
        form.encode()
    assert "\n" not in mail.subject
    assert r"\xff" in mail.text
    assert not any(line.startswith("Bcc:") for line in mail.text.splitlines())
    assert any("<script>alert(1)</script>" in text for text in page.text)


def test_a_run_is_set_beside_the_one_before() -> None:
    before = Before(
        NOW - timedelta(days=1), "success", seconds=40.0, files=190, size=200_000_000, failed=1,
        new_failures=2,
    )  # fmt: skip
    errors = tuple(Problem(f"/{n}", "io_error", "input/output error") for n in range(3))
    mail = _written(_ending("partial", errors), before=before)
    for form in (mail.text, " ".join(_Page(mail.html).text)):
        assert "2026-11-20 10:15:00" in form
        assert "400 MB, was 200 MB (+100%)" in form
        assert "203, was 190 (+13)" in form
        assert "44 s, was 40 s" in form
        assert "3, was 1 (2 new)" in form
    assert "was" not in _written(_ending("failed"), before=before).text


def test_an_error_and_how_often_it_came_is_told() -> None:
    failed = Ending(
        "backup", "docs", "nas", NOW, NOW, report_of("backup", StorageError("/mnt: disk is full")),
        notes=("--after: ended with 3: busy",),
    )  # fmt: skip
    past = decide("always", failed, Past()).past
    mail = _written(failed, past)
    assert mail.subject == "[PyBak] FAILED: backup of docs on nas"
    for form in (mail.text, " ".join(_Page(mail.html).text)):
        assert "disk is full" in form
        assert "2nd run in a row with a problem, since 2026-11-21 10:15:00" in form
        assert "--after: ended with 3: busy" in form
    good = _written(_ending(), past)
    assert good.subject == "[PyBak] OK: backup of docs on nas (good again)"
    assert "All is well again, after 1 run with a problem" in good.text


@pytest.mark.parametrize(
    "kind", ["backup", "restore", "verify", "prune", "rebuild", "drill", "transfer"]
)
def test_every_kind_of_run_has_a_mail(kind: str) -> None:
    ending = Ending(kind, "docs", "nas", NOW, NOW, report_of(kind, StorageError("no disk there")))
    mail = _written(ending)
    assert f"FAILED: {kind} of docs on nas" in mail.subject
    assert "no disk there" in mail.text
    assert "no disk there" in mail.html


def test_a_webhook_gets_the_report_of_json() -> None:
    ending = _ending("partial", (Problem("/a\udcff", "io_error", "input/output error"),))
    data = json.loads(payload(ending))
    assert data["event"] == "run-ended"
    assert data["kind"] == "backup"
    assert data["job"] == "docs"
    assert data["status"] == "partial"
    assert data["is_problem"] is True
    assert data["archive"] == ARCHIVE
    assert data["started_at"] == "2026-11-21T10:14:16+00:00"
    assert data["report"]["files"]["failed"] == 1
    assert data["report"]["errors"][0]["path"] == r"/a\udcff"
    assert data["truncated"] is False


def test_a_report_that_is_too_large_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "MOST_BYTES", 10_000)
    errors = tuple(Problem(f"/{n}", "io_error", "input/output error") for n in range(1000))
    data = json.loads(payload(_ending("partial", errors)))
    assert data["truncated"] is True
    assert len(data["report"]["errors"]) == NAMED
    assert data["report"]["files"]["failed"] == 1000


def test_whole_reports_lie_on_disk_a_few_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    for number in range(KEPT + 5):
        path = leave_report(folder, f"run-{number}/../x", {"name": "a\udcff"})
        assert path is not None
        assert path.parent == folder
        assert path.stat().st_mode & 0o777 == 0o600
    assert len(list(folder.iterdir())) == KEPT
    assert json.loads(path.read_text()) == {"name": "a\udcff"}
    (tmp_path / "file").write_text("")
    assert leave_report(tmp_path / "file", "run", {}) is None
