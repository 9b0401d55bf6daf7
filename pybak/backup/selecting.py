"""Choose what of a run's files goes into its archive, by its options and what the walk met.

A comparison with another snapshot than the newest misses two things: that nothing has changed since
the newest one, and what must be kept of it where the walk could not look. So a differential run is
compared with the newest one, and what differs from the full one is told by that; it becomes an
incremental run where nothing does. A full run that is merely due waits, as an incremental one,
while a part of the sources is out of reach.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pybak.backup.base import Base
from pybak.backup.compare import Seen, select_changes
from pybak.backup.filter import Filtered
from pybak.backup.gone import (
    Guarded,
    empty_folders,
    guard_unlisted,
    kept_as,
    still_without_disk,
    unmounted,
)
from pybak.backup.mode import INCREMENTAL, Chosen
from pybak.backup.selection import Selection, select_all
from pybak.backup.verdicts import How
from pybak.entries import Root
from pybak.options import BackupOptions
from pybak.problems import Problem, read_problems

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
            dedupe=options.dedupe,
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

    def against(self, base: Base, older: Base | None = None) -> Selection:
        """Compare with a snapshot, and by that with an older one."""
        failures = dict(base.failures())
        missed = self._still_without_disk(base)
        is_forced = any(failures.get(one.path) != one.code for one in self._problems)
        if self._how.allow_empty:
            # The next runs go by what this one's history tells.
            is_forced, missed = is_forced or bool(missed), []
        return select_changes(
            self.kept,
            self._roots,
            base,
            self._folder,
            older=older,
            how=self._how,
            seen=Seen(self.guarded(), failures, missed, is_forced),
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
        missed = [] if self._how.allow_empty else self._still_without_disk(newest)
        problems = tuple({one.path: one for one in (*missed, *(one for _, one in found))}.values())
        return chosen, msgspec.structs.replace(select_all(self.kept), problems=problems)

    def _without_disk(self, newest: Base) -> list[tuple[bytes, Problem]]:
        folders = empty_folders(self.kept.entries, self._roots)
        return list(unmounted(folders, newest, self._roots))

    def _still_without_disk(self, newest: Base) -> list[Problem]:
        told = frozenset(map(os.fsencode, newest.without_disk()))
        return list(still_without_disk(told, self.kept.entries, self._roots)) if told else []

    def differential(self, chosen: Chosen, base: Base, newest: Base) -> tuple[Chosen, Selection]:
        """Select what differs from the full snapshot, where that tells all there is to tell."""
        selected = self.against(newest, base)
        if selected.goes_by_newest:
            chosen = Chosen(INCREMENTAL, newest, (_AS_THE_FULL_ONE,))
        return chosen, selected
