"""A report's facts and lists laid out: text for a terminal, Markdown for the Prefect UI, JSON."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from pybak.display import ELLIPSIS, columns, markdown, pad, printable
from pybak.problems import Problem
from pybak.report.phrases import NAMED_FILES, grouped, what_happened

_LABEL_WIDTH: Final = 13
_COMMAND: Final = re.compile(r": (python flows/.*)\Z", re.DOTALL)
"""What a message ends with to be typed: that is not wrapped."""

Facts = Iterable[tuple[str, str]]
Lists = Iterable[tuple[str, int, Sequence[Problem]]]


class Parts(NamedTuple):
    """What every form is made of, for layouts of other kinds.

    A fact without a label goes on with the one before. A list has a label, a count and what is
    known of those counted.
    """

    headline: str
    facts: tuple[tuple[str, str], ...]
    lists: tuple[tuple[str, int, Sequence[Problem]], ...]
    next_step: tuple[str, str] | None = None


def text_form(
    headline: str,
    facts: Facts,
    lists: Lists,
    next_step: tuple[str, str] | None,
    width: int,
    *,
    named: int = NAMED_FILES,
    rest: str = "",
) -> str:
    """Give the form for a terminal, `width` columns wide; names are never cut.

    At most `named` files of a list are named; `rest` says where to read about the others.
    """
    lines = [*_wrap(headline, width), ""]
    for label, value in facts:
        lines.append((pad(label, _LABEL_WIDTH) + value).rstrip())
    for label, count, problems in lists:
        if not count and not problems:
            continue
        lines += ["", f"{label}: {grouped(max(count, len(problems)))}"]
        lines += _problem_lines(problems[:named], width)
        left = max(count, len(problems)) - min(len(problems), named)
        if left and problems:
            lines.append(f"  {ELLIPSIS} and {grouped(left)} more{rest}")
    if next_step:
        lines += ["", f"{next_step[0]} {next_step[1]}"]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip("\n") + "\n"


def _problem_lines(problems: Sequence[Problem], width: int) -> Iterator[str]:
    """Name each path with what happened; paths that share a reason stand below it."""
    by_reason: dict[str, list[str]] = {}
    for problem in problems:
        by_reason.setdefault(what_happened(problem), []).append(printable(problem.path))
    for reason, names in by_reason.items():
        line = f"  {names[0]}: {reason}"
        if columns(line) > width and (cut := _COMMAND.search(reason)):
            yield from (f"  {name}:" for name in names if name)
            yield from _wrap(reason[: cut.start()] + ":", width, indent="    ")
            yield f"      {cut[1]}"
        elif len(names) == 1 and not names[0]:
            yield from _wrap(reason, width, indent="  ")
        elif len(names) == 1 and columns(line) <= width:
            yield line
        else:
            yield from _wrap(reason, width, indent="  ")
            yield from (f"    {name}" for name in names)


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 20),
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def markdown_form(
    headline: str, facts: Facts, lists: Lists, next_step: tuple[str, str] | None
) -> str:
    """Give the form for a Prefect artifact."""
    lines = [f"**{markdown(headline)}**", "", "| | |", "| --- | --- |"]
    lines += [f"| {label} | {markdown(value.strip())} |" for label, value in facts]
    for label, count, problems in lists:
        if not count and not problems:
            continue
        lines += ["", f"**{markdown(label)}: {grouped(max(count, len(problems)))}**"]
        if problems:
            lines += ["", "| File | What happened |", "| --- | --- |"]
        for problem in problems[:NAMED_FILES]:
            lines.append(
                f"| {markdown(printable(problem.path))} | {markdown(what_happened(problem))} |"
            )
        left = max(count, len(problems)) - min(len(problems), NAMED_FILES)
        if left and problems:
            lines += ["", f"{ELLIPSIS} and {grouped(left)} more"]
    if next_step:
        lines += ["", next_step[0], "", "```", next_step[1], "```"]
    return "\n".join(lines) + "\n"


def problems_json(problems: Sequence[Problem]) -> list[dict[str, str]]:
    """Give the objects of the contract: path, code, message."""
    return [
        {"path": problem.path, "code": problem.code, "message": problem.message}
        for problem in problems
    ]
