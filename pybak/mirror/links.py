"""Files with several names in the source: which name is copied, and which become links to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from pybak.entries import FILE
from pybak.mirror.rows import SAME, LinkedRow, LinkRow, Row


class Linking(NamedTuple):
    """Rows to copy, names to be made links, how many names are right, and their folders."""

    rows: list[Row]
    links: list[LinkRow]
    unchanged: int
    folders: set[bytes]


def resolve_links(found: Iterable[LinkedRow]) -> Linking:
    """Decide about all names of files that have more than one in the source.

    The first name whose file is right already stands for the others, else the first of all. A name
    is right if it is the same file in the target as that one, and that one is not replaced.
    """
    result = Linking([], [], 0, set())
    unchanged = 0
    ordered = sorted(found, key=lambda row: (row.inode, row.path))
    for _, group in groupby(ordered, key=lambda row: row.inode):
        names = list(group)
        first = next((row for row in names if row.what == SAME), names[0])
        if first.what == SAME:
            unchanged += 1
        else:
            result.rows.append(Row(first.path, FILE, first.what, first.size, first.seen))
        for other in _others(names, first):
            if first.what == SAME and other.there == first.there:
                unchanged += 1
            else:
                is_new = other.there == (0, 0)
                result.links.append(LinkRow(other.path, first.path, other.size, is_new))
    result.folders.update(row.path.rpartition(b"/")[0] for row in result.rows)
    result.folders.update(link.path.rpartition(b"/")[0] for link in result.links)
    return result._replace(unchanged=unchanged)


def _others(names: list[LinkedRow], first: LinkedRow) -> Iterator[LinkedRow]:
    return (row for row in names if row is not first)
