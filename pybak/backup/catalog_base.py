"""The snapshots of a job in the catalog, as what its next run is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime

from pybak.backup.base import (
    COARSE_TICK_NS,
    ArchiveFacts,
    Base,
    Digest,
    Lineage,
    State,
    Stored,
    is_racy,
)
from pybak.backup.gone import WITHOUT_DISK
from pybak.backup.mode import DIFFERENTIAL
from pybak.catalog import facts, references
from pybak.catalog.copies import places
from pybak.catalog.facts import Snapshot
from pybak.catalog.failures import CatalogError
from pybak.catalog.history import History
from pybak.catalog.lineage import ancestors, rows_by_run, runs_since
from pybak.formats.manifest import Reference
from pybak.portable import from_portable
from pybak.problems import SOURCE_MISSING

_SECOND_NS = 1_000_000_000
_ALWAYS = 0
"""The start of a run whose row is gone: what it recorded is taken for racy, and so read again."""


class JobHistory:
    """The history of one job."""

    def __init__(self, history: History, job: str) -> None:
        self._history = history
        self._job = job

    def base(self, mode: str) -> Base | None:
        """Give what a run of this mode is compared with; None before the first snapshot.

        Raises CatalogError.
        """
        newest = self._history.newest(self._job)
        if newest is None:
            return None
        full = newest
        if newest.full_run not in (None, newest.run_id):
            # Its own snapshot may be removed by now; what it recorded stays with its archive.
            recorded = self._history.recorded(newest.full_run or "")
            if recorded is None:
                return None
            full = recorded
        base = newest
        if mode == DIFFERENTIAL:
            if not self._is_stored(full):
                return None
            base = full
        since = runs_since(self._history.database, self._job, full.seq)
        return CatalogBase(self._history, base, full, runs_since_full=since)

    def _is_stored(self, full: Snapshot) -> bool:
        return any(
            archive.run_id == full.run_id and not archive.is_leaving
            for archive in self._history.archives_of_job(self._job)
        )


class CatalogBase:
    """A snapshot in the catalog."""

    def __init__(
        self,
        history: History,
        snapshot: Snapshot,
        full: Snapshot,
        *,
        runs_since_full: int,
    ) -> None:
        self._history = history
        self._snapshot = snapshot
        self._full = full
        self.run_id = snapshot.run_id
        self.seq = snapshot.seq
        self.mode = snapshot.mode
        self.started_at: datetime = snapshot.started_at
        self.full_run = full.run_id
        self.full_started_at: datetime = full.started_at
        self.runs_since_full = runs_since_full
        self._archives: Sequence[ArchiveFacts] | None = None

    def states(self) -> Iterator[tuple[bytes, State]]:
        """Yield every member of the snapshot with what is known of it."""
        starts = {
            seq: int(moment.timestamp() * _SECOND_NS)
            for seq, moment in self._history.starts(self._snapshot.job).items()
        }
        # Nearly all lie before these, and are not looked at more closely.
        borders = {seq: start - COARSE_TICK_NS for seq, start in starts.items()}
        for row in self._history.states(self._snapshot):
            name, kind, size, mtime, ctime, inode, device, mode, uid, gid, changed, seq, ident = row
            newest = ctime if ctime > mtime else mtime
            racy = newest >= borders.get(seq, _ALWAYS) and (
                seq not in starts or is_racy(mtime, ctime, starts[seq])
            )
            yield (
                name,
                (
                    kind, size, mtime, ctime, inode, device, mode, uid, gid, bool(changed), racy,
                    ident,
                ),
            )  # fmt: skip

    def digests(self, idents: Sequence[int]) -> Mapping[int, Digest]:
        """Give the digests of these files."""
        return self._history.digests(idents)

    def contents(self, sizes: AbstractSet[int]) -> Iterator[Stored]:
        """Yield the contents of the files that have one of these sizes."""
        for found in references.contents(self._history.database, self._snapshot, sizes):
            yield Stored(*found)

    def other_versions(self, older: Base) -> Iterator[tuple[bytes, State | None]]:
        """Yield each member of which `older` has another version, with what it knows of that."""
        assert isinstance(older, CatalogBase)
        database = self._history.database
        for name, row in references.other_versions(database, self._snapshot, older._snapshot):
            if row is None:
                yield name, None
            else:
                *state, changed = row
                yield name, (*state, bool(changed), False, 0)

    def references(self, names: Iterable[bytes]) -> Iterator[Reference]:
        """Yield what a later snapshot says that has these members as this one has them."""
        return references.references(self._history.database, self._snapshot, names)

    def archive_names(self) -> Mapping[str, str]:
        """Give by run what the archives of the job are called, without their folders."""
        try:
            return references.archive_names(self._history.database, self._snapshot.job)
        except CatalogError:
            return {}  # runs are named as well

    def failures(self) -> Iterator[tuple[str, str]]:
        """Yield path and code of what the run that made the snapshot could not save."""
        for error in self._history.errors(self.run_id):
            yield error.path, error.code

    def without_disk(self) -> Iterator[str]:
        """Yield the folders that were told to be mount points without their disks."""
        for error in self._history.errors(self.run_id):
            if error.code == SOURCE_MISSING and error.message == WITHOUT_DISK:
                yield error.path

    def gone_since_full(self) -> Iterator[bytes]:
        """Yield each name that an archive since the full run holds and the snapshot lacks."""
        return self._history.gone_since(self._full.seq, self._snapshot)

    def archives(self) -> Sequence[ArchiveFacts]:
        """Give the archives that the snapshot needs, the newest last."""
        if self._archives is None:
            self._archives = [_facts(facts) for facts in self._history.archives(self._snapshot)]
        return self._archives

    def lineage(self, replaced: Iterable[bytes]) -> Lineage | None:
        """Give what a snapshot goes back to that has all but these members; None if it fails."""
        database = self._history.database
        try:
            rows = rows_by_run(database, self._snapshot)
            taken = rows_by_run(database, self._snapshot, replaced)
            bases = ancestors(database, self._snapshot)
        except CatalogError:
            return None  # what can't be read can't be written either, and that is told
        return Lineage(bases, [run for run, count in rows.items() if count > taken.get(run, 0)])


def _facts(archive: facts.ArchiveFacts) -> ArchiveFacts:
    """Give what a backup needs to know of an archive of the catalog."""
    first, *copies = (
        [(from_portable(volume.uri), volume.size) for volume in place.volumes]
        for place in places(archive, with_leaving=False)
    )
    return ArchiveFacts(archive.name, first, archive.encrypted, copies)
