"""What a check found: one line, with what to do about it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Literal

import msgspec

from pybak.display import escape

State = Literal["ok", "note", "problem"]

OK: Final = "ok"
NOTE: Final = "note"
PROBLEM: Final = "problem"
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400


class Finding(msgspec.Struct, frozen=True):
    """One finding. `advice` says what to do, `command` is what to type or to set for that."""

    subject: str
    state: State
    text: str
    advice: str | None = None
    command: str | None = None

    @property
    def what_to_do(self) -> str:
        """Advice and command in one line; "" where there is nothing to do."""
        return ": ".join(part for part in (self.advice, self.command) if part)

    def line(self) -> str:
        """Give it as one line, without subject and state."""
        return "; ".join(part for part in (self.text, self.what_to_do) if part)


class Findings:
    """The findings about one subject, in the order in which they are told."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.found: list[Finding] = []

    def ok(self, text: str) -> None:
        """Say that something is as it should be."""
        self._add(OK, text)

    def note(self, text: str, advice: str | None = None, command: str | None = None) -> None:
        """Say what is worth knowing, but keeps no backup from being made."""
        self._add(NOTE, text, advice, command)

    def problem(self, text: str, advice: str | None = None, command: str | None = None) -> None:
        """Say what is wrong, and what to do."""
        self._add(PROBLEM, text, advice, command)

    def _add(self, state: State, text: str, *more: str | None) -> None:
        shown = [None if part is None else escape(part) for part in more]
        self.found.append(Finding(self.subject, state, escape(text), *shown))


def ago(since: timedelta) -> str:
    """Say how long ago something was: `40 seconds`, `3 hours`, `12 days`; rounded down."""
    return about(since.total_seconds())


def about(seconds: float) -> str:
    """Give a time in its largest unit, with a whole number of at least two where it can."""
    whole = max(0, int(seconds))
    for unit, size in (("day", _DAY), ("hour", _HOUR), ("minute", _MINUTE)):
        if whole >= 2 * size:
            return f"{whole // size} {unit}s"
    return "1 second" if whole == 1 else f"{whole} seconds"
