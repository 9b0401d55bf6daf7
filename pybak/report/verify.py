"""What a check of archives found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from pybak.display import escape, printable
from pybak.errors import ExitCode
from pybak.problems import DAMAGED, NOT_FOUND, WRONG_PASSWORD, Problem
from pybak.report.forms import problems_json
from pybak.report.phrases import (
    NAMED_FILES,
    because,
    duration,
    grouped,
    of_files,
)
from pybak.report.status import CANCELLED, EXIT_CODES, FAILED, SUCCESS
from pybak.report.told import Told
from pybak.units import format_count

_UNREAD_CODES: Final = {
    WRONG_PASSWORD: ExitCode.WRONG_PASSWORD,
    NOT_FOUND: ExitCode.NOT_FOUND,
}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of an archive was read: the `slice`th, counted from 0, of `slices`."""

    percent: float = 100.0
    slice: int = 0
    slices: int = 1


class ArchiveCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What checking one archive found.

    `status` is `success`, `damaged` (bytes are not what they were) or `failed` (it could not be
    found or read). `code` is the problem code of what kept it from being read at all. `members`
    counts all, `checked` those that were read: fewer if there is a `sample`. `damaged` names the
    bad ones, each with its reason as a problem. `message` says what is wrong with the archive as
    a whole, `notes` what else is worth knowing.
    """

    archive: str
    status: str
    members: int = 0
    checked: int = 0
    sample: Sample | None = None
    damaged: tuple[Problem, ...] = ()
    bytes_read: int = 0
    code: str | None = None
    message: str | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give one element of `archives`."""
        return {
            "archive": self.archive,
            "status": self.status,
            "members": self.members,
            "checked": self.checked,
            "sample": None if self.sample is None else msgspec.structs.asdict(self.sample),
            "damaged": [problem.path for problem in self.damaged],
            "bytes_read": self.bytes_read,
            "message": self.message,
            "notes": list(self.notes),
        }

    def problems(self) -> tuple[Problem, ...]:
        """Give what is wrong with the archive as a whole, if it could not be read, and inside."""
        if self.code is None:
            return self.damaged
        return (Problem("", self.code, self.message or ""), *self.damaged)


class VerifyReport(Told, frozen=True, kw_only=True):
    """What a check of one or more archives found; `status` is failed if any is not whole."""

    status: str
    archives: tuple[ArchiveCheck, ...] = ()
    duration_seconds: float = 0.0
    errors: tuple[Problem, ...] = ()
    message: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with: damage counts most, then a locked archive, then none."""
        if self.status == FAILED and not any(check.status == DAMAGED for check in self.archives):
            codes = {check.code for check in self.archives}
            for code, exit_code in _UNREAD_CODES.items():
                if code in codes:
                    return exit_code
        return EXIT_CODES[self.status]

    def to_json(self) -> dict[str, Any]:
        """Give the object that `--json` prints."""
        return {
            "status": self.status,
            "archives": [check.to_json() for check in self.archives],
            "duration_seconds": round(self.duration_seconds, 3),
            "stages": msgspec.to_builtins(list(self.stages)),
            "errors": [
                *problems_json(self.errors),
                *(
                    {"archive": check.archive, **problem}
                    for check in self.archives
                    for problem in problems_json(check.problems())
                ),
            ],
            "message": self.message,
        }

    def headline(self) -> str:
        """Say in one line how it went."""
        if self.status == CANCELLED or not self.archives:
            return f"Verify {because(self.status, self.message)}"
        bad = len(self._bad())
        if not bad:
            whole = "is whole" if len(self.archives) == 1 else "are whole"
            if any(check.sample for check in self.archives):
                whole += ", as far as read"
            return f"{format_count(len(self.archives), 'archive')} {whole}"
        return f"{grouped(bad)} of {format_count(len(self.archives), 'archive')} not whole"

    def _named(self) -> tuple[ArchiveCheck, ...]:
        """Give the archives that are told one by one: all of a few, of many those not whole."""
        if len(self.archives) <= NAMED_FILES:
            return self.archives
        return self._bad()[:NAMED_FILES]

    def _bad(self) -> tuple[ArchiveCheck, ...]:
        return tuple(check for check in self.archives if check.status != SUCCESS)

    def _facts(self) -> Iterator[tuple[str, str]]:
        named = self._named()
        for check in named:
            yield "Archive", printable(check.archive)
            if check.code is not None:
                yield "", escape(check.message or check.code)
                continue
            counted = format_count(check.members, "member")
            if check.sample is not None:
                part, parts = check.sample.slice + 1, check.sample.slices
                counted = f"{grouped(check.checked)} of {counted}, part {part} of {parts}"
            if check.damaged:
                counted += f", {grouped(len(check.damaged))} damaged"
            yield "", counted + (f"; {escape(check.message)}" if check.message else "")
            for note in check.notes:
                yield "Note", escape(note)
        if len(named) < len(self.archives):
            whole = len(self.archives) - len(self._bad())
            yield "Whole", format_count(whole, "archive")
        if self.archives:
            yield (
                "Time",
                duration(self.duration_seconds, sum(check.bytes_read for check in self.archives)),
            )

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        named, bad = self._named(), self._bad()
        for check in named:
            label = "Damaged"
            if len(self.archives) > 1:
                label += f" in {printable(check.archive)}"
            yield label, len(check.damaged), check.damaged
        if len(named) < len(bad):
            others = [
                Problem(
                    check.archive, check.code or check.status,
                    check.message or f"{format_count(len(check.damaged), 'member')} damaged",
                )
                for check in bad[len(named) :]
            ]  # fmt: skip
            yield "Also not whole", len(others), others
        errors = of_files(self.errors, self.message)
        yield "Failed", len(errors), errors
