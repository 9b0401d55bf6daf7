"""A configuration file: YAML or JSON, one mapping with the names of settings as its keys."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from typing import Any, Final

from pybak.cli.settings import did_you_mean, shown
from pybak.display import printable
from pybak.errors import PlanError

_SECRETS: Final = ("password", "passwords", "passphrase")


def read_config(path: str, known: Collection[str]) -> dict[str, Any]:
    """Read `path` and check that it has only `known` keys, each once.

    Raises PlanError, one line that names the file, for everything that is wrong with it.
    """
    name = printable(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".yaml", ".yml", ".json"):
        raise PlanError(f"{name}: a configuration file ends in .yaml, .yml or .json")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise PlanError(
            f"{name}: {(error.strerror or str(error)).lower()}; check --config"
        ) from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{name}: is no UTF-8 text; save it as UTF-8") from error
    pairs = _json_pairs(text, name) if suffix == ".json" else _yaml_pairs(text, name)
    config: dict[str, Any] = {}
    for key, value in pairs:
        if str(key).lower().removeprefix("pybak_") in _SECRETS:
            raise PlanError(
                f"{name}: {shown(key)} does not belong into a file that others may read; "
                "use -p, PYBAK_PASSWORD, or password_block: NAME"
            )
        if key not in known:
            hint = did_you_mean(str(key), known) or f"; known are {', '.join(sorted(known))}"
            raise PlanError(f"{name}: unknown key {shown(key)}{hint}")
        if key in config:
            raise PlanError(f"{name}: {key} is there twice; join the two")
        config[key] = value
    return config


def _json_pairs(text: str, name: str) -> Sequence[tuple[Any, Any]]:
    try:
        # A list of pairs stands for an object, so that a key that is there twice is seen.
        value = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise PlanError(f"{name}: line {error.lineno}: no JSON: {error.msg.lower()}") from error
    except RecursionError as error:
        raise PlanError(f"{name}: nested too deep") from error
    if not isinstance(value, _Pairs):
        raise PlanError(f'{name}: must hold one object, like {{"level": 6}}')
    return value


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object."""


def _yaml_pairs(text: str, name: str) -> Sequence[tuple[Any, Any]]:
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:  # an empty file, or comments only
            return []
        if isinstance(node, yaml.MappingNode):
            loader.flatten_mapping(node)
            return [
                (loader.construct_object(key, deep=True), loader.construct_object(value, deep=True))
                for key, value in node.value
            ]
    except yaml.YAMLError as error:
        raise PlanError(f"{name}: {_yaml_complaint(error)}") from error
    except RecursionError as error:
        raise PlanError(f"{name}: nested too deep") from error
    raise PlanError(f"{name}: must hold keys and values, like `level: 6`")


def _yaml_complaint(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error).splitlines()[0]
    place = f"line {mark.line + 1}: " if mark else ""
    about = f"{getattr(error, 'context', None) or ''} {problem}"
    hint = ""
    if "alias" in about or "tag" in about or "anchor" in about:
        hint = "; put patterns that begin with *, ! or & in quotes"
    return f"{place}no YAML: {problem}{hint}"
