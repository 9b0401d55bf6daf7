"""Passwords on the command line: what gives one, what is refused, and that none ever shows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pybak.cli import (
    Password,
    View,
    backup_command,
    hand_over,
    main,
    passwords,
    restore_command,
    verify_command,
    warn_if_weak,
)
from pybak.cli.look import find_command, list_command
from pybak.errors import PlanError

SECRET = "Tr0ub4dor & 3"
COMMANDS: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "backup": (backup_command, ["a"]),
    "restore": (restore_command, ["a.zip", "--to", "d"]),
    "verify": (verify_command, ["a.zip"]),
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("PYBAK_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def docs(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()


def run(command: str, *words: str) -> tuple[int, Any]:
    requests: list[Any] = []

    def keep(request: Any) -> int:
        requests.append(request)
        return 0

    return main(COMMANDS[command][0](keep), words), requests[0] if requests else None


def accepted(command: str, *words: str) -> Password:
    code, request = run(command, *COMMANDS[command][1], *words)
    assert code == 0
    assert SECRET not in repr(request)
    password: Password = request.password
    assert request.options.password_block == password.block
    return password


def refused(capsys: pytest.CaptureFixture[str], command: str, *words: str) -> str:
    code, request = run(command, *words)
    captured = capsys.readouterr()
    assert (code, request, captured.out) == (2, None, "")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("pybak: ").rstrip("\n")


# ---- what gives one


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "words", [["-p", SECRET], ["-p" + SECRET], ["--password", SECRET], ["--password=" + SECRET]]
)
def test_the_line_gives_a_password(command: str, words: list[str]) -> None:
    password = accepted(command, *words)
    assert password.settled(confirm=False).secret() == SECRET.encode()


@pytest.mark.parametrize("words", [["-p"], ["--password"], ["-p", "--quiet"], ["-p", "--", "b"]])
def test_alone_it_asks(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    asked: list[bool] = []

    def prompt(*, confirm: bool) -> bytes:
        asked.append(confirm)
        return b"typed"

    monkeypatch.setattr(passwords, "prompt", prompt)
    password = accepted("backup", *words)
    assert asked == []
    assert password.settled(confirm=True).secret() == b"typed"
    assert asked == [True]


def test_the_environment_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_PASSWORD", SECRET)
    assert accepted("verify").value == SECRET.encode()
    assert accepted("verify", "-p", "other one").value == b"other one"


def test_bytes_that_are_no_utf8_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_PASSWORD", "sch\udce9")
    password = accepted("restore")
    assert password.value == b"sch\xe9"
    environ: dict[str, str] = {}
    hand_over(environ, password)
    assert environ == {"PYBAK_PASSWORD": "sch\udce9"}


def test_without_one_there_is_none() -> None:
    password = accepted("backup")
    assert not password
    assert password.settled(confirm=True).secret() is None


def test_a_block_is_named_on_any_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert accepted("backup", "--password-block", "key").block == "key"
    monkeypatch.setenv("PYBAK_PASSWORD_BLOCK", "key")
    assert accepted("backup").block == "key"
    monkeypatch.delenv("PYBAK_PASSWORD_BLOCK")
    Path("c.json").write_text(json.dumps({"password_block": "key"}))
    assert accepted("backup", "--config", "c.json").block == "key"


# ---- more than one


def test_the_line_beats_the_environment_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("c.json").write_text(json.dumps({"password_block": "filed"}))
    monkeypatch.setenv("PYBAK_PASSWORD", "from the environment")
    given = accepted("backup", "--config", "c.json")
    assert (given.value, given.block) == (b"from the environment", None)
    given = accepted("backup", "--password-block", "key")
    assert (given.value, given.block) == (None, "key")
    monkeypatch.delenv("PYBAK_PASSWORD")
    monkeypatch.setenv("PYBAK_PASSWORD_BLOCK", "key")
    given = accepted("backup", "-p", SECRET)
    assert (given.value, given.block) == (SECRET.encode(), None)


def test_two_on_one_layer_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(capsys, "backup", "a", "-p", SECRET, "--password-block", "key") == (
        "--password and --password-block exclude each other; give the password one way"
    )
    monkeypatch.setenv("PYBAK_PASSWORD", SECRET)
    monkeypatch.setenv("PYBAK_PASSWORD_BLOCK", "key")
    assert refused(capsys, "verify", "a.zip") == (
        "PYBAK_PASSWORD and PYBAK_PASSWORD_BLOCK exclude each other; give the password one way"
    )


# ---- what is refused


@pytest.mark.parametrize("words", [["-p", "docs", "a"], ["a", "--password", "docs"]])
def test_a_path_is_no_password(
    capsys: pytest.CaptureFixture[str], docs: None, words: list[str]
) -> None:
    line = refused(capsys, "backup", *words)
    assert line == (
        "--password: what follows it is there as a file or folder; put -p at the end of the line "
        "to be asked, or write --password=PASSWORD if it is one"
    )


@pytest.mark.parametrize("words", [["-pdocs"], ["--password=docs"], ["-p", "docs2"]])
def test_what_can_only_be_meant_is_taken(docs: None, words: list[str]) -> None:
    assert accepted("backup", *words).value in (b"docs", b"docs2")


@pytest.mark.parametrize("word", ["-p", "--password"])
def test_an_empty_one_is_refused(capsys: pytest.CaptureFixture[str], word: str) -> None:
    line = refused(capsys, "restore", "a.zip", "--to", "d", word, "")
    assert line == "--password: the password is empty; give one, or none at all"


def test_an_empty_variable_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets it wants no archive that is open to all."""
    monkeypatch.setenv("PYBAK_PASSWORD", "")
    line = refused(capsys, "backup", "a")
    assert line == "PYBAK_PASSWORD: is empty; unset it, or put the password there"
    assert accepted("backup", "-p", SECRET).value == SECRET.encode()


