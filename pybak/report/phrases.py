"""Turns of phrase that the reports share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pybak.display import ELLIPSIS, escape, printable
from pybak.problems import Problem
from pybak.units import format_count, format_duration, format_size

NAMED_FILES: Final = 20
"""How many failed, skipped or damaged files are named for people."""

_RATE_FROM_BYTES: Final = 1_000_000  # below this the fixed cost hides the rate


def grouped(count: int) -> str:
    """Give a number with its thousands set apart."""
    return f"{count:,}".replace(",", "\N{NO-BREAK SPACE}")


def joined(*phrases: str) -> str:
    """Join phrases by commas, but for empty ones."""
    return ", ".join(phrase for phrase in phrases if phrase)


def found(files: int, folders: int) -> str:
    """Say how many files in how many folders."""
    phrase = format_count(files, "file")
    return phrase + (f" in {format_count(folders, 'folder')}" if folders else "")


def failures(failed: int, errors: Sequence[Problem]) -> str:
    """Say how many files failed, or how many problems there were."""
    if failed:
        return f"{format_count(failed, 'file')} failed"
    return format_count(len(errors), "problem")  # such as a pattern that matched nothing


def because(status: str, message: str | None) -> str:
    """Say how a run ended and why."""
    return f"{status}: {escape(message)}" if message else status


def ratio(read: int, stored: int) -> str:
    """Say how much smaller the archive is, after a size; nothing if that can't be told."""
    if not read or not stored:
        return ""
    share = f" ({stored / read:.0%} of the size)" if stored <= read else ""
    return f", ratio {read / stored:.2f}{share}"


def duration(seconds: float, size_bytes: int) -> str:
    """Say how long it took, and for enough bytes at which rate."""
    text = format_duration(seconds)
    if seconds > 0 and size_bytes >= _RATE_FROM_BYTES:
        text += f", {format_size(size_bytes / seconds)}/s"
    return text


def excluded_lines(count: int, reasons: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the lines that tell how many files each reason left out."""
    if not count and not reasons:
        return
    yield "Excluded", grouped(count or sum(reasons.values()))
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = ordered[:NAMED_FILES]
    width = max((len(grouped(number)) for _, number in shown), default=0)
    for reason, number in shown:
        yield "", f"{grouped(number):>{width}} {escape(reason)}"
    if len(ordered) > len(shown):
        yield "", f"{ELLIPSIS} and {grouped(len(ordered) - len(shown))} more reasons"


def only_changes(run_id: str) -> str:
    """Say what an archive holds of a run that was compared with an earlier one."""
    return f"holds only what changed since run {run_id}"


def of_files(errors: Sequence[Problem], message: str | None) -> Sequence[Problem]:
    """Leave out the error that ended the run: the headline tells it."""
    return [error for error in errors if error.path or error.message != message]


def what_happened(problem: Problem) -> str:
    """What is wrong, without the path that is shown beside it."""
    for path in (problem.path, printable(problem.path)):
        if path and problem.message.startswith(path + ": "):
            return escape(problem.message[len(path) + 2 :])
    return escape(problem.message)
