"""Which archives a snapshot needs: to be restored, and to be told again if the catalog is lost.

A row of a snapshot names the archive that holds its content. Most are told by the manifest of that
archive. These are not:

- A reference is told by the run that made it, the one with the number `first_seq`: without that
  run's archive a rebuild would take an older version for it.
- A full archive that took the place of a chain has taken over rows (`pybak.catalog.replacing`).
  Later snapshots that do not go back to it, as differential ones that go back to an older full run,
  find them in what they go back to; so that stays as well.

A job may have tens of thousands of snapshots, each of which needs nearly all archives before it. So
what many of them need is never held as a set for each, but by archive, as ranges of snapshots
(`Uses`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import Connection, select
from sqlmodel import col

from pybak.catalog.models import DELETING, Archive, Run, escaped
from pybak.catalog.rows import stream
from pybak.catalog.snapshots import FULL


class Span(NamedTuple):
    """That an archive holds members which are in the snapshots from `first` to before `gone`."""

    archive: int
    first: int
    gone: int | None

    def holds(self, seq: int) -> bool:
        """Whether they are in this snapshot."""
        return self.first <= seq and (self.gone is None or self.gone > seq)


class Uses:
    """Which of some snapshots need which archives, as ranges of snapshots by archive.

    For n snapshots and r ranges: memory grows with n + r; to add a range takes log n, to ask about
    all archives or all snapshots r log r + n.
    """

    def __init__(self, seqs: Iterable[int]) -> None:
        """Take the numbers of the snapshots; nothing is needed yet."""
        self._seqs = sorted(seqs)
        self._ranges: dict[int, list[tuple[int, int]]] = {}

    @property
    def archives(self) -> Collection[int]:
        """The archives that any of the snapshots needs."""
        return self._ranges.keys()

    def add(self, archive: int, first: int, gone: int | None) -> bool:
        """Note that those snapshots need an archive that are at least `first`, less than `gone`.

        Gives whether there are any.
        """
        start, end = self._positions(first, gone)
        if start < end:
            self._ranges.setdefault(archive, []).append((start, end))
        return start < end

    def among(self, first: int, gone: int | None) -> Sequence[int]:
        """Give those of the snapshots that are at least `first` and less than `gone`, in order."""
        start, end = self._positions(first, gone)
        return self._seqs[start:end]

    def count(self, archive: int) -> int:
        """Count the snapshots that need an archive."""
        return sum(end - start for start, end in self._merged(archive))

    def users(self, archive: int) -> Iterator[int]:
        """Yield the snapshots that need an archive, in order."""
        for start, end in self._merged(archive):
            for at in range(start, end):
                yield self._seqs[at]

    def first_needed(self, wanted: Iterable[int]) -> dict[int, int]:
        """Give, by snapshot, the smallest of some archives that it needs, if it needs any.

        Goes through the snapshots once, with the archives in hand that the next of them needs.
        """
        begins = sorted(
            (start, archive, end)
            for archive in set(wanted)
            for start, end in self._ranges.get(archive, ())
        )
        begins.reverse()
        found: dict[int, int] = {}
        in_hand: list[tuple[int, int]] = []
        for at, seq in enumerate(self._seqs):
            while begins and begins[-1][0] <= at:
                _, archive, end = begins.pop()
                heappush(in_hand, (archive, end))
            while in_hand and in_hand[0][1] <= at:
                heappop(in_hand)
            if in_hand:
                found[seq] = in_hand[0][0]
        return found

    def _positions(self, first: int, gone: int | None) -> tuple[int, int]:
        seqs = self._seqs
        return bisect_left(seqs, first), len(seqs) if gone is None else bisect_left(seqs, gone)

    def _merged(self, archive: int) -> list[tuple[int, int]]:
        """Give the ranges of an archive in order, so that no snapshot is in two of them."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted(self._ranges.get(archive, ())):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        return merged


