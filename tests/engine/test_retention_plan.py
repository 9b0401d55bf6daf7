"""What a prune decides from verdicts and from what snapshots need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybak.catalog.facts import ArchiveFacts, Snapshot
from pybak.catalog.needs import Needs, Span
from pybak.retention.plan import JobPlan, plan_prune
from pybak.retention.policy import NO_RULE, Verdict


def snapshot(seq: int) -> Snapshot:
    return Snapshot(
        run_id=f"run-{seq}", job="docs", seq=seq, status="success", mode="full",
        started_at=datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=seq),
    )  # fmt: skip


def archive(seq: int, *, is_leaving: bool = False) -> ArchiveFacts:
    """Make the archive of run `seq`; its number is ten times that."""
    return ArchiveFacts(
        id=seq * 10, run_id=f"run-{seq}", job="docs", name=f"/b/{seq}.zip", format="zip",
        encrypted=False, size=100 + seq, members=1, is_leaving=is_leaving,
    )  # fmt: skip


def plan(
    needs: Mapping[int, Sequence[int]], keep: Sequence[int], archives: Sequence[ArchiveFacts]
) -> JobPlan:
    """Plan with snapshots and the runs whose archives they need, of which some are kept."""
    verdicts = [
        Verdict(snapshot(seq), keep=seq in keep, reasons=("kept",) if seq in keep else (NO_RULE,))
        for seq in sorted(needs, reverse=True)
    ]
    spans = [Span(number * 10, seq, seq + 1) for seq, of in needs.items() for number in of]
    told = Needs(spans, archives={}, bases={}, fulls={})
    return plan_prune("docs", verdicts, told, archives)


def outcome(made: JobPlan) -> tuple[list[int], list[int], list[int]]:
    return (
        [entry.snapshot.seq for entry in made.keep],
        [entry.snapshot.seq for entry in made.remove],
        [one.id // 10 for one in made.delete],
    )


ALL = [archive(seq) for seq in range(1, 6)]


def test_full_archives_go_with_their_snapshots() -> None:
    made = plan({1: [1], 2: [2], 3: [3], 4: [4], 5: [5]}, [5, 3], ALL)
    assert outcome(made) == ([5, 3], [4, 2, 1], [1, 2, 4])
    assert made.size == 101 + 102 + 104
    assert not any(entry.archive_stays for entry in made.remove)


def test_an_archive_that_a_kept_snapshot_needs_stays_and_says_for_whom() -> None:
    """(case 109)"""
    made = plan({1: [1], 2: [1, 2], 3: [1, 3], 4: [1, 4], 5: [5]}, [5, 4, 3], ALL)
    assert outcome(made) == ([5, 4, 3, 1], [2], [2])
    assert made.keep[-1].reasons == ("needed by runs 3, 4",)


def test_many_are_not_all_named() -> None:
    needs = {seq: [1, seq] for seq in range(1, 10)}
    made = plan(needs, range(2, 10), [archive(seq) for seq in range(1, 10)])
    assert made.keep[-1].reasons == ("needed by runs 2, 3, 4 and 5 others",)


def test_a_snapshot_that_lacks_another_goes_and_leaves_its_archive() -> None:
    """Run 3 holds one file for run 4; another of its files came from run 2, and changed since."""
    made = plan({1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [1, 3, 4]}, [4], ALL[:4])
    assert outcome(made) == ([4, 1], [3, 2], [2])
    third, second = made.remove
    assert third.archive_stays
    assert third.reasons == (NO_RULE, "its archive stays: needed by run 4")
    assert not second.archive_stays


def test_a_kept_run_keeps_its_own_archive_though_nothing_in_it_is_left() -> None:
    """An archive that tells of deletions only is what the catalog would be rebuilt from."""
    made = plan({1: [1], 2: [1]}, [2], ALL[:2])
    assert outcome(made) == ([2, 1], [], [])


def test_what_earlier_prunes_had_to_leave_goes_when_nothing_needs_it() -> None:
    made = plan({3: [3], 4: [1, 4], 5: [5]}, [5], ALL)
    assert outcome(made) == ([5], [4, 3], [1, 2, 3, 4])


def test_what_is_leaving_already_is_finished_and_never_counted_on() -> None:
    archives = [archive(1, is_leaving=True), *ALL[1:3]]
    made = plan({2: [2], 3: [3]}, [3], archives)
    assert [one.id for one in made.unfinished] == [10]
    assert outcome(made) == ([3], [2], [2])


def test_what_cant_be_deleted_is_left_out() -> None:
    made = plan({1: [1], 2: [2], 3: [3]}, [3], ALL[:3]).sparing([10])
    assert outcome(made) == ([3], [2, 1], [2])
    assert [entry.archive_stays for entry in made.remove] == [False, True]


@pytest.mark.parametrize("keep", [[3], []])
def test_a_snapshot_without_an_archive_is_judged_like_any(keep: Sequence[int]) -> None:
    made = plan({2: [], 3: [3]}, keep, [archive(3)])
    assert outcome(made) == ((keep, [2], []) if keep else ([], [3, 2], [3]))


@given(st.data())
def test_every_kept_snapshot_has_all_its_archives_and_nothing_else_is_left(
    data: st.DataObject,
) -> None:
    count = data.draw(st.integers(1, 12))
    needs = {
        seq: [*data.draw(st.lists(st.integers(1, seq), max_size=5, unique=True)), seq]
        for seq in range(1, count + 1)
    }
    keep = data.draw(st.sets(st.sampled_from(sorted(needs)), min_size=1))
    made = plan(needs, sorted(keep), [archive(seq) for seq in needs])
    deleted = {one.id // 10 for one in made.delete}
    for entry in made.keep:
        assert not deleted & set(needs[entry.snapshot.seq])
    kept = {entry.snapshot.seq for entry in made.keep}
    assert keep <= kept
    assert kept.isdisjoint(entry.snapshot.seq for entry in made.remove)
    # No more stays than the policy asks for.
    assert set(needs) - deleted == {one for seq in keep for one in needs[seq]}
