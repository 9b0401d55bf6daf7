"""A plan compared with the storage: which snapshots it lost, and what can't be deleted there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pybak.catalog.copies import places
from pybak.catalog.facts import ArchiveFacts, Snapshot
from pybak.catalog.needs import Needs
from pybak.display import printable
from pybak.errors import StorageError
from pybak.problems import STORAGE, Problem
from pybak.retention.files import Files, Obstacle
from pybak.retention.places import UnreachableError
from pybak.retention.plan import JobPlan
from pybak.storage.opening import is_remote
from pybak.units import format_count


class Blocked(NamedTuple):
    """A place of an archive that nothing can be deleted from, or not this archive."""

    archive: ArchiveFacts
    place: str
    obstacle: Obstacle


def find_lost(
    snapshots: Sequence[Snapshot],
    needs: Needs,
    archives: Iterable[ArchiveFacts],
    faults: Mapping[int, str],
) -> dict[str, str]:
    """Say, by run id, what is wrong with the archives of snapshots that can't be restored."""
    made = {one.run_id: one.id for one in archives if not one.is_leaving}
    own = {one.seq: made[one.run_id] for one in snapshots if one.run_id in made}
    wrong = needs.uses((one.seq for one in snapshots), own).first_needed(faults)
    return {one.run_id: faults[wrong[one.seq]] for one in snapshots if one.seq in wrong}


def find_blocked(plan: JobPlan, archives: Iterable[ArchiveFacts], files: Files) -> list[Blocked]:
    """Say what keeps those archives from going that are to be deleted, place by place.

    Where a folder has lost every archive of the job, missing files say that it is not mounted, or
    not the right bucket, not that they were deleted.
    """
    there: dict[str, bool] = {}
    for one in archives:
        for at in () if one.is_leaving else places(one, with_leaving=False):
            for folder in _folders(files, at):
                there[folder] = there.get(folder, False) or _may_be_there(files, at)
    blocked = []
    for one in plan.going:
        for at in places(one):
            # What a prune has begun to delete may be gone; it is told if it can't be finished.
            obstacle = files.obstacle(at, is_begun=one.is_leaving)
            away = next((found for found in _folders(files, at) if not there.get(found, True)), "")
            if obstacle is None and away:
                advice = "is this the right bucket?" if is_remote(away) else "is its disk mounted?"
                message = f"{printable(away)}: holds no archive of this job; {advice}"
                obstacle = Obstacle(message, of_place=True)
            if obstacle is not None:
                blocked.append(Blocked(one, at.name, obstacle))
    return blocked


def wholly_blocked(blocked: Iterable[Blocked]) -> frozenset[int]:
    """Give the archives that nothing can be deleted of, in none of their places."""
    left: dict[int, int] = {}
    for one in blocked:
        number = one.archive.id
        left[number] = left.get(number, len(places(one.archive))) - 1
    return frozenset(number for number, count in left.items() if not count)


def kept_places(blocked: Iterable[Blocked]) -> dict[int, frozenset[str]]:
    """Give, by archive, the names of the places that nothing is deleted from."""
    kept: dict[int, frozenset[str]] = {}
    for one in blocked:
        kept[one.archive.id] = kept.get(one.archive.id, frozenset()) | {one.place}
    return kept


def problems_of(blocked: Iterable[Blocked]) -> list[Problem]:
    """Tell what can't be deleted; what is the matter with a whole place, once."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for one in blocked:
        message = one.obstacle.message
        first.setdefault(message, one.place)
        counts[message] += 1
    return [
        Problem(place, STORAGE, with_others(message, counts[message] - 1))
        for message, place in first.items()
    ]


def with_others(message: str, count: int) -> str:
    """Say that what keeps one archive keeps `count` others in the same place."""
    if not count:
        return message
    return f"{message}; {format_count(count, 'other archive')} there stayed as well"


def _may_be_there(files: Files, at: ArchiveFacts) -> bool:
    try:
        return files.is_there(at)
    except UnreachableError:  # told as the obstacle that it is
        return True


def _folders(files: Files, at: ArchiveFacts) -> Iterable[str]:
    try:
        return sorted(files.folders(at))
    except StorageError:  # told as the obstacle that it is
        return ()
