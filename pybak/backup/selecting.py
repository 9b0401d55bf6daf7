"""Choose what of a run's files goes into its archive, by its options and what the walk met.

A comparison with another snapshot than the newest misses two things: that nothing has changed since
the newest one, and what must be kept of it where the walk could not look. So the newest one has a
say too: a differential run that may not go by the full snapshot becomes an incremental one, and so
does a full run that is merely due while a part of the sources is out of reach.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from pybak.backup.base import Base
from pybak.backup.compare import How, Selection, select_all, select_changes
from pybak.backup.filter import Filtered
from pybak.backup.gone import (
    Guarded,
    empty_folders,
    guard_unlisted,
    kept_as,
    member_names,
    unmounted,
)
from pybak.backup.mode import INCREMENTAL, Chosen
from pybak.entries import FILE, Root, read_entries
from pybak.options import BackupOptions
from pybak.problems import Problem, read_problems

_OUT_OF_REACH = "not with the full one: a part of the sources can't be read"
_AS_THE_FULL_ONE = "not with the full one: nothing differs from that"
_NOT_YET = "for the full run that is due must wait: a part of the sources can't be read"


def select(
    kept: Filtered,
    roots: Sequence[Root],
    chosen: Chosen,
    folder: Path,
    options: BackupOptions,
    *,
    missing: Sequence[Root],
    problems: Sequence[Problem],
    threads: int,
    stop: Callable[[], object],
) -> tuple[Chosen, Selection]:
    """Select what differs from the base, or everything where there is none; give the mode too.

    The mode is the chosen one, or incremental for a reason that it names. `missing` are the sources
    that are not there, `problems` what was wrong with sources. A problem that the base's run did
    not have is a reason to write an archive: history must tell of it.
    """
    selecting = _Selecting(kept, roots, folder, options, missing, problems, threads, stop)
    if chosen.newest is None:
        return chosen, _all_or_changes(selecting, chosen.base)
    if chosen.base is None:
        return selecting.full(chosen, chosen.newest)
    return selecting.differential(chosen, chosen.base, chosen.newest)


def _all_or_changes(selecting: _Selecting, base: Base | None) -> Selection:
    return select_all(selecting.kept) if base is None else selecting.against(base)


class _Selecting:
    def __init__(
        self,
        kept: Filtered,
        roots: Sequence[Root],
        folder: Path,
        options: BackupOptions,
        missing: Sequence[Root],
        problems: Sequence[Problem],
        threads: int,
        stop: Callable[[], object],
    ) -> None:
        self.kept = kept
        self._roots = roots
        self._folder = folder
        self._how = How(
            ignore_ctime=options.ignore_ctime,
            ignore_inode=options.ignore_inode,
            by_content=options.checksum_compare,
            allow_empty=options.allow_empty,
        )
        of_walk, of_rules = (list(read_problems(path)) for path in kept.problems)
        self._missing = missing
        self._of_walk = of_walk
        self._problems = [one for one in (*problems, *of_walk, *of_rules) if not one.is_skip]
        self._threads = threads
        self._stop = stop

    def guarded(self) -> Guarded:
        """Give what the walk could not see."""
        return guard_unlisted(self._roots, self._missing, self._of_walk)

    def against(
        self, base: Base, guarded: Guarded | None = None, folder: Path | None = None
    ) -> Selection:
        """Compare with a snapshot; the names without their disks are added to `guarded`."""
        failures = dict(base.failures())
        return select_changes(
            self.kept,
            self._roots,
            base,
            folder or self._folder,
            how=self._how,
            guarded=self.guarded() if guarded is None else guarded,
            failures=failures,
            is_forced=any(failures.get(one.path) != one.code for one in self._problems),
            threads=self._threads,
            stop=self._stop,
        )

    def full(self, chosen: Chosen, newest: Base) -> tuple[Chosen, Selection]:
        """Select everything, unless that can wait until all can be read."""
        guarded = self.guarded()
        found = [] if self._how.allow_empty else self._without_disk(newest)
        if chosen.is_due:
            for name, _ in found:
                guarded.add(name)
            if kept_as(newest, guarded):
                return Chosen(INCREMENTAL, newest, (_NOT_YET,)), self.against(newest)
        problems = tuple(problem for _, problem in found)
        return chosen, msgspec.structs.replace(select_all(self.kept), problems=problems)

    def _without_disk(self, newest: Base) -> list[tuple[bytes, Problem]]:
        folders = empty_folders(self.kept.entries, self._roots)
        return list(unmounted(folders, newest, self._roots))

    def differential(self, chosen: Chosen, base: Base, newest: Base) -> tuple[Chosen, Selection]:
        """Select what differs from the full snapshot, where that tells all there is to tell."""
        guarded = self.guarded()
        since = self._folder / "newest"
        since.mkdir(exist_ok=True)
        since_newest = self.against(newest, guarded, since)
        if since_newest.is_empty:
            return chosen, since_newest
        since_full = self.against(base, guarded)
        bytes_read = since_newest.bytes_read + since_full.bytes_read
        for path, _ in newest.failures():
            self._guard(guarded, os.fsencode(path))
        for unreadable in self._unreadable(since_full):
            self._guard(guarded, unreadable)
        if kept_as(base, guarded) != kept_as(newest, guarded):
            why = _OUT_OF_REACH
        elif since_full.is_empty:
            why = _AS_THE_FULL_ONE
        else:
            # A disk that was mounted since the full run is known to the newest snapshot alone.
            problems = {one.path: one for one in (*since_newest.problems, *since_full.problems)}
            return chosen, msgspec.structs.replace(
                since_full, problems=tuple(problems.values()), bytes_read=bytes_read
            )
        chosen = Chosen(INCREMENTAL, newest, (why,))
        return chosen, msgspec.structs.replace(since_newest, bytes_read=bytes_read)

    def _guard(self, guarded: Guarded, path: bytes) -> None:
        for name in member_names(self._roots, path):
            guarded.add(name)

    def _unreadable(self, selected: Selection) -> Iterator[bytes]:
        """Yield the files that will fail, as far as their permissions tell."""
        by_effective = os.access in os.supports_effective_ids
        for entry in read_entries(selected.entries):
            self._stop()
            path = self._roots[entry.root].disk_path(entry.path)
            if entry.kind == FILE and not os.access(path, os.R_OK, effective_ids=by_effective):
                yield path
