"""Passwords: from where, in which bytes, and which ones are spoken against."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pybak.errors import PlanError
from pybak.password import (
    LONGEST,
    PASSWORD_VARIABLE,
    encode,
    from_environment,
    judge,
    looks_like_path,
    prompt,
)


class TestEnvironment:
    def test_the_variable_gives_it(self) -> None:
        assert from_environment({PASSWORD_VARIABLE: " s p ace "}) == b" s p ace "
        assert from_environment({"OTHER": "x"}) is None

    def test_an_empty_one_is_refused_rather_than_taken_for_none(self) -> None:
        with pytest.raises(PlanError, match=r"PYBAK_PASSWORD.*empty"):
            from_environment({PASSWORD_VARIABLE: ""})

    def test_bytes_that_are_not_utf8_come_through(self) -> None:
        raw = b"p\xc3\xa4ss\xff\xfe"
        assert from_environment({PASSWORD_VARIABLE: os.fsdecode(raw)}) == raw

    def test_normal_forms_are_told_apart(self) -> None:
        """As 7-Zip and pyzipper do; both see the bytes only."""
        composed = "\N{LATIN SMALL LETTER A WITH DIAERESIS}"
        assert encode(composed) == b"\xc3\xa4"
        assert encode("a\N{COMBINING DIAERESIS}") == b"a\xcc\x88"


@pytest.mark.parametrize(
    "password",
    ["a", "1234567", "password", "Password1", "qwertz123", "aaaaaaaaaaaa", "12345678", "abcdefgh",
     "ABCDEFGHIJK", "letmein!", "ababababab", "S3cr3t!"],
)  # fmt: skip
def test_what_is_guessed_soon_is_warned_about_without_being_shown(password: str) -> None:
    said = judge(password.encode())
    assert said is not None
    assert "\n" not in said
    if len(password) > 1 and password != "password":
        assert password not in said


@pytest.mark.parametrize(
    "password",
    ["correct horse battery", "xK9$vq2L", "abcdefghijkl", "zn7fz3kx", "\u96ea" * 4 + "ab1x"],
)
def test_others_are_not(password: str) -> None:
    assert judge(password.encode()) is None


def test_what_seven_zip_can_not_take_is_warned_about() -> None:
    good = (b"correct horse battery staple " * 5)[:LONGEST]
    assert judge(good) is None
    assert "7-Zip" in str(judge(good + b"x"))


def test_a_path_in_the_place_of_a_password_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert looks_like_path(str(tmp_path / "docs"))
    assert looks_like_path(str(tmp_path / "dangling"))
    assert not looks_like_path(str(tmp_path / "no such"))
    assert not looks_like_path("a\0b")
    assert not looks_like_path("x" * 5000)


def answers(*given: str) -> Callable[[str], str]:
    rest = list(given)

    def ask(_question: str) -> str:
        if not rest:
            raise EOFError
        return rest.pop(0)

    return ask


class TestPrompt:
    def test_it_asks_once_to_open_and_twice_to_make(self) -> None:
        assert prompt(confirm=False, ask=answers("one", "two")) == b"one"
        assert prompt(confirm=True, ask=answers("one", "one")) == b"one"

    def test_there_are_three_tries(self, capsys: pytest.CaptureFixture[str]) -> None:
        ask = answers("one", "other", "", "two", "two")
        assert prompt(confirm=True, ask=ask) == b"two"
        said = capsys.readouterr()
        assert said.out == ""
        assert "differ" in said.err
        assert "empty" in said.err
        assert "one" not in said.err
        with pytest.raises(PlanError, match=r"no password.*PYBAK_PASSWORD"):
            prompt(confirm=True, ask=answers("a", "b", "a", "b", "a", "b", "c", "c"))
        with pytest.raises(PlanError, match="no password"):
            prompt(confirm=False, ask=answers("", "", "", "late"))

    def test_the_end_of_input_is_no_password(self) -> None:
        with pytest.raises(PlanError, match="no password"):
            prompt(confirm=True, ask=answers("only once"))

    CODE = (
        "from pybak.password import prompt\n"
        "from pybak.errors import PlanError\n"
        "try: print('got', len(prompt(confirm=True)))\n"
        "except PlanError as error: print(error)\n"
    )

    def test_without_a_terminal_the_variable_is_named(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", self.CODE], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, start_new_session=True, check=True, timeout=60,
        )  # fmt: skip
        assert "no terminal" in done.stdout
        assert "PYBAK_PASSWORD" in done.stdout
        assert done.stderr == ""

    def test_a_terminal_does_not_show_what_is_typed(self) -> None:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(sys.executable, [sys.executable, "-c", self.CODE])
        seen = b""
        try:
            for question in (b"Password: ", b"Password again: "):
                while not seen.endswith(question):
                    seen += os.read(terminal, 1000)
                os.write(terminal, b"hunter2 \xc3\xa4\n")
            while b"got" not in seen or not seen.endswith(b"\n"):
                seen += os.read(terminal, 1000)
        finally:
            os.waitpid(pid, 0)
            os.close(terminal)
        assert b"hunter2" not in seen
        assert b"got 10" in seen
