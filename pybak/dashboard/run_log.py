"""The log on the page of a run: its lines, read on while the run is at work, and searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dash import Dash, Input, Output, Patch, State, dcc, html, no_update
from dash.development.base_component import Component

from pybak.api.problems import Problem
from pybak.api.routes.runs import find
from pybak.api.services import LogLine
from pybak.dashboard import parts, words
from pybak.dashboard.found_run import flow_run, is_settled
from pybak.dashboard.world import World
from pybak.display import escape
from pybak.errors import PyBakError

_LINES: Final = 200
_LEVELS: Final = (
    ("All", "debug"), ("From info", "info"), ("From warning", "warning"), ("Errors", "error"),
)  # fmt: skip
_OF_ENGINE: Final = "Finished in state Completed()"
"""What Prefect says at the end of each task."""
_HIDDEN: Final = "button gone"


def section() -> Component:
    """Give the part of the page, without lines yet."""
    return parts.section(
        "Log",
        html.Div(
            [
                parts.search("log-text", "Search the log", "Text in a line"),
                html.Fieldset(
                    [
                        html.Legend("Lines"),
                        dcc.RadioItems(
                            [{"label": text, "value": value} for text, value in _LEVELS],
                            "info", id="log-level", className="choices", inline=True,
                        ),
                    ]
                ),
            ],
            className="filters",
        ),
        dcc.Store(id="log-state"),
        html.Div(
            [], id="log-lines", className="log", tabIndex="0", role="log",
            **parts.aria(label="Log lines, the oldest first"),
        ),
        html.P(id="log-said", className="why"),
        html.Button("More lines", id="log-more", className=_HIDDEN),
    )  # fmt: skip


def register(app: Dash, world: World) -> None:
    """Read the log whenever the page was looked at, and when somebody asks."""

    @app.callback(
        Output("log-lines", "children"), Output("log-state", "data"),
        Output("log-said", "children"), Output("log-more", "className"),
        Input("run-looked", "data"), Input("log-more", "n_clicks"),
        Input("log-level", "value"), Input("log-text-typed", "data"),
        State("log-state", "data"), State("run-id", "data"),
    )  # fmt: skip
    def _read(
        looked: int, _clicks: int, level: str, text: str | None,
        state: Mapping[str, Any] | None, run_id: str,
    ) -> tuple[Any, Any, Any, Any]:  # fmt: skip
        asked = [run_id, level, (text or "").strip()[:100]]
        known = dict(state or {})
        answered = {**known, "turn": looked}
        goes_on = known.get("asked") == asked
        cursor = known.get("cursor") if goes_on else None
        try:
            found = world.call(find(world.context, run_id))
            flow_run_id = flow_run(found)
            if flow_run_id is None:
                text = "This run has no log here: it ran without Prefect's server."
                return [], answered, text, _HIDDEN
            lines = world.context.logs.lines(
                flow_run_id=flow_run_id, level=None if level == "debug" else level,
                text=asked[2] or None, cursor=cursor, limit=_LINES,
            )  # fmt: skip
        except (Problem, PyBakError, TimeoutError) as error:
            return no_update, answered, parts.said(error), no_update
        is_whole = level == "debug" or bool(asked[2])
        shown: Any = [
            _line(world, line) for line in lines.items if is_whole or line.message != _OF_ENGINE
        ]
        count = len(shown) + (known.get("count", 0) if goes_on else 0)
        if goes_on:
            patch = Patch()
            patch.extend(shown)
            shown = patch if shown else no_update
        said = ""
        if not count and lines.complete:
            waits = not asked[2] and not is_settled(found, world.now())
            said = "There are no lines yet." if waits else "There are no lines like this."
        fresh = {"asked": asked, "cursor": lines.next or cursor, "count": count, "turn": looked}
        return shown, fresh, said, _HIDDEN if lines.complete else "button"


def _line(world: World, line: LogLine) -> Component:
    return html.Div(
        [
            html.Span(words.clock(line.at, world.zone()), className="at"),
            html.Span(line.level, className=f"level {line.level}"),
            html.Span("\n".join(map(escape, line.message.split("\n"))), className="text"),
        ]
    )
