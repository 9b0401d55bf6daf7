"""The mail about a run: its subject, a text, and HTML for phones. Times are local.

Every name comes through `pybak.display`, so that no name can break a header, a line or the mark-up;
the HTML is escaped besides. It loads nothing from anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pybak.display import ELLIPSIS, escape, printable, shorten
from pybak.notify.compare import Before
from pybak.notify.ending import GOOD, NEITHER, WORDS, Ending
from pybak.notify.rules import Decision
from pybak.report import CANCELLED, FAILED, PARTIAL, UNCHANGED
from pybak.report.forms import text_form
from pybak.report.phrases import grouped, what_happened
from pybak.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from jinja2 import Environment

NAMED: Final = 50
"""How many failed, skipped or damaged files a mail names."""

_WIDTH: Final = 76
_SUBJECT_COLUMNS: Final = 80
_TEMPLATE: Final = "mail.html.j2"
_COLOURS: Final = {"good": "#1a7f4b", "warn": "#9a5b00", "bad": "#b3261e", "calm": "#4a5568"}
_GOOD_AGAIN: Final = "All is well again"


@dataclass(frozen=True)
class Written:
    """A mail's subject and its two bodies."""

    subject: str
    text: str
    html: str


def write_mail(
    ending: Ending, *, decision: Decision, before: Before | None = None, rest: str | None = None
) -> Written:
    """Write the mail about a run.

    `before` is the run that it is compared with, `rest` the file that names all failed files.
    """
    parts = ending.report.parts()
    news = _news(ending, decision)
    about = _about(ending)
    if not any(label == "Time" for label, _ in parts.facts):
        about.append(("Time", format_duration(ending.seconds)))
    compared = _compared(ending, before)
    where = f"; all of them: {printable(rest)} on {escape(ending.machine)}" if rest else ""
    facts = [*about, *parts.facts]
    if before is not None and compared:
        facts += [("", ""), ("Last run", _local(before.started_at)), *compared]
    notes = [escape(note) for note in ending.notes]
    text = text_form(
        f"{WORDS[ending.status]}: {parts.headline}", facts, parts.lists, parts.next_step, _WIDTH,
        named=NAMED, rest=where,
    )  # fmt: skip
    if news:
        head, _, body = text.partition("\n\n")
        text = f"{head}\n{news}.\n\n{body}"
    if notes:
        text += "\n" + "\n".join(f"Note: {note}" for note in notes) + "\n"
    text += f"\n-- \n{_footer(ending)}\n"
    html = _environment().get_template(_TEMPLATE).render(
        tone=_tone(ending), colour=_COLOURS[_tone(ending)], word=WORDS[ending.status],
        headline=parts.headline, news=news,
        about=_merged(about), facts=_merged(parts.facts),
        compared=compared, compared_with=_local(before.started_at) if before else "",
        lists=[_listed(*one) for one in parts.lists if one[1] or one[2]], where=where,
        next_step=parts.next_step, notes=notes, footer=_footer(ending), ellipsis=ELLIPSIS,
    )  # fmt: skip
    return Written(subject_of(ending, decision), text, html)


def subject_of(ending: Ending, decision: Decision) -> str:
    """Give the subject: the state first, for that is what a phone shows."""
    what = shorten(escape(ending.what), _SUBJECT_COLUMNS)
    more = " (good again)" if decision.is_good_again else ""
    machine = shorten(escape(ending.machine), _SUBJECT_COLUMNS)
    return f"[PyBak] {WORDS[ending.status]}: {ending.kind} of {what} on {machine}{more}"


def _news(ending: Ending, decision: Decision) -> str:
    """Say what came before, where that is why this mail is written."""
    since = f", since {_local(_moment(decision.since))}" if decision.since else ""
    if decision.is_good_again:
        runs = format_count(decision.times, "run") if decision.times else "runs"
        return f"{_GOOD_AGAIN}, after {runs} with a problem{since}"
    if decision.times > 1 and ending.verdict not in (GOOD, NEITHER):
        return f"This is the {_ordinal(decision.times)} run in a row with a problem{since}"
    return ""


