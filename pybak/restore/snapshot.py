"""What a snapshot is made of: from each archive of its chain, the members that still count.

A single archive that is restored as it is makes a snapshot of one share, which takes everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pybak.display import printable
from pybak.errors import ArchiveError, NotFoundError, PlanError, PyBakError, StorageError
from pybak.locate import find_first, names_of
from pybak.paths import absolute
from pybak.problems import Problem
from pybak.restore.select import Selector
from pybak.storage.folders import Folders
from pybak.volumes.find import VolumeSet

if TYPE_CHECKING:
    from pybak.catalog.facts import ArchiveFacts, Version


class Reference(NamedTuple):
    """A file of which an archive holds the content alone, as the one of `member`.

    `mtime_ns` counts from 1970; `mode` holds permission bits. `told_by` is the run whose archive
    tells of it and knows its owner's name, where someone asked for that.
    """

    member: bytes
    mtime_ns: int
    mode: int
    uid: int
    gid: int
    told_by: str = ""


class Share(NamedTuple):
    """What a snapshot takes from one archive.

    `archive` is the name that people know it by, `volumes` are its files in order. `names` are
    the member names that it takes, None for all, and `references` what it takes the content for.
    Where the files can't be found, there are none, and `trouble` says why. The shares of a
    snapshot have no name in common; they come oldest archive first. `is_partial` says that the run
    which made the snapshot could not read all, as far as someone asked; all shares say so.

    `run_id` is the run that made the archive and `size` its bytes in all, where the catalog knows:
    another archive may lie there under the same name. `lack` says what the snapshot itself lacks,
    as where an archive was lost before the catalog was made anew; one share says so.
    """

    archive: str
    volumes: tuple[bytes, ...]
    names: frozenset[bytes] | None = None
    trouble: PyBakError | None = None
    run_id: str = ""
    size: int | None = None
    references: Mapping[bytes, Reference] = {}
    lack: Problem | None = None
    is_partial: bool = False

    @property
    def members(self) -> frozenset[bytes] | None:
        """The names that must be listed of the archive; None for all."""
        if self.names is None or not self.references:
            return self.names
        return self.names.union(one.member for one in self.references.values())

    @property
    def held(self) -> frozenset[bytes] | None:
        """The names of what the snapshot takes from the archive; None for all."""
        if self.names is None or not self.references:
            return self.names
        return self.names.union(self.references)


def whole(archive: VolumeSet | Path) -> Share:
    """Give the share that takes all of an archive."""
    if isinstance(archive, Path):
        path = os.fsencode(archive)
        archive = VolumeSet((path,), path)
    return Share(os.fsdecode(archive.base), tuple(map(absolute, archive.paths)))


def references_of(versions: Iterable[Version], told_by: str = "") -> dict[bytes, Reference]:
    """Give by name those of some versions that have only their content in the archive."""
    return {
        one.path: Reference(one.member, one.mtime_ns, one.mode, one.uid, one.gid, told_by)
        for one in versions
        if one.member is not None
    }


def find_shares(recorded: Iterable[tuple[str, Iterable[bytes]]]) -> list[Share]:
    """Find the archives of a snapshot, given by the names that runs recorded.

    An archive that is not there, or not whole, gives a share with `trouble`.
    """
    return _find(((archive,), names) for archive, names in recorded)


def _find(recorded: Iterable[tuple[Sequence[str], Iterable[bytes]]]) -> list[Share]:
    """Find archives by the names of the places where each of them lies, in order."""
    shares = []
    recorded = list(recorded)
    folders = Folders(os.fsencode(places[0]) for places, _ in recorded)
    for places, names in recorded:
        archive = places[0]
        volumes: tuple[bytes, ...] = ()
        trouble: PyBakError | None = None
        try:
            archive, found = find_first(places, folders=folders)
            volumes = tuple(map(absolute, found.paths))
        except NotFoundError:
            missing = f"{printable(archive)}: the archive is no longer there; put it back"
            trouble = NotFoundError(missing)
        except (PlanError, ArchiveError, StorageError) as error:
            trouble = error
        shares.append(Share(archive, volumes, frozenset(names), trouble))
    return shares


def recorded_shares(
    recorded: Iterable[tuple[ArchiveFacts, Iterable[bytes], Mapping[bytes, Reference]]],
) -> list[Share]:
    """Find the archives of a snapshot as `find_shares`, for what the catalog knows of them."""
    known = list(recorded)
    found = _find((names_of(facts), names) for facts, names, _ in known)
    return [
        share._replace(
            run_id=facts.run_id,
            size=_size(facts, share.archive),
            references=references,
        )
        for share, (facts, _, references) in zip(found, known, strict=True)
    ]


def _size(facts: ArchiveFacts, name: str) -> int | None:
    """Give the bytes of an archive in the place with this name, if they are known."""
    copies = (copy.volumes for copy in facts.copies if copy.name == name)
    volumes = facts.volumes if name == facts.name else next(copies, ())
    return sum(volume.size for volume in volumes) if volumes else None


def wanted_of(share: Share, selector: Selector) -> Share:
    """Give a share with those of its names that patterns may select.

    A name does not tell whether it is a folder's, so both are tried: too many may be given, never
    too few.
    """
    if share.names is None or selector.takes_all:
        return share
    may_want = selector.may_want
    return share._replace(
        names=frozenset(filter(may_want, share.names)),
        references={name: one for name, one in share.references.items() if may_want(name)},
    )


def folders_among(shares: Sequence[Share]) -> frozenset[bytes]:
    """Give the paths of all folders in which members of the shares lie."""
    found: set[bytes] = set()
    for share in shares:
        for name in share.held or ():
            above = name.rpartition(b"/")[0]
            while above and above not in found:
                found.add(above)
                above = above.rpartition(b"/")[0]
    return frozenset(found)
