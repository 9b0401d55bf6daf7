"""`pybak doctor`: what is wrong with backups, their schedules and their machine; what to do."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, TextIO

from pybak.cli.building import Parsed, build_command
from pybak.cli.output import print_text
from pybak.display import columns, pad
from pybak.errors import ExitCode
from pybak.units import format_count

if TYPE_CHECKING:
    import click

    from pybak.doctor.finding import Finding

_COMMON: Final = ("json", "quiet", "debug", "version", "help")
_EPILOG: Final = """\
Findings are ok, note (worth knowing, no backup is in danger) or problem. With --quiet only
problems are told.

Exit codes: 0 no problem, 1 problems, 2 wrong usage, 130 interrupted."""
_COLOURS: Final = {"ok": "32", "note": "33", "problem": "1;31"}  # ECMA-48, SGR
_STATE_COLUMNS: Final = len("problem")
_SUBJECT_COLUMNS: Final = len("environment")
_NARROWEST: Final = 60
_LEAST_MARGIN: Final = 2
_WIDEST: Final = 120


def doctor_command() -> click.Command:
    """Make `pybak doctor`."""
    return build_command(
        "doctor",
        None,
        about="Check server, workers, schedules, backups and disks, and say what to do.",
        usage="[OPTIONS]",
        program="pybak doctor",
        epilog=_EPILOG,
        extras=(),
        groups={"This command": _COMMON},
        run=_doctor,
    )


def _doctor(parsed: Parsed) -> int:
    from pybak.doctor.examine import examine

    found: list[Finding] = []
    look = Look.of(sys.stdout)
    for one in examine(os.environ):
        found.append(one)
        if not parsed.view.json and (one.state == "problem" or not parsed.view.quiet):
            print_text(look.lines(one), sys.stdout)
    problems = sum(one.state == "problem" for one in found)
    if parsed.view.json:
        print_text(json.dumps(_json(found), indent=2) + "\n", sys.stdout)
    elif not parsed.view.quiet:
        print_text(f"\n{look.sum_of(found)}\n", sys.stdout)
    return ExitCode.FAILED if problems else ExitCode.DONE


class Look:
    """How findings look on a terminal of a width, coloured or not; `width` None never wraps."""

    def __init__(self, *, width: int | None, is_coloured: bool) -> None:
        self._width = width
        self._is_coloured = is_coloured

    @classmethod
    def of(cls, stream: TextIO | None) -> Look:
        """Give the look for a stream: each finding is one plain line where it is no terminal.

        `NO_COLOR` (https://no-color.org) and `TERM=dumb` turn colours off.
        """
        if stream is None or not stream.isatty():
            return cls(width=None, is_coloured=False)
        width = shutil.get_terminal_size((80, 24)).columns
        is_plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        return cls(width=min(max(width, _NARROWEST), _WIDEST), is_coloured=not is_plain)

    def lines(self, one: Finding) -> str:
        """Give a finding with its line end.

        Where it does not fit into one line, what to do stands below, and a command is never cut:
        it is there to be copied.
        """
        head = f"{self._word(one.state)}  {pad(one.subject, _SUBJECT_COLUMNS)}  "
        indent = _STATE_COLUMNS + _SUBJECT_COLUMNS + 4
        if self._width is None or indent + columns(one.line()) <= self._width:
            return f"{head}{one.line()}\n"
        room = self._width - indent
        told = _wrapped(one.text, room)
        if one.command and columns(one.what_to_do) > room:
            told += [*_wrapped(f"{one.advice}:", room)] if one.advice else []
            body = ("\n" + " " * indent).join(told)
            margin = " " * min(indent, max(self._width - columns(one.command), _LEAST_MARGIN))
            return f"{head}{body}\n{margin}{one.command}\n"
        told += _wrapped(one.what_to_do, room)
        return head + ("\n" + " " * indent).join(told) + "\n"

    def sum_of(self, found: Iterable[Finding]) -> str:
        """Give the last line: how many problems and notes there are."""
        counts = Counter(one.state for one in found)
        if not counts["problem"]:
            notes = f", {format_count(counts['note'], 'note')}" if counts["note"] else ""
            return f"{self._coloured('ok', 'No problem found')}{notes}."
        problems = self._coloured("problem", format_count(counts["problem"], "problem"))
        return f"{problems}, {format_count(counts['note'], 'note')}, {counts['ok']} ok."

    def _word(self, state: str) -> str:
        return self._coloured(state, state) + " " * (_STATE_COLUMNS - len(state))

    def _coloured(self, state: str, text: str) -> str:
        return f"\x1b[{_COLOURS[state]}m{text}\x1b[0m" if self._is_coloured else text


def _wrapped(text: str, room: int) -> list[str]:
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)


def _json(found: Iterable[Finding]) -> dict[str, Any]:
    findings = [
        {
            "subject": one.subject,
            "state": one.state,
            "text": one.text,
            "advice": one.advice,
            "command": one.command,
        }
        for one in found
    ]
    problems = sum(one["state"] == "problem" for one in findings)
    return {
        "status": "problems" if problems else "success",
        "problems": problems,
        "notes": sum(one["state"] == "note" for one in findings),
        "findings": findings,
        "errors": [],
    }
