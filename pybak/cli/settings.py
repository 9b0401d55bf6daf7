"""Where a setting's value comes from: command line, environment, configuration file, default.

A setting is a field of an options model, or something of the command itself such as `--to`. The
strongest layer that names a setting wins as a whole: lists are replaced, not joined.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from pybak.display import escape
from pybak.errors import PlanError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

ENVIRONMENT_PREFIX: Final = "PYBAK_"
_PLAIN_VALUE = re.compile(r"[\w.+\-/]+")


@dataclass(frozen=True)
class Setting:
    """One thing a command can be told.

    `option_names` is empty for the command's arguments, which `metavar` then names. `many` takes
    a list, `flag` yes or no, `is_path` names something on disk or in a storage. `in_environment`
    tells whether a `PYBAK_…` variable may give it, `in_file` whether a configuration file may.
    `bare` is what the option stands for when no value follows it; without it a value must follow.
    """

    name: str
    help: str
    option_names: tuple[str, ...] = ()
    metavar: str = ""
    many: bool = False
    flag: bool = False
    is_path: bool = False
    in_environment: bool = True
    in_file: bool = True
    bare: str | None = None
    default: str = ""

    @property
    def label(self) -> str:
        """What a message calls it: its long option or the argument's name."""
        return next((n for n in self.option_names if n.startswith("--")), self.metavar)

    @property
    def variable(self) -> str:
        """The environment variable that gives it."""
        return ENVIRONMENT_PREFIX + self.name.upper()


@dataclass(frozen=True)
class Given:
    """A value and the words for where it came from; a smaller `layer` is stronger."""

    value: Any
    origin: str
    layer: int


def settings_of(model: type[BaseModel]) -> tuple[Setting, ...]:
    """Give the settings that a model's fields describe."""
    return tuple(_setting(name, field) for name, field in model.model_fields.items())


def _setting(name: str, field: FieldInfo) -> Setting:
    extra = field.json_schema_extra
    assert isinstance(extra, dict), name
    look: Any = extra["cli"]
    annotation = field.annotation
    metavar = look["metavar"] or "|".join(map(str, _choices(field)))
    default = field.get_default(call_default_factory=True)
    return Setting(
        name=name,
        help=field.description or "",
        option_names=tuple(look["names"]),
        metavar=metavar,
        many=get_origin(annotation) is list,
        flag=annotation is bool,
        is_path=metavar in ("FILE", "DIR", "DESTINATION"),
        default="" if default in (None, False, []) else str(default),
    )


def _choices(field: FieldInfo | None) -> tuple[Any, ...]:
    """Give the words that a field, or each item of its list, is one of; none if it is free."""
    annotation: Any = field.annotation if field is not None else None
    while get_origin(annotation) is not Literal:
        inner = [part for part in get_args(annotation) if part is not type(None)]
        if not inner:
            return ()
        annotation = inner[0]
    return get_args(annotation)


def collect(
    settings: Iterable[Setting],
    command_line: Mapping[str, Any],
    environ: Mapping[str, str],
    config: Mapping[str, Any],
    config_path: str | None,
) -> dict[str, Given]:
    """Give the strongest value of each setting that any layer names.

    An empty environment variable and a null in the file count as not named.
    """
    given: dict[str, Given] = {}
    for setting in settings:
        if (value := command_line.get(setting.name)) not in (None, ()):
            given[setting.name] = Given(value, setting.label, 0)
        elif setting.in_environment and (text := environ.get(setting.variable)):
            value = _split(text, setting) if setting.many else text
            given[setting.name] = Given(value, setting.variable, 1)
        elif setting.in_file and (value := config.get(setting.name)) is not None:
            origin = f"{config_path}: {setting.name}"
            if setting.many and isinstance(value, str):
                value = [value]
            given[setting.name] = Given(_expand_home(value, setting), origin, 2)
    return given


def _split(text: str, setting: Setting) -> list[str]:
    """Cut a list from the environment at line ends if it has any, else at `os.pathsep`.

    A place that is an address stays whole. Raises PlanError for an address with more colons around
    it: nobody can tell which of them part places and which belong to a name.
    """
    from pybak.storage.opening import holds_address

    if "\n" in text:
        parts = text.splitlines()
    elif setting.is_path and holds_address(text):
        if text.count(":") > 1:
            raise PlanError(
                f"{setting.variable}: colons don't part addresses of storages; put each place on a "
                "line of its own, and a line end behind a single one that has colons in its name"
            )
        parts = [text]
    else:
        parts = text.split(os.pathsep)
    return [part for part in parts if part]


