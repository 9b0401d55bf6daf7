"""What a snapshot is made of: from each archive of its chain, the members that still count.

A single archive that is restored as it is makes a snapshot of one share, which takes everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pybak.display import printable
from pybak.errors import ArchiveError, NotFoundError, PlanError, PyBakError, StorageError
from pybak.restore.select import Selector
from pybak.volumes.find import VolumeSet, find_volumes

if TYPE_CHECKING:
    from pybak.catalog.history import ArchiveFacts


class Share(NamedTuple):
    """What a snapshot takes from one archive.

    `archive` is the name that people know it by, `volumes` are its files in order. `names` are
    the member names that it takes, None for all. Where the files can't be found, there are none,
    and `trouble` says why. The shares of a snapshot have no name in common; they come oldest
    archive first.

    `run_id` is the run that made the archive and `size` its bytes in all, where the catalog knows:
    another archive may lie there under the same name.
    """

    archive: str
    volumes: tuple[bytes, ...]
    names: frozenset[bytes] | None = None
    trouble: PyBakError | None = None
    run_id: str = ""
    size: int | None = None


def whole(archive: VolumeSet | Path) -> Share:
    """Give the share that takes all of an archive."""
    if isinstance(archive, Path):
        path = os.fsencode(archive)
        archive = VolumeSet((path,), path)
    return Share(os.fsdecode(archive.base), tuple(map(os.path.abspath, archive.paths)))


def find_shares(recorded: Iterable[tuple[str, Iterable[bytes]]]) -> list[Share]:
    """Find the archives of a snapshot, given by the names that runs recorded.

    An archive that is not there, or not whole, gives a share with `trouble`.
    """
    shares = []
    for archive, names in recorded:
        volumes: tuple[bytes, ...] = ()
        trouble: PyBakError | None = None
        try:
            volumes = tuple(map(os.path.abspath, find_volumes(os.fsencode(archive)).paths))
        except NotFoundError:
            missing = f"{printable(archive)}: the archive is no longer there; put it back"
            trouble = NotFoundError(missing)
        except (PlanError, ArchiveError, StorageError) as error:
            trouble = error
        shares.append(Share(archive, volumes, frozenset(names), trouble))
    return shares


def recorded_shares(recorded: Iterable[tuple[ArchiveFacts, Iterable[bytes]]]) -> list[Share]:
    """Find the archives of a snapshot as `find_shares`, for what the catalog knows of them."""
    known = list(recorded)
    found = find_shares((facts.name, names) for facts, names in known)
    return [
        share._replace(
            run_id=facts.run_id,
            size=sum(volume.size for volume in facts.volumes) if facts.volumes else None,
        )
        for share, (facts, _) in zip(found, known, strict=True)
    ]


def wanted_names(share: Share, selector: Selector) -> frozenset[bytes] | None:
    """Give the names of a share that patterns may select; None for all of its archive.

    A name does not tell whether it is a folder's, so both are tried: too many may be given, never
    too few.
    """
    names = share.names
    if names is None or selector.takes_all:
        return names
    return frozenset(filter(selector.may_want, names))


def folders_among(shares: Sequence[Share]) -> frozenset[bytes]:
    """Give the paths of all folders in which members of the shares lie."""
    found: set[bytes] = set()
    for share in shares:
        for name in share.names or ():
            above = name.rpartition(b"/")[0]
            while above and above not in found:
                found.add(above)
                above = above.rpartition(b"/")[0]
    return frozenset(found)
