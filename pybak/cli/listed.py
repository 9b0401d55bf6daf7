"""What `pybak list` shows of a snapshot that lies in several archives: from the catalog."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pybak.cli import rows
from pybak.cli.history import local_time, run_json, short_ids
from pybak.cli.lines import Lines, json_close, json_open
from pybak.display import printable
from pybak.entries import FILE, FOLDER
from pybak.units import format_count, format_size

if TYPE_CHECKING:
    from pybak.catalog.facts import ArchiveFacts, Snapshot, Version
    from pybak.catalog.history import History
    from pybak.restore.select import Selector


def list_snapshot(
    out: Lines,
    history: History,
    snapshot: Snapshot,
    archives: list[ArchiveFacts],
    selector: Selector | None,
) -> None:
    """Print the members of a snapshot, all or those that are wanted, each with its archive."""
    names = {one.id: one.name for one in archives}
    numbers = {one.id: number for number, one in enumerate(archives, 1)}
    found = _Counted(_chosen(history.versions(snapshot), selector))
    if out.view.json:
        out.add(json_open(_about(snapshot, archives), "members"))
        for number, version in enumerate(found):
            member = {**rows.version_json(version), "archive": names.get(version.archive_id)}
            out.add(("," if number else "") + json.dumps(member))
        total = {"members": found.members, "size": found.size, "stored_size": None, "ratio": None}
        out.add(json_close({"total": total, "status": "success", "errors": []}))
        return
    out.add(rows.IN_HEADING)
    for version in found:
        out.add(rows.version_line(version, str(numbers.get(version.archive_id, rows.UNKNOWN))))
    (run_id,) = short_ids([snapshot]).values()
    out.add(
        f"{format_count(found.members, 'member')}, {format_size(found.size)}; run {run_id} of "
        f"{local_time(snapshot.started_at)}, in {format_count(len(archives), 'archive')}:"
    )
    for one in archives:
        out.add(f"{numbers[one.id]:>4}  {printable(one.name)}")


class _Counted:
    """Versions counted while they go by; `size` is that of the files, in bytes."""

    def __init__(self, versions: Iterator[Version]) -> None:
        self.members = self.size = 0
        self._versions = versions

    def __iter__(self) -> Iterator[Version]:
        for version in self._versions:
            self.members += 1
            self.size += version.size if version.kind == FILE else 0
            yield version


def _chosen(versions: Iterator[Version], selector: Selector | None) -> Iterator[Version]:
    if selector is None:
        return versions
    return (
        version
        for version in versions
        if selector.wants(version.path, is_folder=version.kind == FOLDER)
    )


def _about(snapshot: Snapshot, archives: list[ArchiveFacts]) -> dict[str, Any]:
    own = [one for one in archives if one.run_id == snapshot.run_id]
    return {
        "archive": snapshot.archive,
        "format": own[0].format if own else None,
        "encrypted": any(one.encrypted for one in archives),
        "run": run_json(snapshot),
        "archives": [one.name for one in archives],
    }
