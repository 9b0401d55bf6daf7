"""Forms made of option models: a field each, with the model's own words, and requests of answers.

What is left empty is not in a request, so that it is as the deployment has it.
"""

from __future__ import annotations

import json
import secrets
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from dash import dcc, html
from dash.development.base_component import Component
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pybak.dashboard import parts

AS_SET_UP: Final = ""
_LABELS: Final = {"": "As set up", "true": "Yes", "false": "No"}
BODY: Final = "body"
OPTIONS: Final = "options"


def once() -> str:
    """Give the key of a form that was not sent yet: a button that is pressed twice starts one run.

    The same request with the same key gives the run that there is already.
    """
    return f"page-{secrets.token_urlsafe(16)}"


def option_fields(model: type[BaseModel], of: str) -> list[Component]:
    """Give a field for each option of a model."""
    return [option_field(name, info, of) for name, info in model.model_fields.items()]


def option_field(name: str, info: FieldInfo, of: str) -> Component:
    """Give the field of one option."""
    ident = {"field": name, "part": OPTIONS, "of": of}
    label = info.title or name.replace("_", " ").capitalize()
    choices = choices_of(info.annotation)
    if choices:
        return choice(label, ident, [(_LABELS.get(one, one), one) for one in choices],
                      about=info.description)  # fmt: skip
    kind = "number" if _is_number(info.annotation) else "text"
    if is_list(info.annotation):
        return area(label, ident, about=info.description)
    default = info.get_default(call_default_factory=True)
    hint = f"such as {default}" if default not in (None, "", 0) else ""
    return entry(label, ident, kind=kind, about=info.description, placeholder=hint)


def choices_of(annotation: Any) -> list[str]:
    """Give what an option may be, if that is a short list; the first is to leave it as it is."""
    for one in _plain(annotation):
        if one is bool:
            return [AS_SET_UP, "true", "false"]
        if typing.get_origin(one) is Literal:
            return [AS_SET_UP, *map(str, typing.get_args(one))]
    return []


def is_list(annotation: Any) -> bool:
    """Whether an option is a list of texts."""
    return any(typing.get_origin(one) in (list, tuple) for one in _plain(annotation))


def body_of(idents: Sequence[Mapping[str, str]], values: Sequence[Any]) -> dict[str, Any]:
    """Give the request that fields ask for: what is filled in, options by themselves."""
    body: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for ident, value in zip(idents, values, strict=True):
        if value is None or value == AS_SET_UP or value == []:
            continue
        given: Any = value
        if isinstance(value, str):
            given = value.strip()
            if ident.get("many"):
                given = [line for one in value.splitlines() if (line := one.strip())]
            elif given in ("true", "false"):
                given = given == "true"
            if not given and given is not False:
                continue
        (options if ident["part"] == OPTIONS else body)[ident["field"]] = given
    return {**body, "options": options} if options else body


def entry(
    label: str, ident: Any, *, kind: Any = "text", value: Any = None, about: str | None = None,
    placeholder: str = "", suggestions: Sequence[str] = (),
) -> Component:  # fmt: skip
    """Give a field for a line of text, or a number."""
    given: dict[str, Any] = {"list": f"{html_id(ident)}-list"} if suggestions else {}
    if kind == "number":
        given |= {"min": 0, "step": 1}
    return html.Div(
        [
            html.Label(label, htmlFor=html_id(ident)),
            _about(about),
            dcc.Input(
                id=ident, type=kind, value=value, placeholder=placeholder, className="input",
                autoComplete="off", **given,
            ),
            html.Datalist([html.Option(value=one) for one in suggestions], id=given["list"])
            if suggestions else None,
        ],
        className="field",
    )  # fmt: skip


def area(
    label: str, ident: Any, *, value: str | None = None, about: str | None = None,
) -> Component:  # fmt: skip
    """Give a field for several texts, one a line."""
    whole: Any = {**ident, "many": "1"}
    return html.Div(
        [
            html.Label(label, htmlFor=html_id(whole)),
            _about(f"{about or ''} One a line.".strip()),
            dcc.Textarea(id=whole, value=value or "", className="input", rows=2),
        ],
        className="field",
    )


def choice(
    label: str, ident: Any, choices: Iterable[tuple[str, str]], *, value: str = AS_SET_UP,
    about: str | None = None,
) -> Component:  # fmt: skip
    """Give a field for one of some."""
    return html.Fieldset(
        [
            html.Legend(label),
            _about(about),
            dcc.RadioItems(
                [{"label": text, "value": one} for text, one in choices], value, id=ident,
                className="choices", inline=True,
            ),
        ],
        className="field",
    )  # fmt: skip


def faults(title: str, errors: Iterable[Mapping[str, Any]]) -> Component:
    """Give what is not as it should be in a form."""
    items = [
        html.Li([html.Strong(one["location"].rpartition("/")[2].replace("_", " ")), ": ",
                 one["message"]])
        for one in errors
    ]  # fmt: skip
    return parts.notice([title, html.Ul(items)], "bad")


def _about(text: str | None) -> Component | None:
    return html.P(text, className="about") if text else None


def html_id(ident: str | Mapping[str, str]) -> str:
    """Give the id that a component has in the page; Dash writes ids of several parts as JSON."""
    return ident if isinstance(ident, str) else json.dumps(
        ident, sort_keys=True, separators=(",", ":")
    )  # fmt: skip


def _plain(annotation: Any) -> list[Any]:
    """Give an annotation, or the members of a union, without what validates them."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _plain(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [one for part in typing.get_args(annotation) for one in _plain(part)]
    return [annotation]


def _is_number(annotation: Any) -> bool:
    members = [one for one in _plain(annotation) if one is not type(None)]
    return bool(members) and all(one in (int, float) for one in members)
