"""The Dash application: what is around every page, and which page an address shows."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import flask
from dash import ClientsideFunction, Dash, Input, Output, dcc, html, set_props
from dash.development.base_component import Component, ComponentRegistry

from pybak.api.auth.scopes import WRITE
from pybak.api.problems import Problem
from pybak.dashboard import links, parts
from pybak.dashboard.pages import (
    file,
    files,
    job,
    overview,
    restore,
    run,
    runs,
    snapshots,
    start,
    storage,
)
from pybak.dashboard.settings import PATH
from pybak.errors import NotFoundError, PyBakError

if TYPE_CHECKING:
    from pybak.dashboard.world import World

_logger = logging.getLogger("pybak.dashboard")
_PAGES: Final = {
    "": overview, "job": job, "files": files, "file": file, "restore": restore, "runs": runs,
    "snapshots": snapshots, "storage": storage, "start": start,
}  # fmt: skip
_MENU: Final = (
    ("Overview", "/"), ("Files", "/files"), ("Runs", "/runs"), ("Snapshots", "/snapshots"),
    ("Storage", "/storage"),
)  # fmt: skip
_INDEX: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<meta name="color-scheme" content="light dark">
<title>{%title%}</title>
<link rel="icon" href="assets/icon.svg" type="image/svg+xml">
{%css%}
</head>
<body>
<a class="skip" href="#page">Skip to the content</a>
{%app_entry%}
<footer>
{%config%}
{%scripts%}
{%renderer%}
</footer>
<noscript><p class="plain card">These pages need JavaScript.</p></noscript>
</body>
</html>
"""


def make_pages(world: World) -> Any:
    """Make the Dash application; `server` is the WSGI application in it."""
    # Its tables are large, and not used.
    registry: Any = ComponentRegistry.registry
    if "dash_table" in registry:
        registry.discard("dash_table")
    app = Dash(
        __name__, requests_pathname_prefix=f"{PATH}/", routes_pathname_prefix="/",
        title="PyBak", update_title="", suppress_callback_exceptions=True, index_string=_INDEX,
        enable_mcp=False, add_log_handler=False, on_error=_fault,
    )  # fmt: skip
    app.layout = lambda: _layout(world)
    app.clientside_callback(
        ClientsideFunction("pybak", "arrived"),
        Output("arrived", "data"), Input("page-title", "data"), Input("page", "data-page"),
    )  # fmt: skip

    @app.callback(
        Output("page", "children"), Output("page-title", "data"), Output("page", "data-page"),
        Input("url", "pathname"), Input("url", "search"),
    )  # fmt: skip
    def _show(pathname: str | None, search: str | None) -> tuple[Any, str, str]:
        content, title = show(world, pathname, search)
        return content, title, f"{pathname}{search or ''}"

    for module in (overview, run, files, restore, snapshots, start):
        module.register(app, world)
    server: flask.Flask = app.server
    # A script that is cut off has no use: everything small and whole, or an error.
    server.config["MAX_CONTENT_LENGTH"] = 1 << 20
    return app


def _fault(error: Exception) -> None:
    """Say so, where a callback met what nobody thought of; nothing on the page changes."""
    _logger.error("a callback failed", exc_info=error)
    set_props("fault", {"children": parts.failure(error)})


def show(world: World, pathname: str | None, search: str | None) -> tuple[Component, str]:
    """Give the page of an address, and its title."""
    path = links.page_of(pathname)
    try:
        query = links.read(search)
        if len(path) == 2 and path[0] == "runs":
            return run.page(world, path[1], query)
        module: Any = _PAGES.get(path[0] if path else "") if len(path) < 2 else None
        if module is None:
            return _missing("There is no such page."), "Not found"
        content, title = module.page(world, query)
        return content, title
    except NotFoundError as error:
        return _missing(parts.said(error)), "Not found"
    except Problem as error:
        if error.status == 404:
            return _missing(parts.said(error)), "Not found"
        return _failed(error), "Not possible"
    except (PyBakError, TimeoutError, ValueError) as error:
        _logger.warning("%s: %s", pathname, error)
        return _failed(error), "Not possible"
    except Exception as error:  # a page that says so, rather than an empty one
        _logger.exception("%s", pathname)
        return _failed(error), "Not possible"


def _missing(text: str) -> Component:
    return html.Div(
        [
            parts.heading("Not found"),
            parts.empty("It is not here", text, parts.button("To the overview", links.to("/"))),
        ]
    )


def _failed(error: Exception) -> Component:
    again = html.A("Try again", href="", className="button")
    return html.Div([parts.heading("This can't be shown now"), parts.failure(error), html.P(again)])


def _layout(world: World) -> Component:
    caller = world.caller()
    menu = list(_MENU)
    if WRITE in caller.scopes:
        menu.append(("Start a run", "/start"))
    who: list[Any] = []
    if not world.context.guard.is_open:
        who = [
            html.Span(caller.name, className="name"),
            html.Form(
                html.Button("Log out", type="submit", className="quiet"),
                method="post", action=f"{PATH}/logout",
            ),
        ]  # fmt: skip
    return html.Div(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="page-title"), dcc.Store(id="arrived"),
            html.Header(
                [
                    html.Div(
                        [
                            parts.link("PyBak", links.to("/"), "brand"),
                            html.Div(who, className="who"),
                        ],
                        className="top",
                    ),
                    html.Nav(
                        html.Ul(
                            [html.Li(parts.link(text, links.to(page))) for text, page in menu]
                        ),
                        id="menu", **parts.aria(label="Pages"),
                    ),
                ]
            ),
            html.Div(
                parts.notice("The service does not answer. What is shown may be old.", "bad"),
                id="silent", className="gone",
            ),
            html.Div(id="fault"),
            html.Main(_waiting(), id="page", tabIndex="-1"),
            html.Div(id="said", className="hidden", role="status"),
        ],
        className="shell",
    )  # fmt: skip


def _waiting() -> Component:
    bars = [html.Div(className=f"bone {kind}") for kind in ("short", "", "", "")]
    return html.Div([html.P("Loading…", className="hidden"), *bars], className="bones")
