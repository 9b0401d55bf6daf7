"""How long the stages of a run took: a table, with a bar for when each was at work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dash import html
from dash.development.base_component import Component

from pybak.dashboard import parts, words
from pybak.stages import Stage

_LEAST_PERCENT: Final = 0.7
"""A stage of no time shows all the same."""
_NOTE: Final = (
    "Stages overlap where one passes its work on to the next. Work is the time of all workers "
    "together."
)


def section(stages: Sequence[Stage]) -> Component | None:
    """Give the part of a run's page that tells of its stages; nothing if they are not known."""
    if not stages:
        return None
    whole = max(one.start_seconds + one.wall_seconds for one in stages)
    rows = [
        (
            _name(one.name), _bar(one, whole), _duration(one.wall_seconds),
            _duration(one.busy_seconds),
        )
        for one in stages
    ]  # fmt: skip
    return parts.section(
        "Stages",
        parts.table(
            ("Stage", "Over the run", "#Took", "#Work"), rows,
            caption="How long each stage of the run took", kind="stages",
        ),
        html.P(_NOTE, className="why"),
        ident="stages",
    )  # fmt: skip


def _name(name: str) -> str:
    return name.replace("-", " ").capitalize()


def _duration(seconds: float | None) -> str:
    return "< 0.1 s" if seconds is not None and seconds < 0.05 else words.duration(seconds)


def _bar(one: Stage, whole: float) -> list[Component]:
    end = one.start_seconds + one.wall_seconds
    left = 100 * one.start_seconds / whole if whole else 0.0
    width = max(100 * one.wall_seconds / whole if whole else 100.0, _LEAST_PERCENT)
    left = min(left, 100 - _LEAST_PERCENT)
    place = {"left": f"{left:.2f}%", "width": f"{min(width, 100 - left):.2f}%"}
    told = f"from {words.duration(one.start_seconds)} to {words.duration(end)}"
    return [
        html.Div(html.Span(style=place), className="span", title=told, **parts.aria(hidden="true")),
        html.Span(told, className="hidden"),
    ]
