"""What many snapshots need, told by ranges, is what sets for each of them tell."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from pybak.catalog.facts import ArchiveFacts, Snapshot
from pybak.catalog.needs import Needs, Span, Uses
from pybak.retention.chain import Chain, find_chain
from pybak.retention.check import find_lost
from pybak.retention.plan import Entry, JobPlan, plan_prune
from pybak.retention.policy import Policy, Verdict, apply_policy
from pybak.units import format_count

T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)


# ---- the same by sets, one for each snapshot


def of(needs: Needs, seq: int, *, with_bases: bool = True) -> frozenset[int]:
    """Give what one snapshot needs, row by row."""
    held = [span for span in needs.spans if span.holds(seq)]
    found = {span.archive for span in held}
    for first in {span.first for span in held}:
        if first in needs.archives:
            found.add(needs.archives[first])
        if with_bases and (base := base_before(needs, first, seq)) is not None:
            found |= of(needs, base)
    return frozenset(found)


def base_before(needs: Needs, first: int, seq: int) -> int | None:
    """Walk all the way back."""
    if needs.fulls.get(first) != first or first in (seq, needs.fulls.get(seq)):
        return None
    base = needs.bases.get(seq)
    while base is not None and base >= first:
        if base == first:
            return None
        base = needs.bases.get(base)
    found = base if base is not None else needs.fulls.get(seq)
    return found if found is not None and found < first else None


Sets = Mapping[str, frozenset[int]]


def sets_of(needs: Needs, snapshots: Sequence[Snapshot], *, with_bases: bool = True) -> Sets:
    return {one.run_id: of(needs, one.seq, with_bases=with_bases) for one in snapshots}


def lost_by_sets(
    snapshots: Sequence[Snapshot],
    sets: Sets,
    archives: Sequence[ArchiveFacts],
    faults: Mapping[int, str],
) -> dict[str, str]:
    own = {one.run_id: one.id for one in archives if not one.is_leaving}
    lost = {}
    for one in snapshots:
        needed = sorted(sets[one.run_id] | {own.get(one.run_id, -1)})
        if wrong := next((faults[number] for number in needed if number in faults), None):
            lost[one.run_id] = wrong
    return lost


def chain_by_sets(
    verdicts: Sequence[Verdict],
    sets: Sets,
    archives: Sequence[ArchiveFacts],
    lost: Mapping[str, str],
) -> Chain | None:
    kept = [verdict.snapshot for verdict in verdicts if verdict.keep]
    runs = {snapshot.run_id for snapshot in kept}
    known = {one.id: one for one in archives if not one.is_leaving}
    own = {one.run_id: one for one in known.values()}
    for snapshot in sorted(kept, key=lambda one: one.seq):
        needed = [known[number] for number in sorted(sets[snapshot.run_id]) if number in known]
        if snapshot.run_id in lost or snapshot.run_id not in own:
            continue
        if any(one.run_id not in runs for one in needed):
            return Chain(snapshot, own[snapshot.run_id], tuple(needed))
    return None


def plan_by_sets(
    verdicts: Sequence[Verdict], sets: Sets, archives: Sequence[ArchiveFacts]
) -> JobPlan:
    made = {one.run_id: one for one in archives if not one.is_leaving}
    all_of = {
        run: found | ({made[run].id} if run in made else set()) for run, found in sets.items()
    }
    needed: dict[int, list[int]] = {}
    for verdict in verdicts:
        for archive in all_of[verdict.snapshot.run_id] if verdict.keep else ():
            needed.setdefault(archive, []).append(verdict.snapshot.seq)
    keep, remove = [], []
    for verdict in verdicts:
        snapshot = verdict.snapshot
        own = made.get(snapshot.run_id)
        users = sorted(needed.get(own.id, [])) if own is not None else []
        if verdict.keep:
            keep.append(Entry(snapshot, verdict.reasons, own))
        elif not users:
            remove.append(Entry(snapshot, verdict.reasons, own, archive_stays=False))
        elif all_of[snapshot.run_id] <= needed.keys():
            keep.append(Entry(snapshot, (needed_by(users),), own))
        else:
            reasons = (*verdict.reasons, f"its archive stays: {needed_by(users)}")
            remove.append(Entry(snapshot, reasons, own))
    return JobPlan(
        "docs",
        keep=tuple(keep),
        remove=tuple(remove),
        delete=tuple(one for one in archives if not one.is_leaving and one.id not in needed),
        unfinished=tuple(one for one in archives if one.is_leaving),
    )


def needed_by(users: Sequence[int]) -> str:
    if len(users) == 1:
        return f"needed by run {users[0]}"
    named = ", ".join(map(str, users[:3]))
    more = len(users) - 3
    others = "other" if more == 1 else "others"
    return f"needed by runs {named}" + (f" and {more} {others}" if more > 0 else "")


# ---- any history


@dataclass(frozen=True)
class Told:
    """What a catalog may tell of a job, with which archives are faulty, and rules."""

    needs: Needs
    snapshots: Sequence[Snapshot]
    archives: Sequence[ArchiveFacts]
    faults: Mapping[int, str]
    policy: Policy

    @property
    def seqs(self) -> list[int]:
        return [one.seq for one in self.snapshots]


def told(seed: int) -> Told:
    """Make up rows and runs, which need not have come about in any sensible way."""
    dice = Random(seed)
    count = dice.randint(1, 14)
    runs = range(1, count + 1)

    def some(share: float) -> set[int]:
        return {run for run in runs if dice.random() < share}

    numbers = dice.sample(runs, count)
    leaving, full = some(0.1), some(0.3)
    made = {run: numbers[run - 1] for run in sorted(some(0.9))}
    archives = [archive(run, number, run in leaving) for run, number in made.items()]
    spans = [
        Span(dice.choice(numbers), run, dice.choice([None, run + dice.randint(0, count)]))
        for run in dice.choices(runs, k=dice.randint(0, 2 * count))
    ]
    needs = Needs(
        list(dict.fromkeys(spans)),
        archives={run: number for run, number in made.items() if run not in leaving},
        bases={run: dice.randint(1, run - 1) for run in some(0.9) - {1}
               if run not in full or dice.random() < 0.2},
        fulls={run: run if run in full else dice.randint(1, run) for run in some(0.9)},
    )  # fmt: skip
    if archives and dice.random() < 0.3:
        one = dice.choice(archives)
        needs = needs.after(int(one.run_id.removeprefix("run-")), one.id)
    snapshots = [snapshot(run, dice.choice(["success", "partial"])) for run in sorted(some(0.8))]
    return Told(
        needs, snapshots, archives,
        faults={number: f"archive {number} is missing" for number in some(0.1)},
        policy=Policy(last=dice.randint(1, count), weekly=dice.randint(0, 2)),
    )  # fmt: skip


HISTORIES = st.integers(0, 2**32).map(told)


def snapshot(seq: int, status: str = "success") -> Snapshot:
    return Snapshot(
        run_id=f"run-{seq}", job="docs", seq=seq, status=status, mode="full",
        started_at=T0 + timedelta(days=seq),
    )  # fmt: skip


def archive(seq: int, number: int, is_leaving: bool = False) -> ArchiveFacts:
    return ArchiveFacts(
        id=number, run_id=f"run-{seq}", job="docs", name=f"/b/{seq}.zip", format="zip",
        encrypted=False, size=100 + seq, members=1, is_leaving=is_leaving,
    )  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(HISTORIES, st.sets(st.integers(1, 13)), st.booleans())
def test_ranges_tell_what_sets_tell(case: Told, wanted: set[int], with_bases: bool) -> None:
    needs, seqs = case.needs, case.seqs
    sets = {seq: of(needs, seq, with_bases=with_bases) for seq in seqs}
    for seq in seqs:
        assert needs.of(seq, with_bases=with_bases) == sets[seq]
    uses = needs.uses(seqs, with_bases=with_bases)
    assert set(uses.archives) == set().union(*sets.values())
    for number in range(1, 15):
        users = [seq for seq in seqs if number in sets[seq]]
        assert list(uses.users(number)) == users
        assert uses.count(number) == len(users)
    assert uses.first_needed(wanted) == {
        seq: min(found & wanted) for seq, found in sets.items() if found & wanted
    }
    if with_bases:
        assert needs.used(wanted, seqs) == any(found & wanted for found in sets.values())


@settings(max_examples=200, deadline=None)
@given(HISTORIES)
def test_a_row_needs_what_it_needs_in_a_snapshot_of_its_own(case: Told) -> None:
    needs = case.needs
    for span in needs.spans:
        for seq in filter(span.holds, case.seqs):
            base = base_before(needs, span.first, seq)
            assert needs.of_row(span.archive, span.first, seq) == {
                span.archive,
                needs.archives.get(span.first, span.archive),
                *(of(needs, base) if base is not None else ()),
            }


@settings(max_examples=600, deadline=None)
@given(HISTORIES)
def test_a_prune_decides_what_sets_decide(case: Told) -> None:
    """With snapshots that are lost, reasons, and the chain that is consolidated."""
    snapshots, archives = case.snapshots, case.archives
    sets = sets_of(case.needs, snapshots)
    lost = find_lost(snapshots, case.needs, archives, case.faults)
    assert lost == lost_by_sets(snapshots, sets, archives, case.faults)
    now = T0 + timedelta(days=60)
    verdicts = apply_policy(snapshots, case.policy, now=now, timezone=UTC)
    held = sets_of(case.needs, snapshots, with_bases=False)
    assert find_chain(verdicts, case.needs, archives, lost) == chain_by_sets(
        verdicts, held, archives, lost
    )
    by_sets = plan_by_sets(verdicts, sets, archives)
    assert plan_prune("docs", verdicts, case.needs, archives) == by_sets


# ---- one at a time


def test_nothing_is_needed_by_no_snapshots() -> None:
    uses = Needs([Span(1, 1, None)], {1: 1}, {}, {1: 1}).uses([])
    assert not uses.archives
    assert uses.first_needed([1]) == {}


def test_ranges_of_one_archive_that_overlap_count_once() -> None:
    uses = Uses([1, 2, 3, 5, 8])
    for first, gone in ((1, 3), (2, 6), (8, None), (6, 8)):
        uses.add(7, first, gone)
    assert list(uses.users(7)) == [1, 2, 3, 5, 8]
    assert uses.count(7) == 5


def test_snapshots_that_bypass_a_consolidated_archive_keep_what_they_go_back_to() -> None:
    """Run 1 is full, 2 was consolidated, 3 and 4 are differential to 1, 5 is based on 2."""
    needs = Needs(
        spans=[Span(10, 1, 2), Span(20, 2, None), Span(30, 3, 4), Span(40, 4, None)],
        archives={1: 10, 2: 20, 3: 30, 4: 40},
        bases={3: 1, 4: 1, 5: 2},
        fulls={1: 1, 2: 2, 3: 1, 4: 1, 5: 2},
    )
    uses = needs.uses([2, 3, 4, 5])
    assert list(uses.users(10)) == [3, 4]
    assert list(needs.uses([2, 3, 4, 5], with_bases=False).users(10)) == []
    assert needs.used([10], [4])
    assert not needs.used([10], [5])


# ---- very many


def long_chain(count: int) -> tuple[Needs, list[Snapshot], list[ArchiveFacts]]:
    """Make snapshots of which each needs all archives before it."""
    runs = range(1, count + 1)
    needs = Needs(
        [Span(seq, seq, None if life is None else seq + life) for seq in runs
         for life in (2, 20, 200, None)],
        archives={seq: seq for seq in runs},
        bases={seq: seq - 1 for seq in runs[1:]},
        fulls=dict.fromkeys(runs, 1),
    )  # fmt: skip
    return needs, [snapshot(seq) for seq in runs], [archive(seq, seq) for seq in runs]


def peak_of_plan(count: int) -> int:
    needs, snapshots, archives = long_chain(count)
    policy = Policy(last=count // 2)
    verdicts = apply_policy(snapshots, policy, now=T0 + timedelta(days=count + 1), timezone=UTC)
    tracemalloc.start()
    try:
        lost = find_lost(snapshots, needs, archives, {count: "is missing"})
        assert lost == {f"run-{count}": "is missing"}
        chain = find_chain(verdicts, needs, archives, lost)
        assert chain is not None
        assert chain.snapshot.seq == count - count // 2 + 1
        plan = plan_prune("docs", verdicts, needs, archives)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not plan.remove
    others = format_count(count // 2 - 3, "other")
    assert plan.keep[-1].reasons[0].endswith(f" and {others}")
    after = plan_prune("docs", verdicts, needs.after(chain.snapshot.seq, chain.own.id), archives)
    assert len(after.remove) == len(after.delete) == count - count // 2
    return peak


def test_the_memory_of_a_plan_grows_with_snapshots_not_with_their_square() -> None:
    few, many = peak_of_plan(600), peak_of_plan(4800)
    assert many < 12 * few  # 8 times as many
    assert many < 4800 * 4000
