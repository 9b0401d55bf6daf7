"""Which files of a snapshot are restored in a drill: chance decides, no archive is left out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from pybak.catalog.facts import Version
from pybak.entries import FILE, FOLDER, HARD_LINK, LINK

_CHECKABLE = frozenset({FILE, HARD_LINK, FOLDER, LINK})


def choose_sample(
    read: Callable[[], Iterable[Version]], wanted: Callable[[int], int], chance: random.Random
) -> tuple[list[Version], int]:
    """Choose members of a snapshot; give them with the number of those that they are from.

    `read` yields all members, in the same order each time; it is called twice, so that they need
    not be held. `wanted` gives how many of so many files are taken. From each archive comes at
    least one: a file, or if it has none in this snapshot, a folder or a link, which then is all
    that counts of it.
    """
    files: Counter[int] = Counter()
    others: Counter[int] = Counter()
    for version in _checkable(read()):
        (files if version.kind == FILE else others)[version.archive_id] += 1
    total = sum(files.values())
    numbers = set(chance.sample(range(total), wanted(total))) if total else set()
    # Which one of an archive is taken if the numbers hit none of its own.
    spare = {archive: chance.randrange(count) for archive, count in sorted(files.items())}
    spare_others = {
        archive: chance.randrange(count)
        for archive, count in sorted(others.items())
        if archive not in files
    }
    chosen: list[Version] = []
    spares: dict[int, Version] = {}
    seen: Counter[int] = Counter()
    number = 0
    for version in _checkable(read()):
        archive = version.archive_id
        is_file = version.kind == FILE
        if is_file:
            if number in numbers:
                chosen.append(version)
            number += 1
        if is_file or archive in spare_others:
            if seen[archive] == (spare if is_file else spare_others)[archive]:
                spares[archive] = version
            seen[archive] += 1
    met = {version.archive_id for version in chosen}
    chosen += [version for archive, version in spares.items() if archive not in met]
    return chosen, total + len(spare_others)


def _checkable(versions: Iterable[Version]) -> Iterator[Version]:
    return (version for version in versions if version.kind in _CHECKABLE)