def _expand_home(value: Any, setting: Setting) -> Any:
    """Do in a file what the shell does on the command line: `~/x` is below the home folder."""
    if not setting.is_path:
        return value
    if isinstance(value, list):
        return [_expand_home(item, setting) for item in value]
    if isinstance(value, str) and (value == "~" or value.startswith("~/")):
        return os.path.expanduser(value)
    return value


def texts(given: Given | None) -> tuple[str, ...]:
    """Check that a value is a list of texts and give it; nothing given is an empty one."""
    if given is None:
        return ()
    if not isinstance(given.value, list | tuple):
        raise PlanError(f"{given.origin}: must be a list")
    return tuple(_text(item, given.origin) for item in given.value)


def text(given: Given | None) -> str | None:
    """Check that a value is a text and give it."""
    return None if given is None else _text(given.value, given.origin)


def _text(value: object, origin: str) -> str:
    if not isinstance(value, str):
        raise PlanError(f"{origin}: {shown(value)} is not text; put it in quotes")
    if not value or "\0" in value:
        raise PlanError(f"{origin}: {shown(value)} is no name; leave it out or name something")
    return value


def build_options(model: type[BaseModel], given: Mapping[str, Given]) -> BaseModel:
    """Make the options from what was given; raises PlanError, which names the setting's origin."""
    from pydantic import ValidationError

    values = {name: given[name].value for name in model.model_fields if name in given}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        place = details["loc"]
        name = str(place[0]) if place else ""
        what = _complaint(details, model.model_fields.get(name))
        origin = f"{given[name].origin}: " if name in given else ""
        raise PlanError(f"{origin}{what}") from error


def _complaint(details: ErrorDetails, field: FieldInfo | None) -> str:
    """Say what is wrong with a value, in the words of someone who types options."""
    value = shown(details["input"])
    context: Any = details.get("ctx", {})
    match details["type"]:
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return f"{value} is no whole number"
        case "greater_than_equal" | "less_than_equal":
            return f"{value} is not {_range(field, context)}"
        case "literal_error":
            return _not_one_of(details["input"], _choices(field))
        case "string_pattern_mismatch" if field is not None:
            return _not_one_of(details["input"], _setting("", field).metavar.split("|"))
        case "bool_parsing" | "bool_type":
            return f"{value} is neither true nor false"
        case "string_type":
            return f"{value} is not text; put it in quotes"
        case "list_type":
            return f"{value} is no list"
        case "value_error":
            return escape(str(context["error"]))
        case _:
            return f"{value}: {escape(details['msg'][:1].lower() + details['msg'][1:])}"


def _range(field: FieldInfo | None, context: Mapping[str, Any]) -> str:
    bounds = {**context}
    for rule in field.metadata if field else ():
        bounds.update({side: getattr(rule, side) for side in ("ge", "le") if hasattr(rule, side)})
    if "ge" in bounds and "le" in bounds:
        return f"between {bounds['ge']} and {bounds['le']}"
    return f"at least {bounds['ge']}" if "ge" in bounds else f"at most {bounds['le']}"


def _not_one_of(value: object, choices: Sequence[str]) -> str:
    known = choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    return f"{shown(value)} is not {known}{did_you_mean(str(value), choices)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give `; did you mean X?` for the nearest known word, or nothing."""
    words = list(known)
    nearest = get_close_matches(word, words, n=1, cutoff=0.7)
    if len(word) > 3:  # newer means if-newer rather than never
        nearest = [other for other in words if word in other][:1] or nearest
    return f"; did you mean {nearest[0]}?" if nearest else ""


def shown(value: object) -> str:
    """Give a value as a message shows it: plain words bare, other text in quotes."""
    if isinstance(value, str):
        return value if _PLAIN_VALUE.fullmatch(value) else f"'{escape(value)}'"
    if isinstance(value, bool):
        return str(value).lower()
    return escape(str(value))