@dataclass(frozen=True)
class Needs:
    """What the snapshots of a job need, by the numbers of runs.

    `archives` gives the archive that a run made, `bases` the run whose snapshot its archive is the
    difference to, `fulls` the full run that it goes back to: itself if it is one.
    """

    spans: Sequence[Span]
    archives: Mapping[int, int]
    bases: Mapping[int, int]
    fulls: Mapping[int, int]
    _known: dict[int, frozenset[int]] = field(default_factory=dict, compare=False)

    def of(self, seq: int, *, with_bases: bool = True) -> frozenset[int]:
        """Give the archives that the snapshot `seq` needs. One pass over the spans.

        Without `with_bases` those are left out that only tell what others have taken over.
        """
        if not with_bases:
            return frozenset(self.uses((seq,), with_bases=False).archives)
        if seq not in self._known:
            self._known[seq] = frozenset(self.uses((seq,)).archives)
        return self._known[seq]

    def of_row(self, archive: int, first: int, seq: int) -> frozenset[int]:
        """Give the archives that one row of the snapshot `seq` needs."""
        told = self.archives.get(first)
        found = frozenset((archive,)) if told is None else frozenset((archive, told))
        base = self._base_before(first, seq, {})
        return found if base is None else found | self.of(base)

    def uses(
        self,
        seqs: Iterable[int],
        own: Mapping[int, int] | None = None,
        *,
        with_bases: bool = True,
    ) -> Uses:
        """Give what the snapshots `seqs` need, however many these are.

        One pass over the spans, and one for each base, mostly none, that is needed because a
        consolidated archive has taken over its rows. `own` gives an archive for each snapshot that
        needs it whatever it holds. For `with_bases` see `of`.
        """
        uses = Uses(seqs)
        for seq, archive in (own or {}).items():
            uses.add(archive, seq, seq + 1)
        until: dict[int, int | None] = {}
        for archive, first, gone in self.spans:
            if uses.add(archive, first, gone):
                before = until.get(first, 0)
                until[first] = None if before is None or gone is None else max(before, gone)
        for first, gone in until.items():
            told = self.archives.get(first)
            if told is not None:
                uses.add(told, first, gone)
            if with_bases and self._is_full(first):
                for base, start, end in self._bases_before(first, uses.among(first, gone)):
                    for archive in self.of(base):
                        uses.add(archive, start, end)
        return uses

    def used(self, archives: Iterable[int], seqs: Iterable[int]) -> bool:
        """Whether one of some archives is needed by one of the snapshots `seqs`."""
        needed = self.uses(seqs).archives
        return any(archive in needed for archive in archives)

    def after(self, seq: int, archive: int) -> Needs:
        """Give the needs for when the archive of the run `seq` is full."""
        spans: list[Span] = []
        for span in self.spans:
            if not span.holds(seq):
                spans.append(span)
                continue
            if span.first < seq:
                spans.append(span._replace(gone=seq))
            spans.append(Span(archive, seq, span.gone))
        return replace(
            self,
            spans=list(dict.fromkeys(spans)),
            bases={run: base for run, base in self.bases.items() if run != seq},
            fulls={**self.fulls, seq: seq},
            _known={},
        )

    def _bases_before(self, first: int, seqs: Iterable[int]) -> Iterator[tuple[int, int, int]]:
        """Yield `_base_before` of snapshots that follow each other, with the range that it is of.

        The range ends before its second number.
        """
        passed: dict[int, int | None] = {}
        for base, group in groupby(seqs, lambda seq: self._base_before(first, seq, passed)):
            if base is not None:
                members = list(group)
                yield base, members[0], members[-1] + 1

    def _base_before(self, first: int, seq: int, passed: dict[int, int | None]) -> int | None:
        """Give what a snapshot had rows from that the full run `first` has taken over.

        None if the snapshot goes back to that run itself. `passed` is where the ways back are noted
        that are known: the same for all snapshots with this `first`, empty for the first of them.
        """
        older = self.fulls.get(seq)
        if not self._is_full(first) or first in (seq, older):
            return None
        way: list[int] = []
        base = self.bases.get(seq)
        while base is not None and base > first:
            if base in passed:
                base = passed[base]
                break
            way.append(base)
            base = self.bases.get(base)
        passed.update(dict.fromkeys(way, base))
        if base == first:
            return None
        found = base if base is not None else older
        return found if found is not None and found < first else None

    def _is_full(self, seq: int) -> bool:
        return self.fulls.get(seq) == seq


def read_needs(connection: Connection, job: str) -> Needs:
    """Read what the snapshots of a job need. One pass over its versions."""
    runs = connection.execute(
        select(Run.run_id, Run.seq, Run.mode, Run.base_run, Run.full_run).where(  # type: ignore[call-overload]
            col(Run.job) == job, col(Run.mode).is_not(None)
        )
    ).all()
    seqs = {row[0]: row[1] for row in runs}
    bases = {row[1]: seqs[row[3]] for row in runs if row[3] in seqs and seqs[row[3]] < row[1]}
    fulls = {row[1]: row[1] if row[2] == FULL else seqs.get(row[4]) for row in runs}
    made = connection.execute(
        select(Archive.id, Archive.run_id, Archive.state)  # type: ignore[call-overload]
        .where(col(Archive.job) == job)
        .order_by(Archive.id)
    )
    archives = {
        seqs[run]: number for number, run, state in made if run in seqs and state != DELETING
    }
    statement = (
        "SELECT archive_id, first_seq, gone_seq FROM file_version "
        "WHERE job_id = (SELECT id FROM job WHERE name = ?) "
        "GROUP BY archive_id, first_seq, gone_seq"
    )
    spans = [Span(*row) for row in stream(connection, statement, (escaped(job),))]
    return Needs(
        spans, archives, bases, {seq: full for seq, full in fulls.items() if full is not None}
    )
