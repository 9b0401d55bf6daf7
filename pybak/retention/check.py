"""A plan compared with the storage: which snapshots it lost, and what can't be deleted there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pybak.catalog.history import ArchiveFacts, Snapshot
from pybak.display import printable
from pybak.errors import StorageError
from pybak.retention import files
from pybak.retention.plan import JobPlan


def find_lost(
    snapshots: Iterable[Snapshot],
    needs: Mapping[str, frozenset[int]],
    archives: Iterable[ArchiveFacts],
    faults: Mapping[int, str],
) -> dict[str, str]:
    """Say, by run id, what is wrong with the archives of snapshots that can't be restored."""
    own = {one.run_id: one.id for one in archives if not one.is_leaving}
    lost = {}
    for snapshot in snapshots:
        needed = sorted(needs.get(snapshot.run_id, frozenset()) | {own.get(snapshot.run_id, -1)})
        if wrong := next((faults[one] for one in needed if one in faults), None):
            lost[snapshot.run_id] = wrong
    return lost


def find_blocked(
    plan: JobPlan, archives: Iterable[ArchiveFacts], taken: Mapping[int, frozenset[str]]
) -> dict[int, files.Obstacle]:
    """Say, by archive, what keeps those from going that are to be deleted.

    Where a folder has lost every archive of the job, missing files say that it is not mounted, not
    that they were deleted.
    """
    there: dict[str, bool] = {}
    for one in archives:
        for folder in () if one.is_leaving else _folders(one):
            there[folder] = there.get(folder, False) or files.is_there(one)
    blocked = {}
    for one in (*plan.unfinished, *plan.delete):
        # What a prune has begun to delete may be gone; it is told if it can't be finished.
        obstacle = None if one.is_leaving else files.obstacle(one, taken.get(one.id, ()))
        away = next((folder for folder in _folders(one) if not there.get(folder, True)), None)
        if obstacle is None and away is not None:
            message = f"{printable(away)}: holds no archive of this job; is its disk mounted?"
            obstacle = files.Obstacle(message, of_place=True)
        if obstacle is not None:
            blocked[one.id] = obstacle
    return blocked


def _folders(archive: ArchiveFacts) -> Iterable[str]:
    try:
        return sorted(files.folders(archive))
    except StorageError:  # told as the obstacle that it is
        return ()
