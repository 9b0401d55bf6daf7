"""The overview: is everything safe? Each job in a row, what is at work, what went wrong lately."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from pybak.api.auth.scopes import WRITE
from pybak.api.services import StartedRun
from pybak.dashboard import charts, links, parts, words
from pybak.dashboard.world import World
from pybak.display import escape, printable
from pybak.errors import PyBakError
from pybak.overview.facts import JobState, RunSummary

_EVERY_MS: Final = 10_000
_AT_ONCE: Final = 100
_PROBLEMS: Final = 5


def page(world: World, query: Mapping[str, str]) -> tuple[Component, str]:
    """Give the page."""
    at = max(int(query.get("from", "0") or 0), 0)
    return html.Div(
        [
            dcc.Interval(id="overview-tick", interval=_EVERY_MS),
            dcc.Store(id="overview-from", data=at),
            dcc.Store(id="overview-look"),
            dcc.Store(id="overview-looked", data={"turn": 0}),
            html.Div(_content(world, at), id="overview-body"),
        ]
    ), "Overview"


def register(app: Dash, world: World) -> None:
    """Have it look again every few seconds, once the last look was answered."""
    app.clientside_callback(
        ClientsideFunction("pybak", "turn"),
        Output("overview-look", "data"),
        Input("overview-tick", "n_intervals"), State("overview-look", "data"),
        State("overview-looked", "data"), prevent_initial_call=True,
    )  # fmt: skip

    @app.callback(
        Output("overview-body", "children"), Output("overview-looked", "data"),
        Input("overview-look", "data"), State("overview-from", "data"),
        prevent_initial_call=True,
    )  # fmt: skip
    def _again(look: Mapping[str, Any], at: int) -> tuple[Any, Any]:
        try:
            return _content(world, at), look
        except (PyBakError, TimeoutError) as error:
            return parts.failure(error), look


def _content(world: World, at: int) -> list[Any]:
    jobs = world.jobs()
    sentence, state = words.safety([one.state for one in jobs])
    start = WRITE in world.caller().scopes
    problems = _problems(world)
    if not jobs:
        action = [parts.button("Start a backup", links.to("/start"), primary=True)] if start else []
        return [
            parts.heading("Overview"),
            parts.empty(
                "There are no backups yet",
                "Once a backup has run, this page shows whether every job is safe.", *action,
            ),
            _at_work(world), problems,
        ]  # fmt: skip
    silent = None
    if not world.orchestrator_answers:
        silent = parts.notice(
            "Prefect does not answer: what waits to run, and when jobs run next, is not known now.",
            "warn",
        )
    return [
        parts.heading("Overview"),
        html.P(parts.pill(state, sentence), className=f"verdict {state}"),
        silent,
        _at_work(world),
        parts.section("Jobs", _jobs(world, jobs[at : at + _AT_ONCE]), _pages(at, len(jobs))),
        problems,
    ]


def _pages(at: int, total: int) -> Component | None:
    following = links.to("/", **{"from": at + _AT_ONCE}) if at + _AT_ONCE < total else None
    return parts.pager(links.to("/") if at else None, following)


def _jobs(world: World, jobs: list[JobState]) -> Component:
    rows = []
    for one in jobs:
        good = one.newest_good
        name: list[Any] = [parts.link(printable(one.name), links.job(one.name), "strong")]
        if one.state not in ("good", "running"):
            name.append(html.Div(one.words, className="why"))
        elif one.kind != "backup" and not one.name.startswith(f"{one.kind} "):
            name.append(html.Div(one.kind, className="why"))
        rows.append(
            (
                parts.pill(one.state, words.STATES.get(one.state, one.state)),
                name,
                parts.ago(world, good.finished_at if good else None, "none yet"),
                parts.ago(world, one.next_run, "not planned"),
                html.Img(
                    src=charts.sparkline(one.trend), alt=charts.told(one.trend), className="trend"
                ),
                words.size(one.size_bytes),
                words.newest_ratio(one.trend),
            )
        )
    columns = (
        "State",
        "Job",
        "Newest good backup",
        "Next run",
        "Last runs",
        "#Stored",
        "#Compressed to",
    )
    return parts.table(columns, rows, caption="All jobs, the worst first", kind="jobs")


def _at_work(world: World) -> Component | None:
    by_flow = dict(world.at_work())
    items = [
        _working(world, run, by_flow.pop(run.flow_run or "", None))
        for run in world.overview.active(now=world.now())[:20]
    ]
    items += [_working(world, None, one) for one in list(by_flow.values())[:20]]
    if not items:
        return None
    return parts.section("At work", html.Div(items, className="working"))


def _working(world: World, run: RunSummary | None, started: StartedRun | None) -> Component:
    kind = run.kind if run else started.kind if started else ""
    job = run.job if run else started.job if started else None
    ident = run.run_id if run else started.flow_run_id if started else ""
    begun = run.started_at if run else started.started_at if started else None
    waits = run is None and started is not None and begun is None
    about: list[Any] = [kind.capitalize(), " · "]
    about += ["waits for a worker"] if waits else ["began ", parts.ago(world, begun)]
    return html.Div(
        [
            html.Div(
                [parts.link(printable(job or kind), links.run(ident), "strong"),
                 html.Span(about, className="why")],
            ),
            None if waits else progress(started),
        ],
        className="card",
    )  # fmt: skip


def progress(started: StartedRun | None) -> Component:
    """Give how far a run is: a bar where that is known, and in words."""
    phase = (started.phase or "").capitalize() if started else ""
    if started is None or started.percent is None:
        return html.Div(phase or "At work", className="why")
    percent = f"{started.percent:.0f}"
    return html.Div(
        [
            html.Progress(value=percent, max="100", **parts.aria(label=f"{percent} % done")),
            html.Span(f"{percent} % {phase}".strip(), className="why"),
        ],
        className="progress",
    )


def _problems(world: World) -> Component | None:
    found: list[RunSummary | StartedRun] = [
        *world.overview.problems(now=world.now(), limit=_PROBLEMS),
        *world.failed_early()[:_PROBLEMS],
    ]
    if not found:
        return None
    found.sort(key=lambda one: one.started_at or one.finished_at or world.now(), reverse=True)
    rows = [_problem(world, one) for one in found[:_PROBLEMS]]
    return parts.section(
        "What went wrong lately",
        parts.table(
            ("State", "Job", "Kind", "Began", "Why"), rows, caption="Runs that went wrong",
            kind="problems",
        ),
    )  # fmt: skip


def _problem(world: World, one: RunSummary | StartedRun) -> tuple[Any, ...]:
    if isinstance(one, StartedRun):
        text = escape(one.message or "see its log")
        ident, status, why = one.flow_run_id, one.state, f"Before it began: {text}"
    else:
        ident, status, why = one.run_id, one.status, escape(one.message or "")
    return (
        parts.status_pill(status),
        parts.link(printable(one.job or one.kind), links.run(ident), "strong"),
        one.kind.capitalize(),
        parts.ago(world, one.started_at or one.finished_at),
        why,
    )
