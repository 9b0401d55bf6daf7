"""`pybak doctor` as people and scripts see it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from looking import look

from pybak.cli.doctor import Look
from pybak.doctor.finding import Finding

LONG = "prefect gcl update deployment:3afc9ecb-bc77-4c87-be25-9d3a93fbc70b --active-slots 0"
FOUND = (
    Finding("server", "ok", "Prefect 3.8.8 answers"),
    Finding("schedules", "note", "prune is paused", "switch it on"),
    Finding("slots", "problem", "1 of 1 slot taken, " * 4, "free it", LONG),
)


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    given = list(FOUND)

    def examine(_environ: Any) -> Iterator[Finding]:
        yield from given

    monkeypatch.setattr("pybak.doctor.examine.examine", examine)
    return given


def test_each_finding_is_one_line_with_what_to_do(
    capsys: pytest.CaptureFixture[str], findings: list[Finding]
) -> None:
    code, out, err = look(capsys, "doctor")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[1] == "note     schedules    prune is paused; switch it on"
    assert lines[2].endswith(f"; free it: {LONG}")
    assert lines[3:] == ["", "1 problem, 1 note, 1 ok."]
    assert "\x1b" not in out


def test_without_problems_it_ends_well(
    capsys: pytest.CaptureFixture[str], findings: list[Finding]
) -> None:
    findings.pop()
    code, out, _ = look(capsys, "doctor")
    assert code == 0
    assert out.endswith("\nNo problem found, 1 note.\n")


def test_quiet_tells_problems_alone(
    capsys: pytest.CaptureFixture[str], findings: list[Finding]
) -> None:
    code, out, _ = look(capsys, "doctor", "--quiet")
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["problem"]


def test_json_holds_all_of_it(capsys: pytest.CaptureFixture[str], findings: list[Finding]) -> None:
    code, out, _ = look(capsys, "doctor", "--json")
    parsed = json.loads(out)
    assert (code, parsed["status"], parsed["problems"], parsed["notes"]) == (1, "problems", 1, 1)
    assert parsed["findings"][1] == {
        "subject": "schedules", "state": "note", "text": "prune is paused",
        "advice": "switch it on", "command": None,
    }  # fmt: skip


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_and_commands_on_a_line_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    told = Look.of(Screen()).lines(FOUND[2])
    assert told.startswith("\x1b[1;31mproblem\x1b[0m  slots ")
    lines = told.splitlines()
    assert lines[-2].strip() == "free it:"
    assert lines[-1] == f"  {LONG}"  # longer than the terminal is wide, but in one piece
    assert max(len(line) for line in lines[1:-1]) <= 80
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in Look.of(Screen()).lines(FOUND[2])


def test_a_wrong_option_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = look(capsys, "doctor", "--fix")
    assert code == 2
    assert "no option --fix" in err


def test_help_names_both_new_commands(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = look(capsys, "--help")
    assert "doctor" in out
    assert "logs" in out
