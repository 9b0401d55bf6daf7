"""What archives take, by job and place."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from pybak.catalog.models import DELETING, unescaped
from pybak.overview.facts import PlaceUse, StorageUse
from pybak.overview.sql import rows

_OWN: Final = f"SELECT job, name, size FROM archive WHERE state <> '{DELETING}'"  # noqa: S608 - our own words
_COPIES: Final = (
    "SELECT a.job, c.name, "  # noqa: S608 - our own words
    "(SELECT COALESCE(SUM(v.size), 0) FROM copy_volume v WHERE v.copy_id = c.id) "
    f"FROM archive_copy c JOIN archive a ON a.id = c.archive_id WHERE c.state <> '{DELETING}'"
)


def storage_use(connection: Connection) -> StorageUse:
    """Give what all archives and their copies take, without those on their way out."""
    places: list[PlaceUse] = []
    for statement, is_copy in ((_OWN, False), (_COPIES, True)):
        # Cutting names here takes half as long as it does in SQLite.
        found: dict[tuple[str, str], list[int]] = {}
        for job, name, size in rows(connection, statement):
            use = found.setdefault((job, name[: name.rfind("/") + 1]), [0, 0])
            use[0] += 1
            use[1] += int(size)
        places += [
            PlaceUse(
                job=unescaped(job), place=_shown(unescaped(place)), archives=count, size=size,
                is_copy=is_copy,
            )
            for (job, place), (count, size) in found.items()
        ]  # fmt: skip
    places.sort(key=lambda one: (-one.size, one.job, one.place))
    return StorageUse(
        size=sum(one.size for one in places),
        archives=sum(one.archives for one in places if not one.is_copy),
        places=tuple(places),
    )


def _shown(place: str) -> str:
    """Give a place without the slash at its end, unless it is all there is."""
    return place.rstrip("/") or place


def sizes_of_jobs(connection: Connection) -> dict[str, tuple[int, int]]:
    """Give, by job as stored, how many archives it has and what they take."""
    statement = (
        f"SELECT job, COUNT(*), SUM(size) FROM archive WHERE state <> '{DELETING}' GROUP BY job"  # noqa: S608 - our own words
    )
    return {job: (count, int(size)) for job, count, size in rows(connection, statement)}