@pytest.mark.parametrize("key", ["password", "Password", "PYBAK_PASSWORD", "passphrase"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_holds_no_password(
    capsys: pytest.CaptureFixture[str], command: str, key: str
) -> None:
    Path("c.yaml").write_text(f"{key}: '{SECRET}'\n")
    line = refused(capsys, command, "--config", "c.yaml")
    assert line.endswith("use -p, PYBAK_PASSWORD, or password_block: NAME")
    assert SECRET not in line


def test_a_password_that_begins_with_a_dash_does_not_show(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for word in ("-secret", "--secret"):
        line = refused(capsys, "backup", "a", "-p", word)
        assert line == "--password: what follows it begins with -; write it as --password=PASSWORD"
    for word in ("--password=--secret", "-p--secret"):
        assert accepted("backup", word).value == b"--secret"


@pytest.mark.parametrize("how", ["line", "prompt", "environment"])
def test_workers_elsewhere_get_no_password_over_the_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    words = {"line": ["-p", SECRET], "prompt": ["-p"], "environment": []}[how]
    if how == "environment":
        monkeypatch.setenv("PYBAK_PASSWORD", SECRET)
    line = refused(capsys, "backup", "a", "--cluster", "tcp://h:1", *words)
    assert "does not reach the workers of tcp://h:1" in line
    assert "--password-block" in line
    monkeypatch.delenv("PYBAK_PASSWORD", raising=False)
    assert accepted("backup", "--cluster", "tcp://h:1", "--password-block", "key").block == "key"


def test_hidden_names_need_a_password() -> None:
    assert accepted("backup", "--hide-names", "-p").ask
    assert accepted("backup", "--hide-names", "--password-block", "key").block == "key"


# ---- handing over


def test_a_block_leaves_no_other_password_to_workers() -> None:
    environ = {"PYBAK_PASSWORD": "old", "HOME": "/"}
    hand_over(environ, Password(block="key"))
    assert environ == {"HOME": "/"}


def test_a_password_reaches_workers_by_the_environment() -> None:
    environ: dict[str, str] = {}
    hand_over(environ, Password(SECRET.encode()))
    assert environ == {"PYBAK_PASSWORD": SECRET}
    with pytest.raises(PlanError, match="NUL"):
        hand_over(environ, Password(b"a\0b"))


def test_a_weak_one_is_told_on_stderr_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    warn_if_weak(b"hunter2", View(json=True))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pybak: warning: the password ")
    assert captured.err.count("\n") == 1
    assert "hunter2" not in captured.err
    warn_if_weak(b"hunter2", View(quiet=True))
    warn_if_weak(b"correct horse battery staple", View())
    assert capsys.readouterr() == ("", "")


def test_the_looking_commands_follow_the_same_rules(
    capsys: pytest.CaptureFixture[str], docs: None
) -> None:
    for make in (list_command, find_command):
        assert main(make(), ["x", "y", "-p", "docs"]) == 2
        assert "what follows it is there" in capsys.readouterr().err
        assert main(make(), ["x", "y", "-p", SECRET, "--password-block", "key"]) == 2
        assert "exclude each other" in capsys.readouterr().err
