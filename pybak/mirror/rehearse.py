"""What a plan would do, by name, for people who ask before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from pybak.mirror.plan import MirrorPlan, folders_of, links_of, surplus_of
from pybak.mirror.rows import LOOKS, NEW, UPDATE, hand_of, read_batch

NAMED: Final = 1000
"""How many names are kept; the counts are of all."""

COPY: Final = "copy"
REPLACE: Final = "replace"
METADATA: Final = "set metadata of"
LINK: Final = "link"
MAKE: Final = "make"
_DOING: Final = {NEW: COPY, UPDATE: REPLACE, LOOKS: METADATA}


class Wishes(NamedTuple):
    """Counts, and what would be done to which path; folders end in a slash."""

    copied: int
    updated: int
    looks: int
    deleted: int
    folders_deleted: int
    names: tuple[tuple[str, str], ...]


def wishes_of(plan: MirrorPlan) -> Wishes:
    """Count what a plan would do; name the first of each kind."""
    counts = dict.fromkeys((COPY, REPLACE, METADATA, LINK, MAKE), 0)
    names: list[tuple[str, str]] = []
    for what, path in _all(plan):
        counts[what] += 1
        if counts[what] <= NAMED:
            names.append((what, os.fsdecode(path)))
    links = links_of(plan)
    new = sum(row.is_new for row in links)
    surplus = surplus_of(plan)
    folders = sum(row.is_folder for row in surplus)
    return Wishes(
        counts[COPY] + new, counts[REPLACE] + len(links) - new, counts[METADATA],
        len(surplus) - folders, folders, tuple(sorted(names, key=lambda one: one[1])),
    )  # fmt: skip


def _all(plan: MirrorPlan) -> Iterator[tuple[str, bytes]]:
    for row in folders_of(plan):
        if row.is_new and row.path:
            yield MAKE, row.path + b"/"
    for batch in (*(one for hand in plan.hands for one in hand_of(hand)), *plan.late):
        for one in read_batch(batch):
            yield _DOING[one.what], one.path
    for link in links_of(plan):
        yield LINK, link.path
