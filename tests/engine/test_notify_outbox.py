"""Mails that wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pybak.notify.letter import MOST_SUBJECT, Letter
from pybak.notify.outbox import MOST_AGE, MOST_BYTES, MOST_LETTERS, Outbox

NOW = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)


def _letter(subject: str = "subject", block: str = "mail") -> Letter:
    return Letter.write(
        block, subject=subject, text="text", html="<p>html</p>", status="failed", now=NOW
    )


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "home" / "outbox")


def test_a_letter_comes_back_as_it_was_put(outbox: Outbox, tmp_path: Path) -> None:
    letter = _letter()
    path = outbox.put(letter, NOW)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with outbox.claimed(path) as found:
        assert found == letter
    outbox.remove(path)
    assert os.listdir(path.parent) == []


def test_letters_of_one_block_are_given_oldest_first(outbox: Outbox) -> None:
    late = outbox.put(_letter(), NOW + timedelta(hours=1))
    early = outbox.put(_letter(), NOW)
    other = outbox.put(_letter(block="other"), NOW)
    assert outbox.waiting("mail") == [early, late]
    assert outbox.waiting("other") == [other]
    assert len(outbox.waiting()) == 3


def test_a_letter_is_held_by_one_run_at_a_time(outbox: Outbox) -> None:
    path = outbox.put(_letter(), NOW)
    with outbox.claimed(path) as mine:
        assert mine is not None
        with outbox.claimed(path) as other:
            assert other is None
        code = (
            "import sys; from pathlib import Path; from pybak.notify.outbox import Outbox\n"
            "path = Path(sys.argv[1])\n"
            "with Outbox(path.parent).claimed(path) as found: print(found)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        assert done.stdout == "None\n"
    with outbox.claimed(path) as again:
        assert again is not None


def test_a_letter_that_was_sent_meanwhile_is_not_sent_again(outbox: Outbox) -> None:
    path = outbox.put(_letter(), NOW)
    outbox.remove(path)
    with outbox.claimed(path) as found:
        assert found is None


def test_what_is_too_old_goes(outbox: Outbox) -> None:
    outbox.put(_letter("old"), NOW - MOST_AGE - timedelta(seconds=1))
    new = outbox.put(_letter("new"), NOW - MOST_AGE + timedelta(seconds=1))
    assert outbox.tidy(NOW) == 1
    assert outbox.waiting() == [new]


def test_what_is_too_much_goes_the_oldest_first(outbox: Outbox) -> None:
    paths = [
        outbox.put(_letter(str(n)), NOW + timedelta(seconds=n)) for n in range(MOST_LETTERS + 3)
    ]
    assert outbox.tidy(NOW) == 3
    assert outbox.waiting() == paths[3:]
    assert outbox.tidy(NOW) == 0


def test_what_a_kill_left_goes_after_an_hour(outbox: Outbox) -> None:
    path = outbox.put(_letter(), NOW)
    unfinished = path.with_suffix(".new")
    path.rename(unfinished)
    assert outbox.waiting() == []
    outbox.tidy(NOW + timedelta(minutes=59))
    assert unfinished.exists()
    outbox.tidy(NOW + timedelta(minutes=61))
    assert not unfinished.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b'{"block": "mail"}', b"\xff\xfe"])
def test_a_file_that_is_no_letter_is_passed_over(outbox: Outbox, content: bytes) -> None:
    path = outbox.put(_letter(), NOW)
    path.write_bytes(content)
    good = outbox.put(_letter(), NOW + timedelta(seconds=1))
    assert outbox.waiting("mail") == [good]
    with outbox.claimed(path) as found:
        assert found is None


def test_a_run_without_news_leaves_those_alone_that_were_just_tried(outbox: Outbox) -> None:
    pause = timedelta(minutes=10)
    assert not outbox.is_due("mail", NOW, pause)
    path = outbox.put(_letter(), NOW)
    os.utime(path, (0, NOW.timestamp()))
    assert not outbox.is_due("mail", NOW + timedelta(minutes=9), pause)
    assert outbox.is_due("mail", NOW + timedelta(minutes=11), pause)
    assert not outbox.is_due("other", NOW + timedelta(minutes=11), pause)
    outbox.trying("mail")
    assert not outbox.is_due("mail", datetime.now(UTC), pause)


def test_what_is_set_aside_waits_again_after_a_day_and_keeps_its_age(outbox: Outbox) -> None:
    path = outbox.put(_letter(), NOW)
    os.utime(path, (0, NOW.timestamp()))
    outbox.set_aside(path)
    outbox.tidy(NOW + timedelta(hours=23))
    assert outbox.waiting("mail") == []
    [aside] = outbox.waiting()
    assert aside.stem == path.stem
    outbox.tidy(NOW + timedelta(hours=25))
    assert outbox.waiting("mail") == [path]
    outbox.set_aside(path)
    assert outbox.tidy(NOW + MOST_AGE + timedelta(seconds=1)) == 1
    assert outbox.waiting() == []


def test_a_letter_that_would_not_be_read_again_is_not_kept(outbox: Outbox) -> None:
    letter = replace(_letter(), html="x" * MOST_BYTES)
    with pytest.raises(OSError, match="File too large"):
        outbox.put(letter, NOW)
    assert outbox.waiting() == []


def test_a_folder_that_can_t_be_written_is_an_error_and_an_empty_outbox(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outbox = Outbox(tmp_path / "file" / "outbox")
    with pytest.raises(OSError, match="Not a directory"):
        outbox.put(_letter(), NOW)
    assert outbox.waiting() == []
    assert outbox.tidy(NOW) == 0


def test_a_subject_is_one_line_that_fits() -> None:
    letter = _letter("a\r\nb\tc\x1b" + "x" * 500)
    assert letter.subject.startswith(r"a b c\x1bxxx")
    assert len(letter.subject) == MOST_SUBJECT
    assert json.loads(letter.to_json())["subject"] == letter.subject
