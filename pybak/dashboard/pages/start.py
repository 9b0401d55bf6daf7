"""Starting a run: a backup, an inbox or a check, with the options that requests may give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dash import ALL, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component
from pydantic import ValidationError

from pybak.api.auth.scopes import WRITE
from pybak.api.problems import Problem, invalid
from pybak.api.schemas import (
    CompressOptions,
    CompressRequest,
    InboxChoices,
    InboxRequest,
    VerifyChoices,
    VerifyRequest,
)
from pybak.api.starting import start_backup, start_verify
from pybak.dashboard import forms, links, parts
from pybak.dashboard.world import World
from pybak.display import printable
from pybak.errors import PyBakError

_KINDS: Final = (("backup", "Backup"), ("inbox", "Inbox"), ("verify", "Check archives"))
_MODELS: Final = {"backup": CompressOptions, "inbox": InboxChoices, "verify": VerifyChoices}
_ABOUT: Final = {
    "backup": "Of a job by its name, as it is set up; or of other sources.",
    "inbox": "Packs each file of a folder by itself; the files leave it.",
    "verify": "Reads the archives of a job's newest backup through, and checks every member.",
}


def page(world: World, query: Mapping[str, str]) -> tuple[Component, str]:
    """Give the page."""
    world.check(WRITE)
    kind = query.get("kind", "backup")
    if kind not in _MODELS:
        kind = "backup"
    tabs = html.Nav(
        html.Ul(
            [
                html.Li(
                    parts.link(text, links.to("/start", kind=one, job=query.get("job")),
                               "tab chosen" if one == kind else "tab")
                )
                for one, text in _KINDS
            ]
        ),
        className="tabs", **parts.aria(label="What to start"),
    )  # fmt: skip
    return html.Div(
        [
            parts.heading("Start a run", under=_ABOUT[kind]),
            tabs,
            dcc.Store(id="start-kind", data=kind),
            dcc.Store(id="start-once", data=forms.once()),
            html.Div(
                [
                    *_places(world, kind, query.get("job")),
                    html.Details(
                        [
                            html.Summary("Options"),
                            html.P(
                                "What is left as it is, is as the job is set up.",
                                className="about",
                            ),
                            html.Div(forms.option_fields(_MODELS[kind], kind), className="options"),
                        ]
                    ),
                    html.Div(
                        html.Button("Start", id="start-go", className="button primary"),
                        className="actions",
                    ),
                ],
                className="card form",
            ),
            html.Div(id="start-said", **parts.aria(live="polite")),
        ],
        key=kind,
    ), "Start a run"


def register(app: Dash, world: World) -> None:
    """Check what was filled in, and start."""

    @app.callback(
        Output("start-said", "children"), Output("start-once", "data"),
        Input("start-go", "n_clicks"),
        State({"field": ALL, "part": ALL, "of": ALL}, "value"),
        State({"field": ALL, "part": ALL, "of": ALL}, "id"),
        State({"field": ALL, "part": ALL, "of": ALL, "many": ALL}, "value"),
        State({"field": ALL, "part": ALL, "of": ALL, "many": ALL}, "id"),
        State("start-kind", "data"), State("start-once", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def _go(
        clicks: int | None, values: list[Any], idents: list[Any], texts: list[Any],
        areas: list[Any], kind: str, once: str,
    ) -> tuple[Any, Any]:  # fmt: skip
        if not clicks:
            return no_update, no_update
        try:
            caller = world.check(WRITE)
            body = request_of(kind, forms.body_of([*idents, *areas], [*values, *texts]))
            start: Any = start_verify if kind == "verify" else start_backup
            started = world.call(start(world.context, body, caller, once))
        except Problem as error:
            if error.errors:
                title = "This can't be started as it is:"
                return forms.faults(title, error.errors), no_update
            return parts.failure(error), no_update
        except (PyBakError, TimeoutError) as error:
            return parts.failure(error), no_update
        follow = parts.link("Follow it", links.run(started.flow_run_id))
        return parts.notice(["It has started. ", follow], "good"), forms.once()


def request_of(kind: str, body: Mapping[str, Any]) -> Any:
    """Give the request that a form asks for. Raises Problem for one that can't be."""
    models: dict[str, Any] = {
        "backup": CompressRequest, "inbox": InboxRequest, "verify": VerifyRequest,
    }  # fmt: skip
    given = dict(body) if kind == "verify" else {"kind": kind, **body}
    try:
        return models[kind].model_validate(given)
    except ValidationError as error:
        raise invalid(error.errors()) from error


def _places(world: World, kind: str, job: str | None) -> list[Component]:
    settings = world.settings
    names = sorted({one.name for one in world.jobs() if one.kind == "backup"})

    def ident(name: str) -> dict[str, str]:
        return {"field": name, "part": forms.BODY, "of": kind}

    if kind == "verify":
        return [forms.entry("Job", ident("job"), value=job, suggestions=names)]
    if kind == "inbox":
        return [
            forms.entry("Folder", ident("source"), about=_below(settings.inbox_roots)),
            forms.entry("To", ident("destination"), about=_below(settings.destination_roots)),
        ]
    return [
        forms.entry(
            "Job", ident("job"), value=job, suggestions=names,
            about="A job that is set up needs nothing else.",
        ),
        forms.area("Sources", ident("sources"), about=_below(settings.source_roots)),
        forms.entry("To", ident("to"), about=_below(settings.destination_roots)),
    ]  # fmt: skip


def _below(roots: tuple[str, ...]) -> str:
    if not roots:
        return "Only what is set up: the service allows no other place."
    return f"Below {' or '.join(map(printable, roots))}."
