"""What `pybak find` asks the catalog: all backups, the newest first, or one that is named.

What the catalog knows of an archive spares opening it. Archives of runs from before it knew their
members are opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

from pybak.cli import rows
from pybak.cli.lines import Lines, json_close, json_open
from pybak.display import printable
from pybak.entries import FOLDER
from pybak.errors import ArchiveError, PlanError

if TYPE_CHECKING:
    from pybak.catalog.engine import Database
    from pybak.catalog.facts import ArchiveFacts, Snapshot, Version
    from pybak.catalog.history import History
    from pybak.restore.select import Selector
    from pybak.volumes.find import VolumeSet

_FILE_SCHEME = "file://"


class Place(NamedTuple):
    """An archive to search: what the catalog knows of it, or else its files."""

    facts: ArchiveFacts | None = None
    volumes: VolumeSet | None = None


def known_places(database: Database, job: str | None) -> list[Place]:
    """List the archives of all backups, or of one job's, that are still there, newest first."""
    from pybak.catalog.lookup import known_archives
    from pybak.volumes.find import find_volumes

    places: list[Place] = []
    seen: set[str] = set()
    for name, facts in known_archives(database, job):
        if name in seen:
            continue
        seen.add(name)
        if facts is not None:
            if not facts.is_leaving and is_there(facts):
                places.append(Place(facts=facts))
            continue
        try:
            places.append(Place(volumes=find_volumes(os.fsencode(name))))
        except (PlanError, ArchiveError):
            continue
    return places


def is_there(facts: ArchiveFacts) -> bool:
    """Whether all files of an archive are, in any place; what is in a storage counts as there."""
    copies = (copy.volumes for copy in facts.copies if not copy.is_leaving)
    return any(
        all(
            not volume.uri.startswith(_FILE_SCHEME)
            or os.path.exists(unquote_to_bytes(volume.uri.removeprefix(_FILE_SCHEME)))
            for volume in volumes
        )
        for volumes in (facts.volumes, *copies)
    )


def matches_in(database: Database, facts: ArchiveFacts, selector: Selector) -> Iterator[Version]:
    """Give what the catalog knows of the members of an archive that are wanted, by name."""
    from pybak.catalog.lookup import members_of_archive

    def wants(name: bytes, is_folder: bool) -> bool:
        return selector.wants(name, is_folder=is_folder)

    return members_of_archive(database, facts.id, wants, selector.fragments)


def matches_of(
    history: History, snapshot: Snapshot, selector: Selector
) -> dict[int, list[Version]]:
    """Give the members of a snapshot that are wanted, by name, for each archive by its number."""
    found: dict[int, list[Version]] = {}
    for version in history.versions(snapshot):
        if selector.wants(version.path, is_folder=version.kind == FOLDER):
            found.setdefault(version.archive_id, []).append(version)
    return found


def add_matches(
    out: Lines, facts: ArchiveFacts, found: Iterable[Version], *, is_first: bool
) -> int:
    """Print what was found in an archive, if anything; give how much."""
    count = 0
    for version in found:
        if not count:
            _open(out, facts, is_first=is_first)
        if out.view.json:
            out.add(("," if count else "") + json.dumps(rows.version_json(version)))
        else:
            out.add(rows.version_line(version, rows.UNKNOWN))
        count += 1
    if count and out.view.json:
        out.add(json_close({}))
    return count


def _open(out: Lines, facts: ArchiveFacts, *, is_first: bool) -> None:
    if not out.view.json:
        out.add(("" if is_first else "\n") + printable(facts.name) + ":")
        return
    about = {
        "archive": facts.name, "format": facts.format, "encrypted": facts.encrypted,
        "run_id": facts.run_id, "job": facts.job,
    }  # fmt: skip
    out.add(("" if is_first else ",") + json_open(about, "members"))
