"""Automations from files in Prefect's format, by their names: a second time changes, never doubles.

The format is that of `prefect automation create --from-file`, with two things more: `{{ $NAME }}`
is a variable, as in prefect.yaml, and `block_document_id` may be SLUG/NAME, a block's type and
name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from uuid import UUID

from deployments.definitions import filled
from pybak.errors import PlanError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

FOLDER: Final = Path(__file__).with_name("automations")


class Automated(NamedTuple):
    """What became of one automation."""

    name: str
    outcome: Literal["made", "changed", "unchanged", "left out"]
    why: str = ""


def apply_automations(
    client: SyncPrefectClient, values: Mapping[str, str], folder: Path = FOLDER
) -> Iterator[Automated]:
    """Make or change the automations of the files; leave out those whose block is not there.

    Whether an automation is enabled stays as people have set it. Raises PlanError for a file that
    makes no automation.
    """
    for file in sorted(folder.glob("*.yaml")):
        document = read(file, values)
        missing = _name_blocks(document, client)
        if missing:
            yield Automated(str(document["name"]), "left out", missing)
            continue
        yield _settle(client, parsed(file, document))


def read(file: Path, values: Mapping[str, str]) -> dict[str, Any]:
    """Read a file and fill in its variables. Raises PlanError."""
    import yaml

    try:
        document = yaml.safe_load(filled(file.read_text(encoding="utf-8"), values))
    except (OSError, yaml.YAMLError) as error:
        raise PlanError(f"{file}: can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or "name" not in document:
        raise PlanError(f"{file}: holds no automation with a name")
    return document


def parsed(file: Path, document: Mapping[str, Any]) -> AutomationCore:
    """Make Prefect's value of it. Raises PlanError, also for keys that Prefect would ignore."""
    from prefect.events.schemas.automations import AutomationCore
    from pydantic import ValidationError

    try:
        made = AutomationCore.model_validate(dict(document))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(step) for step in one['loc'])}: {one['msg']}" for one in error.errors()
        )
        raise PlanError(f"{file}: is no automation: {wrong}") from None
    if unknown := list(_ignored(document, made)):
        raise PlanError(f"{file}: unknown key: {', '.join(unknown)}")
    return made


def _ignored(given: Any, made: Any, where: str = "") -> Iterator[str]:
    """Yield the keys of a document that the value made of it does not have."""
    from pydantic import BaseModel, RootModel

    if isinstance(made, RootModel):  # labels of resources may have any name
        return
    if isinstance(made, BaseModel) and isinstance(given, Mapping):
        known = type(made).model_fields
        for key, value in given.items():
            if key not in known:
                yield f"{where}{key}"
            else:
                yield from _ignored(value, getattr(made, key), f"{where}{key}.")
    elif isinstance(made, list) and isinstance(given, list):
        for number, (one, other) in enumerate(zip(given, made, strict=True)):
            yield from _ignored(one, other, f"{where}{number}.")


def _name_blocks(document: dict[str, Any], client: SyncPrefectClient) -> str:
    """Put the ids of blocks where they are named; tell which one is missing, if one is."""
    from prefect.exceptions import ObjectNotFound

    for action in document.get("actions", []):
        named = str(action.get("block_document_id", ""))
        if "/" not in named:
            continue
        slug, _, name = named.partition("/")
        if not name:
            return f"names no block of the type {slug}"
        try:
            found = client.read_block_document_by_name(name, slug, include_secrets=False)
        except ObjectNotFound:
            return f"there is no block {named}"
        action["block_document_id"] = str(found.id)
    return ""


def _settle(client: SyncPrefectClient, wanted: AutomationCore) -> Automated:
    there = client.read_automations_by_name(wanted.name)
    if not there:
        client.create_automation(wanted)
        return Automated(wanted.name, "made")
    first, *doubles = sorted(there, key=lambda one: str(one.id))
    wanted = wanted.model_copy(update={"enabled": first.enabled})
    for double in doubles:
        client.delete_automation(double.id)
    if not doubles and _plain(first) == _plain(wanted):
        return Automated(wanted.name, "unchanged")
    client.update_automation(first.id, wanted)
    return Automated(wanted.name, "changed")


def _plain(automation: AutomationCore) -> Any:
    """Give its values, without the ids that the server gives each time."""
    from prefect.events.schemas.automations import AutomationCore

    dumped = automation.model_dump(mode="json", include=set(AutomationCore.model_fields))
    return _without_ids(dumped)


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_ids(v) for k, v in value.items() if k not in ("id", "owner_resource")}
    if isinstance(value, list):
        items = [_without_ids(one) for one in value]
        return sorted(items) if all(isinstance(one, str) for one in items) else items
    return str(value) if isinstance(value, UUID) else value
