"""Whether the blocks that deployments name are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pybak.doctor.deployed import Deployment
from pybak.doctor.finding import Finding, Findings
from pybak.home import CATALOG_VARIABLE
from pybak.prefect_api import PrefectApi
from pybak.units import format_count

SUBJECT: Final = "blocks"
_SCHEME: Final = "block:"
_FOLDER: Final = "pybak-local-folder"
_STORAGES: Final = (
    "pybak-s3-storage", "pybak-gcs-storage", _FOLDER, "s3-bucket", "gcs-bucket",
)  # fmt: skip
_FIELDS: Final = {
    "password_block": "pybak-encryption-password",
    "mail": "pybak-mail-server",
    "webhook": "pybak-webhook",
    "ping": "pybak-ping",
}
"""Parameters that are the name of a block and nothing else, and its type unless they name one."""
_CATALOG: Final = "pybak-catalog-url"
_SHOWN: Final = 5


class Named(NamedTuple):
    """A block that something names, as it does so, and the types that it may be of."""

    text: str
    name: str
    slugs: tuple[str, ...]
    user: str
    is_needed: bool = True
    """Whether something that runs by itself names it."""


def named_blocks(deployments: Sequence[Deployment], environ: Mapping[str, str]) -> list[Named]:
    """List the blocks that parameters of deployments and `PYBAK_CATALOG_URL` name."""
    found = [
        named._replace(is_needed=one.runs_by_itself)
        for one in deployments
        for named in _named("", one.parameters, one.name)
    ]
    catalog = environ.get(CATALOG_VARIABLE, "")
    if catalog.startswith(_SCHEME):
        found.append(_of_type(catalog.removeprefix(_SCHEME), _CATALOG, CATALOG_VARIABLE))
    return list(dict.fromkeys(found))


def _named(key: str, value: Any, user: str) -> Iterator[Named]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _named(str(name), inner, user)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named(key, inner, user)
    elif isinstance(value, str) and value.startswith(_SCHEME):
        first, _, rest = value.removeprefix(_SCHEME).partition("/")
        if first in _STORAGES and (name := rest.partition("/")[0]):
            yield _of_type(f"{first}/{name}", first, user)
        else:
            yield Named(first, first, _STORAGES, user)
    elif isinstance(value, str) and value and key in _FIELDS:
        yield _of_type(value, _FIELDS[key], user)


def _of_type(text: str, usual: str, user: str) -> Named:
    """Take `NAME` or `TYPE/NAME`."""
    slug, _, name = text.rpartition("/")
    return Named(text, name, (slug or usual,), user)


def folder_blocks(api: PrefectApi) -> dict[str, str]:
    """Give the paths of the blocks that are folders, by their names. Raises ApiError."""
    wanted = {
        "block_types": {"slug": {"any_": [_FOLDER]}},
        "block_documents": {"is_anonymous": {"eq_": False}}, "include_secrets": False,
    }  # fmt: skip
    return {
        row["name"]: str(row["data"]["path"])
        for row in api.pages("/block_documents/filter", wanted)
        if row["block_type"]["slug"] == _FOLDER and row.get("data", {}).get("path")
    }


def check_blocks(api: PrefectApi, named: Sequence[Named]) -> list[Finding]:
    """Look for each of the blocks by name, and by type where it is said. Raises ApiError."""
    found = Findings(SUBJECT)
    if not named:
        return []
    there: defaultdict[str, set[str]] = defaultdict(set)
    wanted = {
        "block_documents": {"is_anonymous": {"eq_": False}}, "include_secrets": False,
    }  # fmt: skip
    for row in api.pages("/block_documents/filter", wanted):
        there[row["name"]].add(row["block_type"]["slug"])
    missing: defaultdict[str, list[Named]] = defaultdict(list)
    for one in named:
        if there[one.name].isdisjoint(one.slugs):
            kind = " as a storage" if one.slugs == _STORAGES else f" as a {one.slugs[0]}"
            other = kind if there[one.name] and "/" not in one.text else ""
            missing[f"{one.text} does not exist{other}"].append(one)
    advice = "make it in Prefect's UI, or with deployments/register_blocks.py"
    for what, users in sorted(missing.items()):
        needing = [one.user for one in users if one.is_needed]
        if needing:
            found.problem(f"block {what}, but {_need(needing)} it", advice)
        else:
            idle = _need([one.user for one in users])
            found.note(f"block {what}; {idle} it once switched on or started", advice)
    if not missing:
        count = len({(one.text, one.slugs) for one in named})
        found.ok(f"{format_count(count, 'block')} named by deployments, all there")
    return found.found


def _need(users: Sequence[str]) -> str:
    more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
    return f"{', '.join(users[:_SHOWN])}{more} need{'s' if len(users) == 1 else ''}"
