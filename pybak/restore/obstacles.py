"""What a target can't take: names it takes for one, the files of the archives themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Set

from pybak.casing import ignores_case
from pybak.display import printable
from pybak.problems import STORAGE, Problem
from pybak.restore.items import Folder, Item
from pybak.restore.names import folded


def is_possible(
    item: Item,
    clashing: dict[bytes, bytes],
    own_names: Set[bytes],
    problems: list[Problem],
) -> bool:
    """Whether a member can be written; else adds a problem that says why not."""
    if item.path in clashing:
        problems.append(case_problem(item.path, clashing[item.path]))
        return False
    if is_own(item.path, own_names):
        problems.append(own_problem(item.path))
        return False
    return True


def is_own(path: bytes, own_names: Set[bytes]) -> bool:
    """Whether a path is one of the archive's own files, or would lie below one."""
    while own_names and path:
        if path in own_names:
            return True
        path = path.rpartition(b"/")[0]
    return False


def own_problem(path: bytes) -> Problem:
    """Say that a member can't be written for the sake of the archive."""
    message = "would replace the archive that is being restored"
    return Problem(os.fsdecode(path), STORAGE, message)


def name_below(archive: bytes, target: bytes) -> bytes | None:
    """Give the archive's own path below the target, or None if it lies elsewhere."""
    path = os.path.realpath(archive)
    prefix = target if target.endswith(b"/") else target + b"/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def case_problem(path: bytes, other: bytes) -> Problem:
    """Say that the target takes two names for one."""
    message = f"differs only by case from {printable(other)}, which the target can't tell apart"
    return Problem(os.fsdecode(path), STORAGE, message)


def same_but_for_case(
    rows: Iterable[Sequence[Item | Folder]], target: bytes, *, may_write: bool
) -> dict[bytes, bytes]:
    """Give the paths that the target would take for another path, with that path.

    Of two such paths the one that comes first in `rows` stays.
    """
    seen: dict[str, bytes] = {}
    clashing: dict[bytes, bytes] = {}
    for part in rows:
        for row in part:
            other = seen.setdefault(folded(row.path), row.path)
            if other is not row.path:
                clashing[row.path] = other
    return clashing if clashing and ignores_case(target, may_write=may_write) else {}
