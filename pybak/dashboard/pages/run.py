"""One run: how it went or how far it is, what it could not save, its report and its log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from pybak.api.auth.scopes import WRITE
from pybak.api.problems import Problem
from pybak.api.routes.runs import find
from pybak.api.starting import cancel_found
from pybak.dashboard import links, parts, run_log, stages, words
from pybak.dashboard.found_run import FoundRun, is_finishing, is_over, is_settled, status, title
from pybak.dashboard.pages.overview import progress
from pybak.dashboard.world import World
from pybak.display import escape, printable
from pybak.errors import PyBakError

_EVERY_MS: Final = 2000
_ERRORS: Final = 50
_COUNTS: Final = {
    "archives": "Archives", "total": "Files", "new": "New", "changed": "Changed",
    "unchanged": "Unchanged", "done": "Stored", "restored": "Restored", "gone": "Gone",
    "duplicates": "Stored before", "waiting": "Still being written", "excluded": "Excluded",
    "skipped": "Left out", "damaged": "Damaged", "failed": "Failed",
}  # fmt: skip
_TOLD: Final = ("archives", "total", "failed", "damaged")
"""Counts that are told when they are 0, too."""
_FAILED: Final = {"backup": "Not saved", "restore": "Not restored"}
_WAITS: Final = {
    "scheduled": "It begins when what runs flows has room for it.",
    "pending": "Its process is being started.",
}


def page(world: World, run_id: str, query: Mapping[str, str]) -> tuple[Component, str]:
    """Give the page of a run, by its id or that of its flow run."""
    found = world.call(find(world.context, run_id))
    settled = is_settled(found, world.now())
    shown = _shown(world, found, run_id, query)
    return html.Div(
        [
            dcc.Store(id="run-id", data=run_id),
            dcc.Store(id="run-look"), dcc.Store(id="run-looked", data=0),
            dcc.Store(id="run-shown", data=list(map(parts.digest, shown))),
            dcc.Interval(id="run-tick", interval=_EVERY_MS, disabled=settled),
            html.Div(shown[0], id="run-top"),
            html.Div(id="run-said"),
            html.Div(shown[1], id="run-head"),
            html.Div(shown[2], id="run-rest"),
            run_log.section(),
        ]
    ), title(found)  # fmt: skip


def register(app: Dash, world: World) -> None:
    """Follow a run while it is at work; read its log; stop it."""
    run_log.register(app, world)

    # The next look waits for the answer to the last one: a page that is asked anew before it has
    # answered, and again, would never show anything where answers take longer than a tick.
    app.clientside_callback(
        ClientsideFunction("pybak", "turn"),
        Output("run-look", "data"),
        Input("run-tick", "n_intervals"), State("run-look", "data"), State("log-state", "data"),
        prevent_initial_call=True,
    )  # fmt: skip

    @app.callback(
        Output("run-top", "children"), Output("run-head", "children"),
        Output("run-rest", "children"), Output("run-shown", "data"),
        Output("run-tick", "disabled"), Output("run-looked", "data"),
        Input("run-look", "data"), State("run-id", "data"), State("url", "search"),
        State("run-shown", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def _again(
        look: Mapping[str, Any], run_id: str, search: str | None, known: list[str]
    ) -> tuple[Any, ...]:
        try:
            found = world.call(find(world.context, run_id))
            shown = _shown(world, found, run_id, links.read(search))
        except (Problem, PyBakError, TimeoutError, ValueError):
            return *[no_update] * 5, look["turn"]  # the next look may do
        # What is the same stays as it is: a question that is open, a text that is being copied.
        digests = list(map(parts.digest, shown))
        changed = [
            no_update if digest == old else part
            for part, digest, old in zip(shown, digests, known, strict=True)
        ]
        return *changed, digests, is_settled(found, world.now()), look["turn"]

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


def _shown(
    world: World, found: FoundRun, run_id: str, query: Mapping[str, str]
) -> tuple[list[Any], list[Any], list[Any]]:
    """Give the parts of the page that change: title and actions, state, what comes at the end."""
    rest = _rest(world, found, run_id, query) if is_over(found) else []
    return _top(world, found), _head(world, found), rest


def _top(world: World, found: FoundRun) -> list[Any]:
    run, started = found
    over = is_over(found)
    may_write = WRITE in world.caller().scopes
    actions: list[Any] = []
    finishing = is_finishing(found)
    if not over and not finishing and may_write and started is not None:
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
    return [parts.heading(title(found), *actions)]


def _head(world: World, found: FoundRun) -> list[Any]:
    _, started = found
    content: list[Any] = [
        html.P(
            [parts.status_pill(status(found)), *_said(found)],
            className=f"verdict {words.status(status(found))[1]}",
        ),
    ]
    is_at_work = not is_over(found) and not is_finishing(found)
    if is_at_work and (started is None or started.state not in _WAITS):
        content.append(html.Div(progress(started), className="card"))
    content.append(parts.facts(_facts(world, found)))
    return content


def _said(found: FoundRun) -> list[Any]:
    run, started = found
    text = run.summary.message if run else started.message if started else None
    if run is None and started is not None:
        text = _WAITS.get(started.state, text)
    return [html.Span(escape(text))] if text else []


def _facts(world: World, found: FoundRun) -> list[tuple[str, Any]]:
    run, started = found
    zone = world.zone()
    if run is None:
        if started is None:
            return []
        begun = parts.moment(world, started.started_at, "not yet")
        return [("Asked for", parts.moment(world, started.created_at)), ("Began", begun)]
    one = run.summary
    known: list[tuple[str, Any]] = [
        ("Job", parts.link(printable(one.job), links.job(one.job))),
        ("Began", parts.moment(world, one.started_at)),
        ("Took", words.duration(one.duration_seconds)),
    ]
    if one.mode:
        known.append(("Kind", one.mode.capitalize()))
    for name, label in _COUNTS.items():
        count = one.files.get(name)
        if isinstance(count, int) and (count or name in _TOLD):
            said = _FAILED.get(one.kind, label) if name == "failed" else label
            known.append((said, f"{count:,}"))
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


def _rest(world: World, found: FoundRun, run_id: str, query: Mapping[str, str]) -> list[Any]:
    """Give what there is of a run that is over."""
    run, _ = found
    times = stages.section(run.stages) if run is not None else None
    return [_errors(world, found, run_id, query), times, _report(found)]


def _errors(
    world: World, found: FoundRun, run_id: str, query: Mapping[str, str]
) -> Component | None:
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


def _report(found: FoundRun) -> Component | None:
    _, started = found
    if started is None or not started.report:
        return None
    return html.Details(
        [html.Summary(html.H2("Report")), dcc.Markdown(started.report, className="report")],
        className="report-of-run", open=True,
    )  # fmt: skip
