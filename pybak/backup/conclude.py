"""What became of a run's files: errors, counts, and what its manifest says at the end.

Every file counts once: as new, changed or unchanged, or as failed. The counts of the comparison
are of what was to be saved; what the packers could not save is taken off them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from pybak import problems
from pybak.backup.base import Base, Lineage
from pybak.backup.filter import Filtered
from pybak.backup.gone import guard_failed, member_names
from pybak.backup.names import read_names
from pybak.backup.references import read_references
from pybak.backup.segments import Absent
from pybak.backup.selection import Selection
from pybak.entries import Root, read_entries
from pybak.errors import PyBakError
from pybak.formats.manifest import Reference
from pybak.problems import Problem, read_problems
from pybak.report.backup import FileCounts
from pybak.report.status import PARTIAL, SUCCESS


class Taken(NamedTuple):
    """What the packers made of the files: how many they saved, what was wrong, what is missing."""

    files: int
    problems: Sequence[Problem]
    absent: Sequence[Absent]


class Conclusion(NamedTuple):
    """What the manifest says at its end, once it is known what became of the files.

    `lenders` are the archives that `references` name by their runs.
    """

    gone: Iterable[bytes] = ()
    errors: Sequence[Problem] = ()
    status: str = ""
    counts: Mapping[str, int] = {}
    lineage: Lineage | None = None
    references: Iterable[Reference] = ()
    lenders: Mapping[str, str] = {}


Conclude = Callable[[Taken], Conclusion]

NOTHING_TAKEN = Taken(0, (), ())


class Outcome(NamedTuple):
    """How a run ended for its files. `errors` and `skipped` are all there were, in memory."""

    files: FileCounts
    errors: tuple[Problem, ...]
    skipped: tuple[Problem, ...]

    @property
    def status(self) -> str:
        """`partial` when anything failed."""
        return PARTIAL if self.errors else SUCCESS


class _Kept(NamedTuple):
    """What stays as the newest snapshot has it, of what could not be packed for another one.

    `references` are what that has in other versions, `gone` what it does not have.
    """

    references: tuple[Reference, ...] = ()
    gone: tuple[bytes, ...] = ()


class Accounts:
    """Keeps count of the files of one run.

    `known` are problems from before the walk: of sources, and of earlier archives. `base` is what
    the archive is the difference to, `newest` the newest snapshot where that is another one.
    """

    def __init__(
        self,
        roots: Sequence[Root],
        kept: Filtered,
        selection: Selection,
        known: Sequence[Problem] = (),
        base: Base | None = None,
        newest: Base | None = None,
    ) -> None:
        self._roots = roots
        self._kept = kept
        self._selection = selection
        self._known = known
        self._base = base
        self._newest = newest if base is not None else None

    def outcome(self, taken: Taken) -> Outcome:
        """Sum up, when it is known what became of the files."""
        errors: list[Problem] = []
        skipped: list[Problem] = []
        for problem in self._problems(taken):
            (skipped if problem.is_skip else errors).append(problem)
        selection = self._selection
        flagged = sum(problem.code == problems.CHANGED for problem in taken.problems)
        changed = selection.changed - self._failed_changes(taken.problems)
        files = FileCounts(
            new=taken.files + selection.stored - flagged - changed,
            changed=changed,
            unchanged=selection.unchanged,
            excluded=sum(self._kept.excluded.values()),
            skipped=sum(problem.code in problems.SKIPPED_CODES for problem in skipped),
            failed=count_failed(errors),
        )
        return Outcome(files, tuple(errors), tuple(skipped))

    def planned(self) -> Outcome:
        """Sum up what is expected before anything is read."""
        taken = self.outcome(NOTHING_TAKEN)
        selection = self._selection
        files = FileCounts(
            new=selection.new,
            changed=selection.changed,
            unchanged=selection.unchanged,
            excluded=taken.files.excluded,
            skipped=taken.files.skipped,
            failed=taken.files.failed,
        )
        return Outcome(files, taken.errors, taken.skipped)

    def conclude(self, taken: Taken) -> Conclusion:
        """Give what the manifest says at its end."""
        outcome = self.outcome(taken)
        counts = outcome.files.to_json() | {"gone": self._selection.gone}
        errors = outcome.errors
        try:
            kept = self._as_newest(taken.absent)
        except PyBakError as error:
            # What the run made is not thrown away for that; a rebuild tells what it lacks.
            kept = _Kept()
            errors = (*errors, *self._not_as_newest(taken.absent, error))
        runs = dict.fromkeys(
            (*self._selection.reference_runs, *(one.run for one in kept.references))
        )
        lineage = None
        lenders: dict[str, str] = {}
        if self._base is not None:
            lineage = self._base.lineage(self._replaced(taken.absent, kept))
            if lineage is not None:
                needs = dict.fromkeys((*lineage.needs, *runs))
                lineage = lineage._replace(needs=list(needs))
            names = self._base.archive_names() if runs else {}
            lenders = {run: names.get(run, "") for run in runs}
        return Conclusion(
            self._gone(taken.absent, kept), errors, PARTIAL if errors else SUCCESS, counts, lineage,
            chain(read_references(self._selection.references), kept.references), lenders,
        )  # fmt: skip

    def _as_newest(self, absent: Sequence[Absent]) -> _Kept:
        """Find what a differential archive must tell of what could not be packed.

        It would be as in the full run otherwise.
        """
        if not absent or self._newest is None or self._base is None:
            return _Kept()
        names = {self._roots[root].member_name(path) for root, path, _ in absent}
        failed = guard_failed(self._roots, absent)
        others = {
            name: state
            for name, state in self._newest.other_versions(self._base)
            if name in names or failed.covers(name)
        }
        told = {one.path for one in read_references(self._selection.references)} if others else ()
        wanted = [name for name in sorted(others) if os.fsdecode(name) not in told]
        references = tuple(self._newest.references(wanted))
        there = {os.fsencode(one.path) for one in references}
        gone = (name for name in wanted if name not in there and others[name] is not None)
        return _Kept(references, tuple(gone))

    def _not_as_newest(self, absent: Sequence[Absent], error: PyBakError) -> Iterator[Problem]:
        """Yield for each of what could not be packed that the snapshot has it as the base."""
        message = (
            "could not be saved, and is as the full backup has it, for what is newer could not be "
            f"looked up: {error}"
        )
        for root, path, _ in absent:
            name = os.fsdecode(self._roots[root].disk_path(path))
            yield Problem(name, problems.STORAGE, message)

    def _problems(self, taken: Taken) -> Iterator[Problem]:
        yield from self._known
        for path in self._kept.problems:
            yield from read_problems(path)
        yield from self._selection.problems
        yield from taken.problems

    def _failed_changes(self, found: Iterable[Problem]) -> int:
        """Count the files that have changed and were not saved, or not as they were."""
        bad = {
            name
            for problem in found
            if problem.code not in problems.NOTES
            for name in member_names(self._roots, os.fsencode(problem.path))
        }
        return sum(name in bad for name in read_names(self._selection.changed_names)) if bad else 0

    def _gone(self, absent: Sequence[Absent], kept: _Kept) -> Iterator[bytes]:
        """Yield what the new snapshot lacks of all that archives since the full run hold."""
        roots, selection = self._roots, self._selection
        yield from self._gone_now(absent, kept)
        yield from read_names(selection.earlier_names)
        if absent:
            missing = {roots[root].member_name(path) for root, path, _ in absent}
            yield from filter(missing.__contains__, read_names(selection.returned_names))

    def _gone_now(self, absent: Sequence[Absent], kept: _Kept) -> Iterator[bytes]:
        names = read_names(self._selection.gone_names)
        yield from guard_failed(self._roots, absent).keep_out(names)
        yield from kept.gone

    def _replaced(self, absent: Sequence[Absent], kept: _Kept) -> Iterator[bytes]:
        """Yield the members whose version in the base, if there is one, is not in the snapshot."""
        roots = self._roots
        missing = {(root, path) for root, path, _ in absent}
        for entry in read_entries(self._selection.entries):
            if (entry.root, entry.path) not in missing:
                yield roots[entry.root].member_name(entry.path)
        for reference in chain(read_references(self._selection.references), kept.references):
            yield os.fsencode(reference.path)
        yield from self._gone_now(absent, kept)


def count_failed(errors: Iterable[Problem]) -> int:
    """Count the errors that are about a file, folder or source."""
    return sum(error.code not in (problems.NO_MATCH, problems.STORAGE) for error in errors)
