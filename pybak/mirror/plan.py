"""Decide what a comparison comes to: who copies what, which names become links, what may go."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from pybak.mirror.limit import MaxDelete
from pybak.mirror.links import resolve_links
from pybak.mirror.rows import (
    FILE_COST,
    Batch,
    BatchWriter,
    FolderRow,
    LinkedRow,
    LinkRow,
    SurplusRow,
    read_rows,
    write_rows,
)
from pybak.mirror.walk import Comparison
from pybak.problems import DELETE_LIMIT, Problem
from pybak.units import format_count

_ROWS: Final = 300


class MirrorPlan(msgspec.Struct, kw_only=True):
    """What is to be done. `hands` are files of batches, one a task, the most expensive first.

    `folders` and `surplus` name files of rows; `late` is done after deleting. `deletes` tells how
    many entries go; it is 0 where they may not, and then `refused` is how many.
    """

    hands: list[Path]
    links: str | None = None
    late: list[Batch] = []
    folders: str
    surplus: list[str] = []
    deletes: int = 0
    refused: int = 0
    temporaries: list[bytes] = []
    files: int = 0
    size: int = 0
    unchanged: int = 0
    folders_made: int = 0
    is_nothing: bool = False
    problems: list[Problem] = []


def plan_mirror(
    comparison: Comparison, work_dir: Path, *, tasks: int, limit: MaxDelete, may_empty: bool
) -> MirrorPlan:
    """Make the plan of a comparison; write the files of its tasks.

    `may_empty` tells that the target may lose all that it holds.
    """
    total = comparison.total
    linking = resolve_links(read_rows(total.linked, LinkedRow))
    batches = list(total.batches)
    writer = BatchWriter(work_dir / "linked.batches")
    batches += (
        writer.add(linking.rows[at : at + _ROWS]) for at in range(0, len(linking.rows), _ROWS)
    )
    deletes = refused = 0
    problems: list[Problem] = []
    if total.surplus_count:
        why = _why_not(comparison, limit, may_empty=may_empty)
        deletes, refused = (0, total.surplus_count) if why else (total.surplus_count, 0)
        if why:
            problems.append(not_deleted(why))
    folders = _folders(total.folders, linking.folders)
    surplus = total.surplus if deletes else []
    links = linking.links
    counted = [*batches, *total.late]
    return MirrorPlan(
        hands=_deal(batches, work_dir, tasks),
        links=write_rows(work_dir / "links", links) if links else None,
        late=total.late,
        folders=write_rows(work_dir / "folders", folders),
        surplus=surplus,
        deletes=deletes,
        refused=refused,
        temporaries=total.temporaries,
        files=sum(batch.files for batch in counted) + len(links),
        size=sum(batch.size for batch in counted),
        unchanged=total.tally.unchanged + linking.unchanged,
        folders_made=sum(row.is_new and bool(row.path) for row in folders),
        is_nothing=not (counted or links or folders or deletes or total.temporaries),
        problems=problems,
    )


def _why_not(comparison: Comparison, limit: MaxDelete, *, may_empty: bool) -> str:
    """Say why nothing may be deleted; nothing if it may."""
    count, tally = comparison.total.surplus_count, comparison.tally
    if tally.unlisted or tally.failed:
        return "not all could be looked at; see what failed, or leave it out with --exclude"
    replaced = sum(batch.files for batch in comparison.total.late)
    is_all = count - replaced >= tally.there and not may_empty
    most = limit.of(tally.there, is_all=is_all)
    if count <= most:
        return ""
    gone = format_count(count, "entry", "entries")
    return (
        f"{gone} of {tally.there} in the destination are not in the source, more than "
        f"--max-delete {limit.text} allows ({most}); look whether the source is complete, then "
        "allow more"
    )


def not_deleted(why: str, what: str = "nothing") -> Problem:
    """Tell that nothing was deleted though something was to be."""
    return Problem("", DELETE_LIMIT, f"{what} was deleted: {why}")


def _folders(files: Sequence[str], touched: set[bytes]) -> list[FolderRow]:
    """Give the folders to be completed, each once, a folder before what is in it."""
    rows = {row.path: row for row in read_rows(files, FolderRow)}
    for path in touched:
        known = rows.get(path, FolderRow(path, False, False, True))
        rows[path] = msgspec.structs.replace(known, is_needed=True)
    kept: list[FolderRow] = []
    needed: set[bytes] = set()
    # The deepest first, as a folder sorts before what lies in it.
    for path in sorted(rows, reverse=True):
        if rows[path].is_needed or path in needed:
            kept.append(rows[path])
            needed.add(path.rpartition(b"/")[0])
    return kept[::-1]


def _deal(batches: Sequence[Batch], work_dir: Path, tasks: int) -> list[Path]:
    """Deal the batches out to at most `tasks` hands of about the same cost."""
    if not batches:
        return []
    hands: list[list[Batch]] = [[] for _ in range(min(tasks, len(batches)))]
    heap = [(0, number) for number in range(len(hands))]
    for batch in sorted(batches, key=_cost, reverse=True):
        done, number = heap[0]
        hands[number].append(batch)
        heapq.heapreplace(heap, (done + _cost(batch), number))
    hands.sort(key=lambda hand: -sum(map(_cost, hand)))
    for hand in hands:
        # Neighbours in the tree one after the other.
        hand.sort(key=lambda batch: (batch.file, batch.offset))
    return [
        Path(write_rows(work_dir / f"hand-{number:04d}", hand)) for number, hand in enumerate(hands)
    ]


def _cost(batch: Batch) -> int:
    return batch.size + batch.files * FILE_COST


def surplus_of(plan: MirrorPlan) -> list[SurplusRow]:
    """Read what goes; a folder after all that is in it."""
    return read_rows(plan.surplus, SurplusRow)


def links_of(plan: MirrorPlan) -> list[LinkRow]:
    """Read which names become links."""
    return read_rows([plan.links] if plan.links else [], LinkRow)


def folders_of(plan: MirrorPlan) -> list[FolderRow]:
    """Read the folders to be made and completed, a folder before what is in it."""
    return read_rows([plan.folders], FolderRow)
