"""One run: how it went or how far it is, what it could not save, its report and its log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from dash import Dash, Input, Output, Patch, State, dcc, html, no_update
from dash.development.base_component import Component

from pybak.api.auth.scopes import WRITE
from pybak.api.problems import Problem
from pybak.api.routes.runs import find
from pybak.api.services import ENDED, LogLine, StartedRun
from pybak.api.starting import cancel_found
from pybak.dashboard import links, parts, words
from pybak.dashboard.pages.overview import progress
from pybak.dashboard.world import World
from pybak.display import escape, printable
from pybak.errors import PyBakError
from pybak.overview.facts import RunDetails

_EVERY_MS: Final = 2000
_LINES: Final = 200
_ERRORS: Final = 50
_LEVELS: Final = (
    ("All", "debug"), ("From info", "info"), ("From warning", "warning"), ("Errors", "error"),
)  # fmt: skip
_COUNTS: Final = {
    "total": "Files", "added": "Added", "changed": "Changed", "unchanged": "Unchanged",
    "removed": "Removed", "failed": "Not saved", "skipped": "Left out", "stored": "Stored",
}  # fmt: skip
_logger = logging.getLogger("pybak.dashboard")
_Found = tuple[RunDetails | None, StartedRun | None]


def page(world: World, run_id: str, query: Mapping[str, str]) -> tuple[Component, str]:
    """Give the page of a run, by its id or that of its flow run."""
    found = world.call(find(world.context, run_id))
    title = _title(found)
    over = _is_over(found)
    return html.Div(
        [
            dcc.Store(id="run-id", data=run_id),
            dcc.Interval(id="run-tick", interval=_EVERY_MS, disabled=over),
            html.Div(_head(world, found), id="run-head"),
            html.Div(id="run-said"),
            _errors(world, found, run_id, query),
            _report(found),
            _log(),
        ]
    ), title  # fmt: skip


def register(app: Dash, world: World) -> None:
    """Follow a run while it is at work; read its log; stop it."""

    @app.callback(
        Output("run-head", "children"), Output("run-tick", "disabled"),
        Input("run-tick", "n_intervals"), State("run-id", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def _again(_ticks: int, run_id: str) -> tuple[Any, Any]:
        try:
            found = world.call(find(world.context, run_id))
        except (Problem, PyBakError, TimeoutError):
            return no_update, no_update  # the next look may do
        return _head(world, found), _is_over(found)

    @app.callback(
        Output("log-lines", "children"), Output("log-state", "data"),
        Output("log-said", "children"), Output("log-more", "className"),
        Input("run-tick", "n_intervals"), Input("run-tick", "disabled"),
        Input("log-more", "n_clicks"), Input("log-level", "value"), Input("log-text", "value"),
        State("log-state", "data"), State("run-id", "data"),
    )  # fmt: skip
    def _read(
        _ticks: int, _over: bool, _clicks: int, level: str, text: str | None,
        state: Mapping[str, Any] | None, run_id: str,
    ) -> tuple[Any, Any, Any, Any]:  # fmt: skip
        asked = [run_id, level, (text or "").strip()[:100]]
        known = dict(state or {})
        goes_on = known.get("asked") == asked
        cursor = known.get("cursor") if goes_on else None
        try:
            flow_run = _flow_run(world.call(find(world.context, run_id)))
            if flow_run is None:
                return [], {}, "This run has no log here: it ran without Prefect's server.", _HIDDEN
            lines = world.context.logs.lines(
                flow_run_id=flow_run, level=None if level == "debug" else level,
                text=asked[2] or None, cursor=cursor, limit=_LINES,
            )  # fmt: skip
        except (Problem, PyBakError, TimeoutError) as error:
            return no_update, no_update, parts.said(error), no_update
        shown: Any = [_line(world, line) for line in lines.items]
        count = len(shown) + (known.get("count", 0) if goes_on else 0)
        if goes_on:
            patch = Patch()
            patch.extend(shown)
            shown = patch if lines.items else no_update
        said = "" if count or not lines.complete else "There are no lines like this."
        fresh = {"asked": asked, "cursor": lines.next or cursor, "count": count}
        return shown, fresh, said, _HIDDEN if lines.complete else "button"

    @app.callback(
        Output("run-said", "children"),
        Input({"do": "cancel"}, "n_clicks"), State("run-id", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def _cancel(clicks: int | None, run_id: str) -> Any:
        if not clicks:
            return no_update
        try:
            caller = world.check(WRITE)
            run, started = world.call(find(world.context, run_id, needs_progress=True))
            world.call(cancel_found(world.context, caller, run, started, run_id))
        except (Problem, PyBakError, TimeoutError) as error:
            return parts.failure(error)
        return parts.notice("It was asked to stop. What it began to write is removed.", "good")


_HIDDEN: Final = "button gone"


def _title(found: _Found) -> str:
    run, started = found
    job = run.summary.job if run else started.job if started else None
    kind = run.summary.kind if run else started.kind if started else "run"
    return f"{kind.capitalize()} of {printable(job)}" if job else kind.capitalize()


def _is_over(found: _Found) -> bool:
    run, started = found
    if started is not None:
        return started.state in ENDED
    return run is not None and run.summary.status != "running"


def _flow_run(found: _Found) -> str | None:
    run, started = found
    if started is not None:
        return started.flow_run_id
    return run.summary.flow_run if run else None


def _status(found: _Found) -> str:
    run, started = found
    if run is not None and (started is None or started.state in ENDED | {"running"}):
        return run.summary.status
    return started.state if started else "running"


def _head(world: World, found: _Found) -> list[Any]:
    run, started = found
    over = _is_over(found)
    may_write = WRITE in world.caller().scopes
    actions: list[Any] = []
    if not over and may_write and started is not None:
        # Twice, so that nobody stops a run by a slip.
        actions.append(
            html.Details(
                [
                    html.Summary("Stop this run", className="button"),
                    html.Div(
                        [
                            html.P("It ends in order, and what it began to write is removed."),
                            html.Button("Stop it", id={"do": "cancel"}, className="button danger"),
                        ],
                        className="card",
                    ),
                ],
                className="confirm", key="cancel",
            )
        )  # fmt: skip
    if over and may_write and run is not None and run.summary.kind == "backup":
        again = links.to("/start", job=run.summary.job)
        actions.append(parts.button("Start it again", again))
    if run is not None and run.is_snapshot:
        browse = links.to("/files", job=run.summary.job, run=run.summary.run_id)
        actions.append(parts.button("Browse files", browse, primary=True))
    content: list[Any] = [
        parts.heading(_title(found), *actions),
        html.P(
            [parts.status_pill(_status(found)), *_said(found)],
            className=f"verdict {words.status(_status(found))[1]}",
        ),
    ]
    if not over:
        content.append(html.Div(progress(started), className="card"))
    content.append(parts.facts(_facts(world, found)))
    return content


def _said(found: _Found) -> list[Any]:
    run, started = found
    text = run.summary.message if run else started.message if started else None
    return [html.Span(escape(text))] if text else []


def _facts(world: World, found: _Found) -> list[tuple[str, Any]]:
    run, started = found
    zone = world.zone()
    if run is None:
        begun = started.started_at if started else None
        deployment = (started.deployment if started else None) or words.NONE
        return [("Began", parts.moment(world, begun, "not yet")), ("Deployment", deployment)]
    one = run.summary
    known: list[tuple[str, Any]] = [
        ("Job", parts.link(printable(one.job), links.job(one.job))),
        ("Began", parts.moment(world, one.started_at)),
        ("Took", words.duration(one.duration_seconds)),
    ]
    if one.mode:
        known.append(("Kind", one.mode.capitalize()))
    for name, count in one.files.items():
        if name in _COUNTS and isinstance(count, int):
            known.append((_COUNTS[name], f"{count:,}"))
    if one.bytes_read is not None:
        known.append(("Size of the files", words.size(one.bytes_read)))
    if one.bytes_stored is not None:
        share = words.ratio(one.bytes_read, one.bytes_stored)
        known.append(("Stored", f"{words.size(one.bytes_stored)} ({share})"))
    if run.archive is not None:
        archive = run.archive.summary
        check = archive.last_check
        known.append(("Archive", html.Code(printable(archive.archive))))
        checked = "never checked"
        if check is not None:
            at = words.moment(check.checked_at, zone)
            checked = f"{words.status(check.status)[0]}, {at}"
        known.append(("Last check", checked))
        copies = [html.Div(html.Code(printable(copy.name))) for copy in run.archive.copies]
        if copies:
            known.append(("Copies", copies))
    elif one.archive:
        known.append(("Archive", html.Code(printable(one.archive))))
    if run.tags:
        known.append(("Tags", ", ".join(map(escape, run.tags))))
    return known


def _errors(world: World, found: _Found, run_id: str, query: Mapping[str, str]) -> Component | None:
    run, _ = found
    if run is None or not run.errors:
        return None
    cursor = query.get("errors")
    page = world.overview.errors(run.summary.run_id, cursor=cursor, limit=_ERRORS)
    rows = [
        (html.Code(printable(one.path)) if one.path else words.NONE, escape(one.message))
        for one in page.items
    ]
    here = links.run(run_id)
    following = f"{here}{links.asked(errors=page.next)}" if page.next else None
    return parts.section(
        f"Not saved: {words.count(run.errors, 'file')}",
        parts.table(("File", "Why"), rows, caption="Files that were not saved", kind="errors"),
        parts.pager(here if cursor else None, following),
        ident="errors",
    )


def _report(found: _Found) -> Component | None:
    _, started = found
    if started is None or not started.report:
        return None
    return html.Details(
        [html.Summary(html.H2("Report")), dcc.Markdown(started.report, className="report")],
        className="report-of-run", open=True,
    )  # fmt: skip


def _log() -> Component:
    return parts.section(
        "Log",
        html.Div(
            [
                html.Div(
                    [
                        html.Label("Search the log", htmlFor="log-text"),
                        dcc.Input(
                            id="log-text", type="search", debounce=0.4, className="input",
                            placeholder="Text in a line",
                        ),
                    ],
                    className="field",
                ),
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


def _line(world: World, line: LogLine) -> Component:
    return html.Div(
        [
            html.Span(words.clock(line.at, world.zone()), className="at"),
            html.Span(line.level, className=f"level {line.level}"),
            html.Span("\n".join(map(escape, line.message.split("\n"))), className="text"),
        ]
    )
