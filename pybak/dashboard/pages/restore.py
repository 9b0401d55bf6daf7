"""Restoring a file or folder into a folder of the host: what, where to, then yes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component
from pydantic import ValidationError

from pybak.api.auth.scopes import RESTORE
from pybak.api.problems import Problem, invalid
from pybak.api.schemas import RestoreRequest
from pybak.api.starting import start_restore
from pybak.dashboard import forms, links, parts, words
from pybak.dashboard.world import World
from pybak.display import printable
from pybak.errors import NotFoundError, PyBakError
from pybak.patterns import exact_pattern

_THERE: Final = (
    ("Replace it if it differs", "if-changed"), ("Keep what is there", "never"),
    ("Replace it if it is older", "if-newer"), ("Replace it always", "always"),
)  # fmt: skip


def page(world: World, query: Mapping[str, str]) -> tuple[Component, str]:
    """Give the page: of a member `path`, as the run `run` has it, or the newest of `job`."""
    world.check(RESTORE)
    job, path, run_id = query.get("job", ""), query.get("path", ""), query.get("run")
    if not path:
        raise NotFoundError("what is to be restored is not said; choose it among the files")
    name = printable(path.rpartition("/")[2])
    what = "folder" if query.get("kind") == "folder" else "file"
    as_of: Any = "the latest backup"
    if run_id:
        as_of = words.moment(world.overview.run(run_id).summary.started_at, world.zone())
    roots = world.settings.restore_roots
    known = parts.facts(
        [
            (what.capitalize(), html.Code(printable(path))),
            ("Of", parts.link(printable(job), links.job(job))),
            ("As it was on" if run_id else "As in", as_of),
        ]
    )
    content: list[Any] = [parts.heading(f"Restore {name}"), known]
    if not roots:
        content.append(
            parts.empty(
                "No folder to restore into",
                "The service may not write anywhere: PYBAK_API_RESTORE_ROOTS names no folder. "
                "Single files can be downloaded.",
                parts.button("Back to the files", links.to("/files", job=job, run=run_id)),
            )
        )
        return html.Div(content), f"Restore {name}"
    fields: list[Any] = [
        forms.choice("Into", "restore-root", [(one, one) for one in roots], value=roots[0]),
        forms.entry(
            "Folder below it", "restore-below", placeholder="Empty: right into it",
            about=f"The {what} keeps its path: the folders above it are made there.",
        ),
        forms.choice("If it is there already", "restore-there", _THERE, value="if-changed"),
    ]  # fmt: skip
    blocks = world.settings.password_blocks
    passwords = [("None needed", ""), *((one, one) for one in blocks)]
    fields.append(
        html.Div(
            forms.choice("Password block", "restore-password", passwords,
                         about="What opens an encrypted archive."),
            className="" if blocks else "gone",
        )
    )  # fmt: skip
    content += [
        dcc.Store(id="restore-once", data=forms.once()),
        dcc.Store(id="restore-what", data={"query": links.asked(**dict(query)), "kind": what}),
        html.Div(
            [
                *fields,
                html.Div(
                    html.Button("Continue", id="restore-ask", className="button primary"),
                    className="actions",
                ),
            ],
            id="restore-form", className="card form",
        ),
        html.Div(id="restore-said", **parts.aria(live="polite")),
    ]  # fmt: skip
    return html.Div(content), f"Restore {name}"


def register(app: Dash, world: World) -> None:
    """Ask once more, then start."""

    @app.callback(
        Output("restore-said", "children"), Output("restore-form", "className"),
        Input("restore-ask", "n_clicks"),
        State("restore-root", "value"), State("restore-below", "value"),
        State("restore-there", "value"), State("restore-what", "data"),
        prevent_initial_call=True,
    )  # fmt: skip
    def _ask(
        clicks: int | None, root: str, below: str | None, there: str, what: Mapping[str, str]
    ) -> tuple[Any, Any]:
        if not clicks:
            return no_update, no_update
        try:
            world.check(RESTORE)
        except Problem as error:
            return parts.failure(error), "card form"
        query = links.read(what["query"])
        place = _place(root, below)
        end = f"{place.rstrip('/')}/{query['path'].lstrip('/')}"
        choice = dict((value, text) for text, value in _THERE).get(there, there)  # noqa: C402
        return html.Div(
            [
                html.H2(f"Restore this {what['kind']}?"),
                parts.facts(
                    [
                        ("It becomes", html.Code(printable(end))),
                        ("If it is there already", choice),
                    ]
                ),
                html.Div(
                    [
                        html.Button("Restore it", id="restore-go", className="button primary"),
                        # The safe one, for whoever presses Enter twice.
                        html.Button(
                            "Change something", id="restore-back", className="button",
                            autoFocus=True,
                        ),
                    ],
                    className="actions",
                ),
                html.Div(id="restore-done", role="status"),
            ],
            className="card confirm-restore",
        ), "card form gone"  # fmt: skip

    @app.callback(
        Output("restore-said", "children", allow_duplicate=True),
        Output("restore-form", "className", allow_duplicate=True),
        Input("restore-back", "n_clicks"), prevent_initial_call=True,
    )  # fmt: skip
    def _back(clicks: int | None) -> tuple[Any, Any]:
        return ([], "card form") if clicks else (no_update, no_update)

    @app.callback(
        Output("restore-said", "children", allow_duplicate=True),
        Output("restore-form", "className", allow_duplicate=True),
        Input("restore-go", "n_clicks"),
        State("restore-root", "value"), State("restore-below", "value"),
        State("restore-there", "value"), State("restore-password", "value"),
        State("restore-what", "data"), State("restore-once", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def _go(
        clicks: int | None, root: str, below: str | None, there: str, block: str | None,
        what: Mapping[str, str], once: str,
    ) -> tuple[Any, Any]:  # fmt: skip
        if not clicks:
            return no_update, no_update
        try:
            caller = world.check(RESTORE)
            body = request_of(links.read(what["query"]), _place(root, below), there, block)
            started = world.call(start_restore(world.context, body, caller, once))
        except (Problem, PyBakError, TimeoutError) as error:
            return parts.failure(error), "card form"
        return html.Div(
            [
                parts.notice("The restore has started.", "good"),
                html.Div(
                    [
                        parts.button("Follow it", links.run(started.flow_run_id), primary=True),
                        parts.button("Back to the files", links.to("/files")),
                    ],
                    className="actions",
                ),
            ]
        ), "card form gone"


def request_of(
    query: Mapping[str, str], place: str, there: str, block: str | None
) -> RestoreRequest:
    """Give the request for what an address names. Raises Problem for what can't be asked for."""
    path = query["path"]
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Problem(
            422, "no-utf8", "this name is no UTF-8; download the file, or restore its folder"
        ) from None
    options: dict[str, Any] = {
        "include": [exact_pattern(os.fsencode(path.strip("/")))], "overwrite": there,
    }  # fmt: skip
    if block:
        options["password_block"] = block
    given: dict[str, Any] = {"to": place, "options": options}
    if query.get("run"):
        given["run"] = query["run"]
    else:
        given["job"] = query.get("job")
    try:
        return RestoreRequest.model_validate(given)
    except ValidationError as error:
        raise invalid(error.errors()) from error


def _place(root: str, below: str | None) -> str:
    rest = (below or "").strip().strip("/")
    return f"{root.rstrip('/')}/{rest}" if rest else root
