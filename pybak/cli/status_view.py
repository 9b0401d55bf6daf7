"""The overview as lines for a terminal: jobs, what is at work, what went wrong lately."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import msgspec

from pybak.display import ELLIPSIS, columns, escape, pad, printable, shorten
from pybak.overview.facts import (
    DIED,
    GOOD,
    LATE,
    NEVER,
    PROBLEM,
    RUNNING,
    STATES,
    JobState,
    RunSummary,
    TrendPoint,
)
from pybak.overview.states import ago, span
from pybak.report.status import CANCELLED, FAILED, PARTIAL, SUCCESS, UNCHANGED
from pybak.units import format_count, format_size

_SIGNS: Final = {GOOD: "\N{CHECK MARK}", RUNNING: "\N{BLACK RIGHT-POINTING TRIANGLE}", LATE: "!",
                 PROBLEM: "\N{MULTIPLICATION X}", NEVER: "?"}  # fmt: skip
_PLAIN_SIGNS: Final = {GOOD: "+", RUNNING: ">", LATE: "!", PROBLEM: "x", NEVER: "?"}
_COLOURS: Final = {GOOD: "32", RUNNING: "36", LATE: "33", PROBLEM: "31", NEVER: "35"}
_BARS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = "_.-=+*#%"
_BOLD: Final = "1"
_DIM: Final = "2"
_NONE: Final = "-"
_WIDE: Final = 100
_LEAST_NAME: Final = 12
_MOST_TREND: Final = 30
_MOST_NAME: Final = 48
_ROOM_FOR_TREND: Final = 16
_MOST_LINES: Final = 2
_MOST_PROBLEMS: Final = 5
_INDENT: Final = "    "


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be shown, as it was at `now`."""

    now: datetime
    jobs: Sequence[JobState]
    active: Sequence[RunSummary] = ()
    problems: Sequence[RunSummary] = ()
    days: int = 7


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """How it is shown: `width` in columns, with colours or not, in ASCII only or not."""

    width: int
    colours: bool
    plain: bool

    def paint(self, text: str, code: str) -> str:
        """Colour a text, which must not be padded afterwards."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours and text else text


def lines_of(shown: Shown, look: Look) -> Iterator[str]:
    """Yield the lines, none wider than the terminal but for names that can't be cut further."""
    yield _heading(shown, look)
    if shown.jobs:
        yield ""
        yield from _jobs(shown, look)
    if shown.active:
        yield ""
        yield look.paint("At work", _BOLD)
        yield from _active(shown, look)
    if shown.problems:
        yield ""
        yield look.paint(f"Problems of the last {shown.days} days", _BOLD)
        yield from _problems(shown, look)


def _heading(shown: Shown, look: Look) -> str:
    counts = [(state, sum(job.state == state for job in shown.jobs)) for state in STATES]
    if not shown.jobs:
        return "No job has run yet; make a backup with `python flows/backup.py`."
    total = look.paint(format_count(len(shown.jobs), "job"), _BOLD)
    told = ", ".join(
        look.paint(f"{count} {_word(state)}", _COLOURS[state]) for state, count in counts if count
    )
    return f"{total}: {told}"


def _word(state: str) -> str:
    return {NEVER: "never good", PROBLEM: "with a problem"}.get(state, state)


def _jobs(shown: Shown, look: Look) -> Iterator[str]:
    is_wide = look.width >= _WIDE
    heads = ["State", "Job", *(["Last good"] if is_wide else []), "Age", "Size", "Trend", "Next"]
    rows = [_cells(job, shown.now, is_wide=is_wide) for job in shown.jobs]
    if all(row[-1] == _NONE for row in rows):  # nobody knows
        heads.pop()
        rows = [row[:-1] for row in rows]
    trend_at = heads.index("Trend")
    fixed = [
        max(columns(row[at]) for row in [heads, *rows]) if heads[at] not in ("Job", "Trend") else 0
        for at in range(len(heads))
    ]
    room = look.width - sum(fixed) - 2 * (len(heads) - 1) - 2
    longest = max(columns(row[1]) for row in [heads, *rows])
    most = max(len(job.trend) for job in shown.jobs)
    for_trend = max(min(most, _ROOM_FOR_TREND), len("Trend"))
    name_width = max(min(longest, _MOST_NAME, room - for_trend), _LEAST_NAME)
    trend_width = max(min(room - name_width, _MOST_TREND, most), len("Trend"))
    widths = list(fixed)
    widths[1], widths[trend_at] = name_width, trend_width
    right = {heads.index("Size"), heads.index("Age")}
    yield look.paint("  " + _row(heads, widths, right), _DIM)
    for job, cells in zip(shown.jobs, rows, strict=True):
        cells[1] = shorten(cells[1], name_width)
        signs = _PLAIN_SIGNS if look.plain else _SIGNS
        colour = _COLOURS[job.state]
        chart = sparkline(job.trend[-trend_width:], plain=look.plain)
        cells[trend_at] = chart
        line = _row(cells[1:], widths[1:], {at - 1 for at in right})
        if look.colours and chart:
            painted = "".join(_painted(sign, look) for sign in chart)
            line = line.replace(chart, painted, 1)
        state = look.paint(f"{signs[job.state]} {cells[0]}", colour)
        yield f"{state}{' ' * (widths[0] - columns(cells[0]) + 2)}{line}".rstrip()
        if job.state != GOOD and (job.state != RUNNING or job.failures):
            reason = job.words.partition(": ")[2] if ": " in job.words else job.words
            yield from _wrapped(reason, look)


