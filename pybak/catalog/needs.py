"""Which archives a snapshot needs: to be restored, and to be told again if the catalog is lost.

A row of a snapshot names the archive that holds its content. Most are told by the manifest of that
archive. These are not:

- A reference is told by the run that made it, the one with the number `first_seq`: without that
  run's archive a rebuild would take an older version for it.
- A full archive that took the place of a chain has taken over rows (`pybak.catalog.replacing`).
  Later snapshots that do not go back to it, as differential ones that go back to an older full run,
  find them in what they go back to; so that stays as well.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        """Give the archives that the snapshot `seq` needs.

        Without `with_bases` those are left out that only tell what others have taken over.
        """
        if with_bases and seq in self._known:
            return self._known[seq]
        found: set[int] = set()
        firsts: set[int] = set()
        for span in self.spans:
            if span.holds(seq):
                found.add(span.archive)
                firsts.add(span.first)
        for first in firsts:
            found |= self._besides(first, seq, with_bases=with_bases)
        if with_bases:
            self._known[seq] = frozenset(found)
        return frozenset(found)

    def of_row(self, archive: int, first: int, seq: int) -> frozenset[int]:
        """Give the archives that one row of the snapshot `seq` needs."""
        return self._besides(first, seq, with_bases=True) | {archive}

    def used(self, archives: Collection[int], seqs: Iterable[int]) -> bool:
        """Whether one of some archives is needed by one of the snapshots `seqs`."""
        going, numbers = frozenset(archives), sorted(seqs)
        last: dict[int, int | None] = {}
        for span in self.spans:
            is_going = span.archive in going or self.archives.get(span.first) in going
            if is_going and _within(numbers, span.first, span.gone):
                return True
            if self._is_full(span.first):
                before = last.get(span.first, 0)
                last[span.first] = (
                    None if before is None or span.gone is None else max(before, span.gone)
                )
        return any(
            not going.isdisjoint(self._besides(first, seq, with_bases=True))
            for first, gone in last.items()
            for seq in _within(numbers, first, gone)
        )

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

    def _besides(self, first: int, seq: int, *, with_bases: bool) -> frozenset[int]:
        """Give what the rows of a snapshot need besides their content that the run `first` told."""
        told = self.archives.get(first)
        found = frozenset() if told is None else frozenset((told,))
        if with_bases and (base := self._base_before(first, seq)) is not None:
            found |= self.of(base)
        return found

    def _base_before(self, first: int, seq: int) -> int | None:
        """Give what a snapshot had rows from that the full run `first` has taken over.

        None if the snapshot goes back to that run itself.
        """
        if not self._is_full(first) or first in (seq, self.fulls.get(seq)):
            return None
        base = self.bases.get(seq)
        older = self.fulls.get(seq)
        while base is not None and base >= first:
            if base == first:
                return None
            base = self.bases.get(base)
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


def _within(numbers: Sequence[int], first: int, gone: int | None) -> Sequence[int]:
    """Give those of some sorted numbers that are at least `first` and less than `gone`."""
    end = len(numbers) if gone is None else bisect_left(numbers, gone)
    return numbers[bisect_left(numbers, first) : end]
