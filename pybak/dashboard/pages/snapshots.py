"""Snapshots of a job, and what rules of retention would do to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dash import ALL, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from pybak.api.auth.scopes import WRITE
from pybak.api.problems import Problem
from pybak.api.schemas import PruneRequest
from pybak.api.starting import start_prune
from pybak.dashboard import forms, links, parts, retention, words
from pybak.dashboard.world import World
from pybak.display import escape, printable
from pybak.errors import PyBakError
from pybak.overview.facts import SnapshotFact
from pybak.retention.policy import Verdict

_LIMIT: Final = 50
_RULE: Final = "rule"


def page(world: World, query: Mapping[str, str]) -> tuple[Component, str]:
    """Give the page; rules of retention are in its address."""
    jobs = sorted({one.name for one in world.jobs() if one.kind == "backup"})
    if not jobs:
        return html.Div(
            [
                parts.heading("Snapshots"),
                parts.empty("There are no snapshots", "Each backup makes one."),
            ]
        ), "Snapshots"
    job = query.get("job") or jobs[0]
    picker = parts.picker(
        "Job", printable(job),
        [(printable(one), links.to("/snapshots", job=one), one == job) for one in jobs],
    )  # fmt: skip
    fault: Component | None = None
    rules: dict[str, Any] = {}
    verdicts: dict[str, Verdict] = {}
    try:
        rules = retention.rules_of(query)
        if rules:
            verdicts = retention.judge(
                world.overview, job, rules, now=world.now(), timezone=world.zone()
            )
    except (Problem, PyBakError) as error:
        fault = parts.failure(error)
    cursor = query.get("cursor")
    found = world.overview.snapshots(job=job, cursor=cursor, limit=_LIMIT)
    here = {"job": job, **{name: query.get(name) for name, _ in retention.RULES}}
    return html.Div(
        [
            parts.heading("Snapshots", under="States of the files that can be restored."),
            html.Div(picker, className="pickers"),
            dcc.Store(id="retention-job", data=job),
            dcc.Store(id="retention-once", data=forms.once()),
            _rules(world, query, verdicts, fault),
            _table(world, found.items, verdicts, job)
            if found.items else parts.empty("No snapshots", "This job has none."),
            parts.pager(
                links.to("/snapshots", **here) if cursor else None,
                links.to("/snapshots", **here, cursor=found.next) if found.next else None,
            ),
        ]
    ), f"Snapshots of {printable(job)}"  # fmt: skip


def register(app: Dash, world: World) -> None:
    """Put rules into the address; have prune itself say what it would do."""

    @app.callback(
        Output("url", "search"),
        Input("retention-show", "n_clicks"),
        State({_RULE: ALL}, "value"), State({_RULE: ALL}, "id"), State("retention-job", "data"),
        prevent_initial_call=True,
    )  # fmt: skip
    def _show(clicks: int | None, values: list[Any], idents: list[Any], job: str) -> Any:
        if not clicks:
            return no_update
        return links.asked(job=job, **_given(values, idents))

    @app.callback(
        Output("retention-said", "children"), Output("retention-once", "data"),
        Input("retention-plan", "n_clicks"),
        State({_RULE: ALL}, "value"), State({_RULE: ALL}, "id"), State("retention-job", "data"),
        State("retention-once", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def _plan(
        clicks: int | None, values: list[Any], idents: list[Any], job: str, once: str
    ) -> tuple[Any, Any]:
        if not clicks:
            return no_update, no_update
        try:
            caller = world.check(WRITE)
            rules = retention.rules_of(_given(values, idents))
            body = PruneRequest(job=job, options=rules)
            started = world.call(start_prune(world.context, body, caller, once))
        except (Problem, PyBakError, TimeoutError) as error:
            return parts.failure(error), no_update
        follow = parts.link("See its report", links.run(started.flow_run_id))
        said = ["A dry run has started; it removes nothing. ", follow]
        return parts.notice(said, "good"), forms.once()


def _given(values: list[Any], idents: list[Any]) -> dict[str, str]:
    return {
        ident[_RULE]: str(value).strip()
        for ident, value in zip(idents, values, strict=True)
        if value not in (None, "", 0)
    }


def _rules(
    world: World, query: Mapping[str, str], verdicts: Mapping[str, Verdict],
    fault: Component | None,
) -> Component:  # fmt: skip
    fields = [
        forms.entry(
            label, {_RULE: name}, value=query.get(name) or None,
            kind="text" if name == "keep_within" else "number",
            placeholder="such as 30d" if name == "keep_within" else "0",
        )
        for name, label in retention.RULES
    ]  # fmt: skip
    buttons: list[Any] = [
        html.Button("Show what these rules would do", id="retention-show", className="button")
    ]
    if WRITE in world.caller().scopes:
        buttons.append(html.Button("Start a dry run", id="retention-plan", className="button"))
    said: Any = fault
    if verdicts:
        keep = sum(one.keep for one in verdicts.values())
        said = parts.notice(
            f"These rules keep {keep:,} of {words.count(len(verdicts), 'snapshot')} and remove "
            f"{len(verdicts) - keep:,}. A dry run also looks at the archives: what later "
            "snapshots are made of stays.",
        )
    return html.Details(
        [
            html.Summary("What would retention keep?"),
            html.P(
                "How many to keep of the newest, and of the newest of each day, week, month and "
                "year. A dry run without rules takes those that are set up.",
                className="about",
            ),
            html.Div(fields, className="rules"),
            html.Div(buttons, className="actions"),
            html.Div(said, id="retention-said"),
        ],
        className="card retention",
        open=bool(verdicts or fault),
    )


def _table(
    world: World, found: tuple[SnapshotFact, ...], verdicts: Mapping[str, Verdict], job: str
) -> Component:
    zone = world.zone()
    rows = []
    for one in found:
        row: list[Any] = [
            parts.link(words.moment(one.started_at, zone), links.run(one.run_id), "strong"),
            parts.status_pill(one.status),
            one.mode.capitalize(),
            words.size(one.size),
            ", ".join(map(escape, one.tags)) or words.NONE,
        ]
        if verdicts:
            verdict = verdicts.get(one.run_id)
            row.append(_verdict(verdict) if verdict else words.NONE)
        row.append(
            parts.link("Browse", links.to("/files", job=job, run=one.run_id), "button small")
        )
        rows.append(row)
    columns = ["Made", "State", "Kind", "#Size", "Tags"]
    if verdicts:
        columns.append("Would be")
    return parts.table(
        [*columns, ""], rows, caption="Snapshots, the newest first", kind="snapshots"
    )


def _verdict(one: Verdict) -> Component:
    return html.Div(
        [
            parts.pill("good" if one.keep else "problem", "Kept" if one.keep else "Removed"),
            html.Div("; ".join(map(escape, one.reasons)), className="why"),
        ]
    )
