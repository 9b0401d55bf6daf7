"""Pieces that pages are made of: states, times, lists of facts, tables, empty and failed states."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from dash import dcc, html
from dash.development.base_component import Component

from pybak.api.problems import Problem, of_error
from pybak.dashboard import words
from pybak.dashboard.world import World
from pybak.errors import PyBakError

_PLOTLY: Any = {"displayModeBar": False, "responsive": True, "scrollZoom": False}
MOST_TYPED: Final = 500
"""How many characters a search may have."""
Shown = Any
"""What Dash takes as children."""


def aria(**given: str) -> dict[str, Any]:
    """Give attributes for those who hear a page: `aria(label=…)` is `aria-label`."""
    return {f"aria-{name}": value for name, value in given.items()}


def digest(shown: Shown) -> str:
    """Give what tells whether something is still shown as it was."""
    text = json.dumps(shown, default=lambda part: part.to_plotly_json(), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def pill(state: str, text: str) -> Component:
    """Give a state as a word with its colour."""
    return html.Span(
        [html.Span(className="dot", **aria(hidden="true")), text], className=f"pill {state}"
    )


def status_pill(status: str) -> Component:
    """Give a run's status."""
    word, state = words.status(status)
    return pill(state, word)


def ago(world: World, at: datetime | None, none: str = words.NONE) -> Shown:
    """Give how long ago something was; the time itself shows on hovering."""
    if at is None:
        return none
    return html.Time(
        words.ago(at, world.now()), dateTime=at.isoformat(),
        title=words.moment(at, world.zone()),
    )  # fmt: skip


def moment(world: World, at: datetime | None, none: str = words.NONE) -> Shown:
    """Give a time of day."""
    if at is None:
        return none
    return html.Time(words.moment(at, world.zone()), dateTime=at.isoformat())


def heading(title: str, *more: Shown, under: Shown = None) -> Component:
    """Give a page's head: its title, what can be done at the right, a line below."""
    actions = [one for one in more if one is not None]
    return html.Div(
        [
            html.Div([html.H1(title), html.P(under, className="under") if under else None]),
            html.Div(actions, className="actions") if actions else None,
        ],
        className="heading",
    )  # fmt: skip


def section(title: str, *children: Shown, ident: str | None = None) -> Component:
    """Give a part of a page."""
    given: dict[str, Any] = {} if ident is None else {"id": ident}
    return html.Section([html.H2(title), *children], **given)


def facts(pairs: Iterable[tuple[str, Shown]]) -> Component:
    """Give names and what they are."""
    return html.Dl(
        [html.Div([html.Dt(name), html.Dd(value)]) for name, value in pairs], className="facts"
    )


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Shown]], *, caption: str, kind: str = ""
) -> Component:
    """Give a table; on a narrow screen each row becomes a card. A column "#NAME" is of numbers."""
    names = [column.removeprefix("#") for column in columns]
    kinds = ["number" if column.startswith("#") else "" for column in columns]
    body = [
        html.Tr(
            [
                html.Td(cell, className=kind_, **_labelled(name))
                for name, kind_, cell in zip(names, kinds, row, strict=True)
            ]
        )
        for row in rows
    ]
    head = html.Tr(
        [
            html.Th(name or html.Span("Actions", className="hidden"), scope="col", className=kind_)
            for name, kind_ in zip(names, kinds, strict=True)
        ]
    )
    return html.Div(
        html.Table(
            [html.Caption(caption, className="hidden"), html.Thead(head), html.Tbody(body)],
            className=kind,
        ),
        className="table",
    )  # fmt: skip


def _labelled(name: str) -> dict[str, Any]:
    return {"data-label": name}


def link(text: Shown, href: str, kind: str = "") -> Component:
    """Give a link to another page of the dashboard."""
    return dcc.Link(text, href=href, className=kind)


def button(text: str, href: str, *, primary: bool = False) -> Component:
    """Give a link that looks like a button."""
    return dcc.Link(text, href=href, className="button primary" if primary else "button")


def graph(figure: dict[str, Any], label: str) -> Component:
    """Give a figure with its title."""
    return html.Figure(
        [
            html.Figcaption(label),
            dcc.Graph(figure=figure, config=_PLOTLY, className="graph"),
        ]
    )


def empty(title: str, text: Shown, *actions: Shown) -> Component:
    """Give what stands where there is nothing."""
    return html.Div(
        [html.P(title, className="title"), html.P(text), html.Div(list(actions))],
        className="empty",
    )


def notice(text: Shown, kind: str = "") -> Component:
    """Give a line that stands out; bad ones are read out at once."""
    role = "alert" if kind == "bad" else "status"
    return html.Div(text, className=f"notice {kind}".strip(), role=role)


def failure(error: Exception) -> Component:
    """Give what stands where something could not be shown."""
    return notice(said(error), "bad")


def said(error: Exception) -> str:
    """Give an error as a sentence; what is not known says nothing of itself."""
    if isinstance(error, Problem):
        text = error.detail
    elif isinstance(error, PyBakError):
        text = of_error(error).detail
    elif isinstance(error, TimeoutError):
        text = "this took too long; try again"
    else:
        text = "this went wrong here; see the service's log"
    if text.partition(" ")[0].endswith(":"):  # a name comes first
        return f"{text}."
    return f"{text[:1].upper()}{text[1:]}."


def pager(first: str | None, following: str | None) -> Component | None:
    """Give the links to the next page of a list, and to its start if this is not it."""
    if first is None and following is None:
        return None
    return html.Nav(
        [
            link("Back to the start", first, "button") if first else None,
            link("Next page", following, "button") if following else None,
        ],
        className="pager", **aria(label="Pages"),
    )  # fmt: skip


def picker(label: str, chosen: str, choices: Iterable[tuple[str, str, bool]]) -> Component:
    """Give a list that opens, of texts with addresses, one of which is the one chosen."""
    items = [
        html.Li(link(text, href, "chosen" if is_chosen else ""))
        for text, href, is_chosen in choices
    ]
    return html.Details(
        [
            html.Summary([html.Span(label, className="label"), html.Span(chosen)]),
            html.Ul(items),
        ],
        className="picker", key=f"{label}-{chosen}",
    )  # fmt: skip


def search(
    ident: str, label: str, placeholder: str, *, text: str = "", kind: str = ""
) -> Component:
    """Give a field that is searched by as one types: the store `<ident>-typed` has what it holds.

    Not the field's own value: Dash sets a field to what it last told, which drops or mixes up
    letters that were typed meanwhile. `dashboard.js` fills the store.
    """
    return html.Div(
        [
            html.Label(label, htmlFor=ident),
            dcc.Input(
                id=ident, type="search", value=text, debounce=True, className=f"input {kind}",
                placeholder=placeholder, autoComplete="off", maxLength=MOST_TYPED,
            ),
            dcc.Store(id=f"{ident}-typed", data=text),
        ],
        className="field search",
    )  # fmt: skip