def _cells(job: JobState, now: datetime, *, is_wide: bool) -> list[str]:
    good = job.newest_good
    kind = "" if job.kind == "backup" or job.name.startswith(job.kind + " ") else f" ({job.kind})"
    when = f"{good.finished_at.astimezone():%Y-%m-%d %H:%M}" if good else _NONE
    return [
        job.state, printable(job.name) + kind, *([when] if is_wide else []),
        _short(good.age_seconds) if good else _NONE,
        format_size(job.size_bytes) if job.size_bytes else _NONE, "",
        _next(job.next_run, now),
    ]  # fmt: skip


def _row(cells: Sequence[str], widths: Sequence[int], right: set[int]) -> str:
    return "  ".join(
        " " * (width - columns(cell)) + cell if at in right else pad(cell, width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def _wrapped(
    text: str, look: Look, *, indent: str = _INDENT, most: int | None = None
) -> Iterator[str]:
    """Yield a sentence in lines, `most` of them at most."""
    width = max(look.width - len(indent), 20)
    placeholder = ELLIPSIS if most is not None else ""
    lines = textwrap.wrap(
        escape(text), width, max_lines=most, placeholder=f" {placeholder}", break_on_hyphens=False
    )
    yield from (look.paint(indent + line, _DIM) for line in lines)


def _short(seconds: float) -> str:
    """Give an age in a few columns: `12 s`, `2 min`, `5 h`, `3 d`."""
    count, _, unit = span(seconds).partition(" ")
    return f"{count} {({'s': 's', 'm': 'min', 'h': 'h', 'd': 'd'})[unit[0]]}"


def _next(when: datetime | None, now: datetime) -> str:
    if when is None:
        return _NONE
    seconds = (when - now).total_seconds()
    return f"in {_short(seconds)}" if seconds >= 1 else "now" if seconds > -60 else "overdue"


def sparkline(trend: Sequence[TrendPoint], *, plain: bool) -> str:
    """Draw runs as signs, the oldest first: a bar as high as what was stored, on its own scale.

    A dot is a run that found nothing new, `x` one that failed, `!` one that is partial.
    """
    bars = _PLAIN_BARS if plain else _BARS
    most = max((point.bytes_stored or 0 for point in trend), default=0)
    return "".join(_sign(point, bars, most, plain=plain) for point in trend)


def _sign(point: TrendPoint, bars: str, most: int, *, plain: bool) -> str:
    if point.status in (FAILED, DIED):
        return "x"
    if point.status == PARTIAL:
        return "!"
    if point.status == RUNNING:
        return ">"
    if point.status in (UNCHANGED, CANCELLED):
        return "." if plain else "·"
    if not point.bytes_stored or not most:
        return bars[0]
    return bars[min(int(point.bytes_stored / most * len(bars)), len(bars) - 1)]


def _painted(sign: str, look: Look) -> str:
    colours = {"x": _COLOURS[PROBLEM], "!": _COLOURS[LATE], ">": _COLOURS[RUNNING]}
    return look.paint(sign, colours[sign]) if sign in colours else sign


def _active(shown: Shown, look: Look) -> Iterator[str]:
    usual = {(job.name, job.kind): _usual(job) for job in shown.jobs}
    for run in shown.active:
        seconds = (shown.now - run.started_at).total_seconds()
        text = f"{run.kind} for {span(seconds)}"
        expected = usual.get((run.job, run.kind))
        if expected is not None and expected >= 1:
            text += f", usually {span(expected)}"
        yield _line(text, printable(run.job), look)


def _usual(job: JobState) -> float | None:
    """Give how long a job's good runs that wrote something took, in the middle."""
    taken = [
        point.duration_seconds
        for point in job.trend
        if point.status == SUCCESS and point.duration_seconds is not None
    ]
    return statistics.median(taken) if taken else None


def _line(start: str, name: str, look: Look) -> str:
    room = max(look.width - columns(start) - len(_INDENT) - 2, _LEAST_NAME)
    return f"{_INDENT}{shorten(name, room)}  {start}"


def _problems(shown: Shown, look: Look) -> Iterator[str]:
    """Yield what went wrong, newest first; runs of a job that went wrong alike stand together."""
    groups: dict[tuple[str, str, str], list[RunSummary]] = {}
    for run in shown.problems:
        groups.setdefault((run.job, run.kind, run.status), []).append(run)
    for some in list(groups.values())[:_MOST_PROBLEMS]:
        run = some[0]
        when = f"{run.started_at.astimezone():%m-%d %H:%M}"
        times = f", {len(some)} times" if len(some) > 1 else ""
        start = f"{_INDENT}{when}  {run.run_id[:8]}  {run.kind} "
        rest = f"{times}  "
        room = max(look.width - columns(start + run.status + rest), _LEAST_NAME)
        sign = look.paint(run.status, _COLOURS[LATE if run.status == PARTIAL else PROBLEM])
        yield f"{start}{sign}{rest}{shorten(printable(run.job), room)}"
        if what := _what(run, shown.now):
            yield from _wrapped(what, look, indent=_INDENT + "  ", most=_MOST_LINES)
    yield look.paint(f"{_INDENT}`pybak logs RUN` tells more", _DIM)


def _what(run: RunSummary, now: datetime) -> str:
    failed = run.files.get("failed")
    if run.status == DIED:
        return f"it began {ago((now - run.started_at).total_seconds())} and never ended"
    if run.message:
        return run.message
    return f"{format_count(failed, 'file')} failed" if isinstance(failed, int) and failed else ""
