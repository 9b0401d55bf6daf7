"""The further places of a chain that is consolidated: they get the full archive before it counts.

Otherwise the old archives would go from there, and nothing come: the copies would be gone, and
later ones have no base. So where one of these places can't get it, the chain stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from pybak.catalog.copies import StoredCopy, add_copies, places
from pybak.catalog.engine import Database
from pybak.catalog.facts import ArchiveFacts, StoredVolume
from pybak.display import printable
from pybak.errors import ArchiveError, NotFoundError, PlanError, StorageError
from pybak.portable import from_portable
from pybak.problems import STORAGE, Problem
from pybak.retention.chain import Chain
from pybak.retention.door import Put
from pybak.retention.files import Files
from pybak.retention.places import UnreachableError, parts_of
from pybak.storage.opening import is_remote, join, open_storage
from pybak.storage.unfinished import clean_up, notes_folder
from pybak.transfer.copying import ArchiveCopy, SourceFile
from pybak.transfer.streaming import FileAt, Stream
from pybak.volumes.model import Volume

_THREADS: Final = 4


def further_folders(
    chain: Chain, archives: Iterable[ArchiveFacts], files: Files
) -> tuple[str, ...]:
    """Give the paths and addresses where the full archive of a chain is to be copied to.

    It is made where the snapshot's own archive is read from. Further folders are those that have
    copies of any of the chain, and the own archive's first place if that has lost it. `archives`
    are all of the job's. Raises StorageError for what is no place.
    """
    numbers = {one.id for one in chain.all}
    own = {_same(folder) for folder in files.folders(chain.own)}
    further: dict[str, str] = {}
    for one in archives:
        if one.id not in numbers:
            continue
        first, *copies = places(one, with_leaving=False)
        for at in [*([first] if one.id == chain.own.id else []), *copies]:
            for folder in files.folders(at):
                further.setdefault(_same(folder), folder)
    return tuple(folder for same, folder in sorted(further.items()) if same not in own)


def _same(folder: str) -> str:
    return folder if is_remote(folder) else os.path.realpath(folder)


def find_unready(chain: Chain, archives: Iterable[ArchiveFacts], files: Files) -> Problem | None:
    """Say which of the chain's further places can't get the full archive, as far as that shows.

    A folder without any archive of the job is taken for one that is not mounted.
    """
    known = [at for one in archives if not one.is_leaving for at in places(one, with_leaving=False)]
    for folder in chain.further:
        try:
            if any(folder in files.folders(at) and files.is_there(at) for at in known):
                continue
            advice = "is this the right bucket?" if is_remote(folder) else "is its disk mounted?"
            why = f"{printable(folder)}: holds no archive of this job; {advice}"
        except UnreachableError as error:
            why = str(error)
        return Problem(folder, STORAGE, f"{why}; {_stays(folder)}")
    return None


def copy_further(
    database: Database,
    number: int,
    made: Put,
    folders: Iterable[str],
    *,
    job: str | None,
    run_id: str,
    work: Path,
    stop_if_asked: Callable[[], None],
) -> None:
    """Copy an archive, which the catalog has as `number`, to these folders, and write that down.

    Each copy is read back. Raises StorageError for the first folder that can't get it; copies that
    were made stay, and go with the archive. `job` is what archives are named by,
    `work` is for what waits to be sent.
    """
    name = os.path.basename(made.name)
    for count, folder in enumerate(folders):
        try:
            target = open_storage(folder)
            target.check()
            clean_up(target, job)
            names = [parts_of(from_portable(one.uri))[1] for one in made.volumes]
            if all(target.stat(one) is None for one in names):
                # Before anything is there, so that what a kill leaves goes with the archive.
                _write_down(
                    database,
                    number,
                    _in(folder, name),
                    [
                        msgspec.structs.replace(one, uri=_uri(_in(folder, its_name)))
                        for one, its_name in zip(made.volumes, names, strict=True)
                    ],
                )
            with Stream(work, threads=_THREADS, stop_if_asked=stop_if_asked) as stream:
                copied = ArchiveCopy(
                    [_source(one) for one in made.volumes], target, stream,
                    notes=(notes_folder(), f"{run_id}-{count}"),
                ).run(name)  # fmt: skip
        except (ArchiveError, NotFoundError, PlanError, StorageError) as error:
            retryable = isinstance(error, StorageError) and error.retryable
            raise StorageError(f"{error}; {_stays(folder)}", retryable=retryable) from error
        _write_down(database, number, _in(folder, name), copied.volumes)


def _write_down(database: Database, number: int, name: str, volumes: Sequence[Volume]) -> None:
    with database.transaction() as connection:
        add_copies(connection, number, [StoredCopy(name=name, volumes=volumes)])


def _in(folder: str, name: str) -> str:
    return join(folder, name) if is_remote(folder) else os.path.join(folder, name)


def _uri(path: str) -> str:
    return path if is_remote(path) else Path(path).as_uri()


def _source(volume: Volume) -> SourceFile:
    path = from_portable(volume.uri)
    folder, name = parts_of(path)
    storage = open_storage(folder)
    known = storage.stat(name)
    if known is None or known.size != volume.size:
        raise StorageError(f"{printable(path)}: is not there as it was written; try again")
    parts = tuple((part.size, part.sha256) for part in volume.parts)
    return SourceFile(
        FileAt(storage, known), StoredVolume(volume.uri, volume.size, volume.sha256, parts)
    )


def _stays(folder: str) -> str:
    return (
        f"nothing was consolidated, for the full archive must get to {printable(folder)} too, "
        "where the chain has copies; prune again when that place is back, or make a full backup"
    )