def _about(ending: Ending) -> list[tuple[str, str]]:
    return [
        ("Job", shorten(escape(ending.what), 300)),
        ("Machine", escape(ending.machine)),
        ("Began", _local(ending.started_at)),
    ]


def _compared(ending: Ending, before: Before | None) -> list[tuple[str, str]]:
    """Set this run beside the last one; what either does not know is left out."""
    if before is None or ending.status in (FAILED, CANCELLED):
        return []
    report: Any = ending.report
    files = getattr(report, "files", None)
    stored: Any = getattr(report, "bytes_stored", None)
    rows: list[tuple[str, str]] = []
    if isinstance(stored, int) and before.size is not None and ending.archive:
        was = f"{format_size(stored)}, was {format_size(before.size)}"
        rows.append(("Archive", was + _share(stored, before.size)))
    total: Any = getattr(files, "total", None)
    if isinstance(total, int) and before.files is not None:
        change = f" ({total - before.files:+,})".replace(",", "\N{NO-BREAK SPACE}")
        was = f"{grouped(total)}, was {grouped(before.files)}"
        rows.append(("Files", was + (change if total != before.files else "")))
    if before.seconds is not None:
        was = f"{format_duration(ending.seconds)}, was {format_duration(before.seconds)}"
        rows.append(("Time", was))
    failed: Any = getattr(files, "failed", None)
    if isinstance(failed, int) and before.failed is not None and (failed or before.failed):
        new = f" ({grouped(before.new_failures)} new)" if before.new_failures else ""
        rows.append(("Failed", f"{grouped(failed)}, was {grouped(before.failed)}{new}"))
    return rows


def _share(now: int, then: int) -> str:
    """Say by how much something grew; nothing where that is no news, or no number."""
    if not then:
        return ""
    percent = round(100 * (now - then) / then)
    return f" ({percent:+,}%)".replace(",", "\N{NO-BREAK SPACE}") if percent else ""


def _merged(facts: Any) -> list[tuple[str, list[str]]]:
    """Put the lines of a fact that has several under its one label."""
    merged: list[tuple[str, list[str]]] = []
    for label, value in facts:
        if not label and merged:
            merged[-1][1].append(value.strip())
        else:
            merged.append((label, [value.strip()]))
    return merged


def _listed(label: str, count: int, problems: Any) -> dict[str, Any]:
    """Give a list as the template takes it; files that share a reason stand below it."""
    by_reason: dict[str, list[str]] = {}
    for problem in problems[:NAMED]:
        by_reason.setdefault(what_happened(problem), []).append(printable(problem.path))
    total = max(count, len(problems))
    return {
        "label": label,
        "count": grouped(total),
        "reasons": [
            (reason, [name for name in names if name and name != '""'])
            for reason, names in by_reason.items()
        ],
        "left": grouped(total - min(len(problems), NAMED)) if total > len(problems[:NAMED]) else "",
    }


def _tone(ending: Ending) -> str:
    if ending.status == PARTIAL or (ending.status == UNCHANGED and ending.report.exit_code):
        return "warn"
    if ending.verdict == NEITHER or ending.status == UNCHANGED:
        return "calm"
    return "good" if ending.verdict == GOOD else "bad"


def _footer(ending: Ending) -> str:
    from pybak import __version__

    run = f", run {ending.run_id}" if ending.run_id else ""
    flow = f", flow run {ending.flow_run}" if ending.flow_run else ""
    return f"PyBak {__version__} on {escape(ending.machine)}{run}{flow}"


def _local(moment: datetime | None) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}" if moment else "an unknown time"


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def _ordinal(number: int) -> str:
    ending = (
        "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    )
    return f"{grouped(number)}{ending}"


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("pybak.notify"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
