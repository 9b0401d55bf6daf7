"""The further places of archives: written, read, dropped, and changed when an archive moves.

An archive has one first place, in `archive` and `volume`, and any number of copies behind it. All
of them go when it is removed. Whoever reads it tries one place after the other, so a copy stands
in where the first place has lost the archive or can't be reached.

A move makes its destination a place and what it leaves one that is on its way out, in one
transaction; the latter is forgotten when its files are gone. So a kill in between loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy import Connection, delete, insert, select, update
from sqlmodel import col

from pybak.catalog.failures import CatalogError
from pybak.catalog.models import (
    DELETING,
    PRESENT,
    Archive,
    ArchiveCopy,
    CopyVolume,
    Run,
    Verification,
    Volume,
)
from pybak.display import printable
from pybak.volumes.model import Volume as StoredVolume

if TYPE_CHECKING:
    from typing import Any

    from pybak.catalog.facts import ArchiveFacts

_FILE: Final = ("number", "uri", "size", "sha256", "parts")


class StoredCopy(msgspec.Struct, frozen=True, kw_only=True):
    """An archive as it lies in a further place; `name` is what people name to get it back."""

    name: str
    volumes: Sequence[StoredVolume]


def add_copies(connection: Connection, archive: int, copies: Iterable[StoredCopy]) -> None:
    """Write down further places of an archive, behind those that are known.

    A place that is known already stays where it is and gets these volumes. Runs inside the
    caller's transaction.
    """
    known = _copies(connection, archive)
    first = connection.execute(select(Archive.name).where(col(Archive.id) == archive)).scalar()  # type: ignore[call-overload]
    for copy in copies:
        if copy.name == first:
            continue
        number = known.get(copy.name)
        if number is None:
            number = known[copy.name] = _insert(connection, archive, copy.name, PRESENT)
        else:
            connection.execute(delete(CopyVolume).where(col(CopyVolume.copy_id) == number))
            connection.execute(
                update(ArchiveCopy).where(col(ArchiveCopy.id) == number).values(state=PRESENT)
            )
        _add_volumes(connection, number, map(_row, range(len(copy.volumes)), copy.volumes))


def _copies(connection: Connection, archive: int) -> dict[str, int]:
    query: Any = select(ArchiveCopy.name, ArchiveCopy.id)  # type: ignore[call-overload]
    rows = connection.execute(query.where(col(ArchiveCopy.archive_id) == archive))
    return {row[0]: row[1] for row in rows}


def _insert(connection: Connection, archive: int, name: str, state: str) -> int:
    result = connection.execute(
        insert(ArchiveCopy).values(archive_id=archive, name=name, state=state)
    )
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])


def _row(number: int, volume: StoredVolume) -> dict[str, Any]:
    parts = [(part.size, part.sha256) for part in volume.parts] or None
    return {
        "number": number, "uri": volume.uri, "size": volume.size, "sha256": volume.sha256,
        "parts": parts,
    }  # fmt: skip


def _add_volumes(connection: Connection, copy: int, rows: Iterable[dict[str, Any]]) -> None:
    if values := [{**row, "copy_id": copy} for row in rows]:
        connection.execute(insert(CopyVolume), values)


def drop_copy(connection: Connection, copy: int) -> None:
    """Forget a further place; fine if it is forgotten. Runs inside the caller's transaction."""
    connection.execute(delete(CopyVolume).where(col(CopyVolume.copy_id) == copy))
    connection.execute(delete(ArchiveCopy).where(col(ArchiveCopy.id) == copy))


def drop_copies(connection: Connection, archives: Sequence[int]) -> None:
    """Forget all further places of some archives. Runs inside the caller's transaction."""
    copies: Any = select(ArchiveCopy.id).where(col(ArchiveCopy.archive_id).in_(archives))  # type: ignore[call-overload]
    connection.execute(delete(CopyVolume).where(col(CopyVolume.copy_id).in_(copies)))
    connection.execute(delete(ArchiveCopy).where(col(ArchiveCopy.archive_id).in_(archives)))


def archive_at(connection: Connection, run_id: str, name: str) -> int:
    """Give the number of a run's archive that has a place called `name`.

    Raises CatalogError if the catalog does not know it any more, as after a prune or a rebuild.
    """
    here: Any = select(Archive.id).where(  # type: ignore[call-overload]
        Archive.run_id == run_id, Archive.name == name, Archive.state == PRESENT
    )
    there: Any = (
        select(Archive.id)  # type: ignore[call-overload]
        .join(ArchiveCopy, col(ArchiveCopy.archive_id) == col(Archive.id))
        .where(Archive.run_id == run_id, ArchiveCopy.name == name, Archive.state == PRESENT)
    )
    for query in (here, there):
        number = connection.execute(query).scalar()
        if number is not None:
            return int(number)
    raise CatalogError(
        f"the catalog does not know {printable(name)} any more; "
        "run `python flows/rebuild.py DESTINATION` if it should"
    )


def move_place(connection: Connection, archive: int, old: str, new: StoredCopy) -> int:
    """Put a place where the one called `old` was; give the number of the copy that is leaving.

    That is what lies at `old`, until `drop_copy` forgets it. Where `old` was the first place, so
    is the new one, and the run and its verifications name it. Runs inside the caller's transaction.
    """
    copies = _copies(connection, archive)
    if old in copies:
        add_copies(connection, archive, [new])
        leaving = copies[old]
        connection.execute(
            update(ArchiveCopy).where(col(ArchiveCopy.id) == leaving).values(state=DELETING)
        )
        return leaving
    if new.name in copies:
        drop_copy(connection, copies[new.name])
    query: Any = select(*(getattr(Volume, name) for name in _FILE))
    rows = connection.execute(query.where(col(Volume.archive_id) == archive)).all()
    leaving = _insert(connection, archive, old, DELETING)
    _add_volumes(connection, leaving, (dict(zip(_FILE, row, strict=True)) for row in rows))
    connection.execute(delete(Volume).where(col(Volume.archive_id) == archive))
    connection.execute(
        insert(Volume),
        [{**_row(at, one), "archive_id": archive} for at, one in enumerate(new.volumes)],
    )
    own_run: Any = select(Archive.run_id).where(col(Archive.id) == archive)  # type: ignore[call-overload]
    connection.execute(
        update(Run)
        .where(col(Run.run_id).in_(own_run), col(Run.archive) == old)
        .values(archive=new.name)
    )
    connection.execute(
        update(Verification).where(col(Verification.archive) == old).values(archive=new.name)
    )
    connection.execute(update(Archive).where(col(Archive.id) == archive).values(name=new.name))
    return leaving


def places(archive: ArchiveFacts, *, with_leaving: bool = True) -> tuple[ArchiveFacts, ...]:
    """Give an archive once for each place where it lies, the first place first.

    Each has the name and the volumes that it has there. A prune deletes all of them; whoever reads
    leaves out the places that are on their way out.
    """
    replace = msgspec.structs.replace
    return (
        replace(archive, copies=()),
        *(
            replace(
                archive, name=copy.name, volumes=copy.volumes, copies=(),
                size=sum(one.size for one in copy.volumes),
            )
            for copy in archive.copies
            if with_leaving or not copy.is_leaving
        ),
    )  # fmt: skip
