"""Pictures of trends: small bars as SVG for lists, figures for Plotly. Nothing here reads anything.

Colours suit both light and dark; texts of figures take theirs from the style sheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from typing import Any, Final
from urllib.parse import quote

from pybak.dashboard import words
from pybak.overview.facts import TrendPoint

_BARS: Final = 30
_WIDTH: Final = 120
_HEIGHT: Final = 28
_BAD: Final = ("failed", "died")
_GOOD_COLOUR: Final = "#4a7fd0"
_PART_COLOUR: Final = "#c98a1b"
_BAD_COLOUR: Final = "#d4544f"
_STYLE: Final = (
    f"<style>.g{{fill:{_GOOD_COLOUR}}}.p{{fill:{_PART_COLOUR}}}.b{{fill:{_BAD_COLOUR}}}"
    ".n{fill:#8b95a5}</style>"
)


def sparkline(trend: Sequence[TrendPoint]) -> str:
    """Give bars of what the last runs stored, as the address of an image; high is much.

    Runs that stored nothing are low and grey, those that failed red.
    """
    shown = trend[-_BARS:]
    most = max((point.bytes_stored or 0 for point in shown), default=0) or 1
    step = _WIDTH / _BARS
    bars = []
    left = _BARS - len(shown)
    for number, point in enumerate(shown):
        kind, high = "g", max(3.0, _HEIGHT * (point.bytes_stored or 0) / most)
        if point.status in _BAD:
            kind, high = "b", _HEIGHT / 2
        elif point.status == "partial":
            kind = "p"
        elif not point.bytes_stored:
            kind, high = "n", 2.0
        bars.append(
            f'<rect class="{kind}" x="{(left + number) * step:.1f}" y="{_HEIGHT - high:.1f}" '
            f'width="{step - 1:.1f}" height="{high:.1f}" rx="0.8"/>'
        )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}">{_STYLE}{"".join(bars)}</svg>'
    )
    return f"data:image/svg+xml,{quote(svg)}"


def told(trend: Sequence[TrendPoint]) -> str:
    """Say in words what the bars show."""
    shown = trend[-_BARS:]
    if not shown:
        return "No runs yet"
    bad = sum(point.status in _BAD for point in shown)
    sizes = [point.bytes_stored for point in shown if point.bytes_stored]
    text = f"Last {words.count(len(shown), 'run')}: {bad} failed"
    return f"{text}, the newest stored {words.size(sizes[-1])}" if sizes else text


def size_figure(trend: Sequence[TrendPoint], zone: tzinfo) -> dict[str, Any]:
    """Give the figure of what each run stored."""
    return _bars(
        trend, zone, [point.bytes_stored or 0 for point in trend],
        [words.size(point.bytes_stored) for point in trend],
    )  # fmt: skip


def duration_figure(trend: Sequence[TrendPoint], zone: tzinfo) -> dict[str, Any]:
    """Give the figure of how long each run took."""
    return _bars(
        trend, zone, [point.duration_seconds or 0 for point in trend],
        [words.duration(point.duration_seconds) for point in trend],
    )  # fmt: skip


def _bars(
    trend: Sequence[TrendPoint], zone: tzinfo, heights: Sequence[float], texts: Sequence[str]
) -> dict[str, Any]:
    # One place a run, so that runs an hour apart and ones a week apart are as wide.
    labels = [words.moment(point.started_at, zone) for point in trend]
    hover = [
        f"{label}<br>{text}, {words.status(point.status)[0].lower()}"
        for label, text, point in zip(labels, texts, trend, strict=True)
    ]
    top = max(heights, default=0)
    highest = texts[list(heights).index(top)] if heights else ""
    return {
        "data": [
            {
                "type": "bar", "x": list(range(len(trend))), "y": list(heights),
                "hovertext": hover, "hoverinfo": "text",
                "marker": {"color": [_colour(point.status) for point in trend]},
            }
        ],
        "layout": {
            "height": 150, "margin": {"l": 64, "r": 40, "t": 8, "b": 22}, "bargap": 0.25,
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
            "showlegend": False, "dragmode": False, "barcornerradius": 2,
            "font": {"family": "inherit", "size": 12, "color": "#7a8594"},
            "hoverlabel": {
                "bgcolor": "#1d2633", "bordercolor": "#1d2633",
                "font": {"color": "#ffffff", "size": 12}, "align": "left",
            },
            "xaxis": {
                "fixedrange": True, "showgrid": False, "zeroline": False, "ticks": "",
                "tickmode": "array", "tickvals": _ends(len(trend)),
                "ticktext": [labels[at].partition(",")[0] for at in _ends(len(trend))],
                "range": [-0.6, max(len(trend), 12) - 0.4],
            },
            "yaxis": {
                "fixedrange": True, "showgrid": True, "gridcolor": "rgba(128,140,155,0.22)",
                "zeroline": False, "tickmode": "array", "tickvals": [top] if top else [],
                "ticktext": [highest], "range": [0, top * 1.08 or 1],
            },
        },
    }  # fmt: skip


def _ends(number: int) -> list[int]:
    if number < 4:
        return list(range(min(number, 1)))
    return [0, number - 1] if number < 20 else [0, number // 2, number - 1]


def _colour(status: str) -> str:
    if status in _BAD:
        return _BAD_COLOUR
    return _PART_COLOUR if status == "partial" else _GOOD_COLOUR
