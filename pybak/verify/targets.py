"""Which archives are to be checked: those that are named, and all that a named backup needs.

A backup may lie in a chain of archives; it is whole if all of these are. Of an archive named by its
path only that one is meant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pybak.display import printable
from pybak.errors import ArchiveError, NotFoundError, PlanError, PyBakError, StorageError
from pybak.locate import find_first, names_of
from pybak.portable import from_portable
from pybak.read_run import paths_of
from pybak.restore.ask import ask
from pybak.storage.folders import Folders
from pybak.volumes.find import VolumeSet

if TYPE_CHECKING:
    from pybak.catalog.facts import Snapshot

UNREADABLE: Final = (ArchiveError, NotFoundError, StorageError)
"""What keeps one archive from being checked, and says nothing about the others."""


class Target(NamedTuple):
    """An archive to check, by the name that reports have: its files, or why there are none.

    `run_id` is the run whose archive it must be, where a backup was named and not an archive.
    """

    name: str
    volumes: VolumeSet | None = None
    trouble: PyBakError | None = None
    run_id: str | None = None


def find_targets(names: Sequence[str], *, job: str | None, catalog_url: str) -> list[Target]:
    """Give the archives that are meant, each once: by path, by a run's id, by `latest`.

    What can't be found is a target with `trouble`, unless it is the only one. Raises as
    `pybak.restore.ask.ask`.
    """
    found: dict[tuple[bytes, ...] | str, Target] = {}
    for name in names:
        for target in _targets(name, job, catalog_url):
            key = target.name if target.volumes is None else paths_of(target.volumes)
            # A backup's archive is checked for more than one that was named by its path.
            if key not in found or found[key].run_id is None:
                found[key] = target
    targets = list(found.values())
    if len(targets) == 1 and targets[0].trouble is not None:
        raise targets[0].trouble
    return targets


def lasting_name(name: str, *, job: str | None, catalog_url: str) -> str:
    """Give what `find_targets` finds the same by later on: `latest` may be another one then.

    What can't be found keeps its name. Raises as `find_targets`.
    """
    from pybak.portable import to_portable

    try:
        return ask(name, job=job, at=None, catalog_url=catalog_url).name
    except UNREADABLE:
        return to_portable(name)


def _targets(name: str, job: str | None, catalog_url: str) -> Iterator[Target]:
    try:
        asked = ask(name, job=job, at=None, catalog_url=catalog_url)
        if asked.snapshot is None:
            assert asked.archive is not None
            yield Target(os.fsdecode(asked.archive.base), asked.archive)
            return
    except UNREADABLE as error:
        yield Target(from_portable(name), trouble=error)
        return
    yield from _needed(asked.snapshot, catalog_url)


def _needed(snapshot: Snapshot, catalog_url: str) -> Iterator[Target]:
    """Yield the archives that hold a snapshot, in the order they were made."""
    from pybak.catalog.engine import Database
    from pybak.catalog.history import History

    database = Database(catalog_url)
    try:
        history = History(database)
        archives = {one.run_id: names_of(one) for one in history.archives(snapshot)}
    finally:
        database.close()
    if not archives and snapshot.archive is not None:  # it holds nothing at all
        archives[snapshot.run_id] = (snapshot.archive,)
    folders = Folders(os.fsencode(names[0]) for names in archives.values())
    for run_id, names in archives.items():
        archive = names[0]
        try:
            archive, found = find_first(names, folders=folders)
            yield Target(archive, found, run_id=run_id)
        except NotFoundError:
            missing = f"{printable(archive)}: the archive is no longer there; put it back"
            yield Target(archive, trouble=NotFoundError(missing), run_id=run_id)
        except (PlanError, ArchiveError, StorageError) as error:
            yield Target(archive, trouble=error, run_id=run_id)
