"""What a prune is about to do to one job, as a value that can be shown before anything is touched.

The policy judges snapshots; archives follow from that. One is deleted only if no snapshot that is
kept needs it: none of its members is in one, and no kept run made it. A snapshot that no rule keeps
stays all the same if everything that it needs stays anyhow, for then it costs nothing; if only its
own archive must stay, it goes and leaves the archive to the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from pybak.catalog.needs import Needs, Uses
from pybak.units import format_count, format_size

if TYPE_CHECKING:
    from pybak.catalog.facts import ArchiveFacts, Snapshot
    from pybak.retention.policy import Verdict

_NAMED: Final = 3


@dataclass(frozen=True)
class Entry:
    """What becomes of one snapshot.

    `archive` is the one that its run made, None if the catalog has lost it. `archive_stays` tells
    of a snapshot that goes whether its archive is needed all the same.
    """

    snapshot: Snapshot
    reasons: tuple[str, ...]
    archive: ArchiveFacts | None = None
    archive_stays: bool = True


@dataclass(frozen=True)
class JobPlan:
    """What becomes of the snapshots of a job, the newest first, and which archives are deleted.

    `delete` holds those of `remove`, and others that nothing needs any more: what earlier prunes
    had to leave. `unfinished` are archives whose removal was decided before and not completed.
    """

    job: str
    keep: tuple[Entry, ...]
    remove: tuple[Entry, ...]
    delete: tuple[ArchiveFacts, ...]
    unfinished: tuple[ArchiveFacts, ...] = field(default=())

    @property
    def going(self) -> tuple[ArchiveFacts, ...]:
        """All archives whose files are deleted, in the order in which that is done."""
        return (*self.unfinished, *self.delete)

    @property
    def size(self) -> int:
        """How many bytes the archives have that are deleted."""
        return sum(archive.size for archive in self.going)

    def summary(self) -> str:
        """Say in one line how much is kept and removed."""
        return (
            f"{format_count(len(self.keep), 'snapshot')} to keep, {len(self.remove)} to remove, "
            f"{format_count(len(self.delete), 'archive')} to delete ({format_size(self.size)})"
        )

    def replacing(self, archive: ArchiveFacts) -> JobPlan:
        """Give the plan for when another archive has taken the place of this one, which goes."""
        return replace(self, unfinished=(*self.unfinished, archive))

    def sparing(self, archives: Iterable[int]) -> JobPlan:
        """Give the plan without deleting these archives, which can't be."""
        spared = frozenset(archives)
        return replace(
            self,
            remove=tuple(
                replace(entry, archive_stays=True)
                if entry.archive is not None and entry.archive.id in spared
                else entry
                for entry in self.remove
            ),
            delete=tuple(one for one in self.delete if one.id not in spared),
            unfinished=tuple(one for one in self.unfinished if one.id not in spared),
        )


def plan_prune(
    job: str,
    verdicts: Sequence[Verdict],
    needs: Needs,
    archives: Iterable[ArchiveFacts],
) -> JobPlan:
    """Decide which archives go, by the verdicts on all snapshots of a job.

    `needs` tells what the snapshots need; `archives` are all of the job's.
    Memory grows with spans and snapshots (n), time with n log n.
    """
    known = list(archives)
    made = {one.run_id: one for one in known if not one.is_leaving}
    kept = _uses([one.snapshot for one in verdicts if one.keep], needs, made)
    others = _uses([one.snapshot for one in verdicts if not one.keep], needs, made)
    needed = kept.archives
    costly = others.first_needed(one for one in others.archives if one not in needed)
    keep, remove = [], []
    for verdict in verdicts:
        snapshot = verdict.snapshot
        own = made.get(snapshot.run_id)
        if verdict.keep:
            keep.append(Entry(snapshot, verdict.reasons, own))
        elif own is None or own.id not in needed:
            remove.append(Entry(snapshot, verdict.reasons, own, archive_stays=False))
        elif snapshot.seq not in costly:
            keep.append(Entry(snapshot, (_needed_by(kept, own.id),), own))
        else:
            reasons = (*verdict.reasons, f"its archive stays: {_needed_by(kept, own.id)}")
            remove.append(Entry(snapshot, reasons, own))
    return JobPlan(
        job,
        keep=tuple(keep),
        remove=tuple(remove),
        delete=tuple(one for one in known if not one.is_leaving and one.id not in needed),
        unfinished=tuple(one for one in known if one.is_leaving),
    )


def _uses(snapshots: Sequence[Snapshot], needs: Needs, made: Mapping[str, ArchiveFacts]) -> Uses:
    """Give the archives that snapshots need; their own also if these hold nothing but a list."""
    own = {one.seq: made[one.run_id].id for one in snapshots if one.run_id in made}
    return needs.uses((one.seq for one in snapshots), own)


def _needed_by(uses: Uses, archive: int) -> str:
    count = uses.count(archive)
    named = ", ".join(map(str, islice(uses.users(archive), _NAMED)))
    if count == 1:
        return f"needed by run {named}"
    more = count - _NAMED
    return f"needed by runs {named}" + (f" and {format_count(more, 'other')}" if more > 0 else "")
