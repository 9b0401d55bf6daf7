"""Finding a file: a job's folders as they were at a moment, and a search as one types."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from dash import MATCH, ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from pybak.api.auth.scopes import RESTORE
from pybak.dashboard import links, parts, words
from pybak.dashboard.world import World
from pybak.display import printable
from pybak.errors import PyBakError
from pybak.overview.facts import Found, Member

_LIMIT: Final = 200
_RESULTS: Final = 50
_LEAST: Final = 2
"""How many characters a search needs."""
_PATIENCE_SECONDS: Final = 1.0
_MOMENTS: Final = 100


def page(world: World, query: Mapping[str, str]) -> tuple[Component, str]:
    """Give the page: folders of `job` at `run`, or of all jobs; `q` is what was searched for."""
    jobs = sorted({one.name for one in world.jobs() if one.archives})
    if not jobs:
        return html.Div(
            [
                parts.heading("Files"),
                parts.empty("There is nothing to browse", "No backup has an archive yet."),
            ]
        ), "Files"
    job = query.get("job") or (jobs[0] if len(jobs) == 1 else None)
    text = query.get("q", "")[: parts.MOST_TYPED]
    if job is None:
        browsing: Any = _choose(world, jobs)
        pickers: list[Any] = [_jobs(jobs, None)]
    else:
        browsing = _folder(world, job, query)
        pickers = [_jobs(jobs, job), _moments(world, job, query)]
    search = parts.search(
        "files-q", "Find a file", "A part of its name, or *.pdf", text=text, kind="large"
    )
    return html.Div(
        [
            parts.heading("Files"),
            search,
            html.Div(pickers, className="pickers"),
            dcc.Store(id="files-where", data={"job": job}),
            dcc.Store(id="files-kept"),
            html.Div(id="files-found", **parts.aria(live="polite")),
            html.Div(browsing, id="files-tree"),
        ]
    ), f"Files of {printable(job)}" if job else "Files"  # fmt: skip


def register(app: Dash, world: World) -> None:
    """Search as one types; the address keeps what was searched for."""
    app.clientside_callback(
        ClientsideFunction("pybak", "keepSearch"),
        Output("files-kept", "data"), Input("files-q-typed", "data"), prevent_initial_call=True,
    )  # fmt: skip

    @app.callback(
        Output("files-found", "children"), Output("files-tree", "className"),
        Input("files-q-typed", "data"), State("files-where", "data"),
    )  # fmt: skip
    def _search(text: str | None, where: Mapping[str, Any]) -> tuple[Any, str]:
        wanted = (text or "").strip()
        if len(wanted) < _LEAST:
            return [], ""
        try:
            return _found(world, wanted, where.get("job"), None), "gone"
        except (PyBakError, TimeoutError) as error:
            return parts.failure(error), "gone"

    @app.callback(
        Output({"more": "found", "after": MATCH}, "children"),
        Input({"more": "button", "after": MATCH}, "n_clicks"),
        State({"more": "cursor", "after": MATCH}, "data"),
        State("files-q-typed", "data"), State("files-where", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def _more(clicks: int | None, cursor: str, text: str, where: Mapping[str, Any]) -> Any:
        if not clicks:
            return no_update
        try:
            return _found(world, (text or "").strip(), where.get("job"), cursor)
        except (PyBakError, TimeoutError) as error:
            return parts.failure(error)


def _jobs(jobs: list[str], chosen: str | None) -> Component:
    choices = [("All jobs", links.to("/files"), chosen is None)] if len(jobs) > 1 else []
    choices += [(printable(one), links.to("/files", job=one), one == chosen) for one in jobs]
    return parts.picker("Job", printable(chosen) if chosen else "All jobs", choices)


def _moments(world: World, job: str, query: Mapping[str, str]) -> Component:
    run_id, folder = query.get("run"), query.get("folder")
    found = world.overview.snapshots(job=job, limit=_MOMENTS)
    choices, chosen = [], "Latest"
    zone = world.zone()
    for number, one in enumerate(found.items):
        text = words.moment(one.started_at, zone)
        if number == 0:
            text = f"Latest: {text}"
            chosen = text
        if one.run_id == run_id:
            chosen = text
        is_chosen = one.run_id == run_id if run_id else number == 0
        address = links.to("/files", job=job, run=one.run_id if number else None, folder=folder)
        choices.append((text, address, is_chosen))
    if found.next:
        choices.append(("Older ones…", links.to("/snapshots", job=job), False))
    if run_id and not any(one[2] for one in choices):
        chosen = words.moment(world.overview.run(run_id).summary.started_at, zone)
    return parts.picker("As it was on", chosen, choices)


def _choose(world: World, jobs: list[str]) -> Component:
    known = {one.name: one for one in world.jobs()}
    cards = []
    for name in jobs[:_LIMIT]:
        good = known[name].newest_good
        cards.append(
            html.Li(
                parts.link(
                    [
                        html.Span(printable(name), className="strong"),
                        html.Span(
                            [words.size(known[name].size_bytes), ", last good backup ",
                             parts.ago(world, good.finished_at if good else None, "never")],
                            className="why",
                        ),
                    ],
                    links.to("/files", job=name), "card",
                )
            )
        )  # fmt: skip
    return html.Section([html.H2("Or browse a job"), html.Ul(cards, className="cards")])


def _folder(world: World, job: str, query: Mapping[str, str]) -> list[Any]:
    run_id, folder, cursor = query.get("run"), query.get("folder", ""), query.get("cursor")
    page = world.overview.tree(
        job, run_id=run_id, folder=os.fsencode(folder), cursor=cursor, limit=_LIMIT
    )
    here = {"job": job, "run": run_id}
    crumbs = [("All folders", links.to("/files", **here))]
    crumbs += [
        (printable(name), links.to("/files", **here, folder=path))
        for name, path in links.parents(folder)
    ]
    trail = html.Nav(
        html.Ol(
            [
                html.Li(
                    html.Span(text, **parts.aria(current="location"))
                    if number == len(crumbs) - 1 else parts.link(text, address)
                )
                for number, (text, address) in enumerate(crumbs)
            ]
        ),
        className="crumbs", **parts.aria(label="Folders above"),
    )  # fmt: skip
    restore = None
    if folder and RESTORE in world.caller().scopes:
        address = links.to("/restore", **here, path=folder, kind="folder")
        restore = html.Div(
            parts.link("Restore this folder", address, "button"), className="actions"
        )
    bar = html.Div([trail, restore], className="bar-of-folder")
    if not page.items and page.next is None:
        return [bar, parts.empty("An empty folder", "Nothing was in it at this moment.")]
    rows = [_member(world, job, run_id, one) for one in page.items]
    first = links.to("/files", **here, folder=folder) if cursor else None
    following = None
    if page.next:
        following = links.to("/files", **here, folder=folder, cursor=page.next)
    return [
        bar,
        parts.table(
            ("Name", "#Size", "Changed"), rows, caption="What is in this folder", kind="files"
        ),
        parts.pager(first, following),
    ]


def _member(world: World, job: str, run_id: str | None, one: Member) -> tuple[Any, ...]:
    is_folder = one.type == "folder"
    here = {"job": job, "run": run_id}
    address = (
        links.to("/files", **here, folder=one.path)
        if is_folder else links.to("/file", **here, path=one.path)
    )  # fmt: skip
    name = parts.link([icon(one.type), printable(one.name)], address, "name")
    return name, "" if is_folder else words.size(one.size), changed(world, one)


def changed(world: World, one: Member) -> Any:
    """Give when a member was changed last."""
    from pybak.moment import parse_moment

    if one.mtime is None:
        return ""
    try:
        return words.moment(parse_moment(one.mtime), world.zone())
    except (ValueError, OverflowError):
        return one.mtime


def icon(kind: str) -> Component:
    """Give the sign of a kind of members, with a word for those who hear it."""
    word = {"folder": "Folder", "symlink": "Link"}.get(kind, "File")
    return html.Span(html.Span(f"{word}: ", className="hidden"), className=f"icon {word.lower()}")


def _found(world: World, text: str, job: str | None, cursor: str | None) -> list[Any]:
    page = world.overview.search(
        text, job=job, cursor=cursor, limit=_RESULTS, patience_seconds=_PATIENCE_SECONDS
    )
    if not page.items and page.next is None and cursor is None:
        return [
            parts.empty(
                "Nothing found",
                "No file or folder has this in its name. A pattern such as *.pdf must fit the "
                "whole name.",
            )
        ]
    rows = [_result(world, one, with_job=job is None) for one in page.items]
    columns = ["Name", "#Size", "Changed", "Last saved"]
    if job is None:
        columns.insert(1, "Job")
    shown: list[Any] = []
    if cursor is None:
        more = " or more" if page.next else ""
        head = f"{len(page.items)}{more} found" if page.items else "Nothing found so far"
        shown.append(html.P(head, className="why"))
    if rows:
        shown.append(parts.table(columns, rows, caption="What was found", kind="files"))
    if page.next is not None:
        # What comes takes this one's place.
        shown.append(
            html.Div(
                [
                    dcc.Store(id={"more": "cursor", "after": page.next}, data=page.next),
                    html.Button(
                        "More results" if page.items else "Go on searching",
                        id={"more": "button", "after": page.next}, className="button",
                    ),
                ],
                id={"more": "found", "after": page.next},
            )
        )  # fmt: skip
    return shown


def _result(world: World, found: Found, *, with_job: bool) -> tuple[Any, ...]:
    one = found.member
    run_id = None if found.is_current else found.run_id
    if one.type == "folder":
        address = links.to("/files", job=found.job, run=run_id, folder=one.path)
    else:
        address = links.to("/file", job=found.job, path=one.path, run=run_id)
    folder = one.path.rpartition("/")[0]
    name = parts.link(
        [
            icon(one.type),
            html.Span([printable(one.name), html.Span(printable(folder), className="why")]),
        ],
        address, "name",
    )  # fmt: skip
    last = "in the latest" if found.is_current else parts.moment(world, found.seen_at)
    row = [name, "" if one.type == "folder" else words.size(one.size), changed(world, one), last]
    if with_job:
        row.insert(1, printable(found.job))
    return tuple(row)
