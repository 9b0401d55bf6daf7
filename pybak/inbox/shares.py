"""Cut a round's files, in order, into parcels for workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pybak.inbox.encode import Recipe
from pybak.inbox.parcels import Item, Parcel

ALONE_BYTES: Final = 32 << 20
"""A file of this size is packed by every core at once."""
_A_WORKER: Final = 4
_SECONDS_A_FILE: Final = 0.6e-3
"""Opening, making, reading back and syncing a small file."""
_AES_SECONDS_A_FILE: Final = 1.5e-3
"""Two keys are derived: one to encrypt, one to read back."""
_SECONDS_A_BYTE: Final = {1: 7e-9, 2: 7e-9, 3: 9e-9, 4: 13e-9, 5: 15e-9, 6: 19e-9, 7: 23e-9,
                          8: 37e-9, 9: 49e-9}  # fmt: skip
_SLOW: Final = {"tar.bz2": 100e-9}
_ZSTD_SLOW: Final = {7: 45e-9, 8: 125e-9, 9: 305e-9}
_LEAST_SECONDS: Final = 0.2


def seconds(files: int, size_bytes: int, recipe: Recipe, *, encrypted: bool) -> float:
    """Give about how long one core takes to pack and check so much."""
    a_byte = _SLOW.get(recipe.format) or _SECONDS_A_BYTE[recipe.level]
    if recipe.format == "tar.zst":
        a_byte = _ZSTD_SLOW.get(recipe.level, a_byte)
    a_file = _SECONDS_A_FILE + (_AES_SECONDS_A_FILE if encrypted else 0)
    return files * a_file + size_bytes * a_byte


def cut(
    items: Sequence[Item],
    *,
    source: bytes,
    recipe: Recipe,
    encrypted: bool,
    first: int,
    known: Mapping[int, tuple[str, ...]],
    quiet_since_ns: int,
) -> list[Parcel]:
    """Cut items into parcels numbered from `first`; `recipe.workers` says how many there are.

    The order stays, so that of equal files the first is found first.
    """
    workers = recipe.workers
    total = seconds(len(items), sum(item.found.size for item in items), recipe, encrypted=encrypted)
    share = max(total / (workers * _A_WORKER), _LEAST_SECONDS)
    one = Recipe(recipe.format, recipe.level, 1)
    return [
        Parcel(
            number, source, recipe if _is_alone(group) else one, encrypted, group,
            _of_sizes(known, group), quiet_since_ns,
        )
        for number, group in enumerate(_groups(items, share, recipe, encrypted), first)
    ]  # fmt: skip


def _of_sizes(
    known: Mapping[int, tuple[str, ...]], items: Sequence[Item]
) -> dict[int, tuple[str, ...]]:
    sizes = {item.found.size for item in items if not item.anew}
    return {size: known[size] for size in sizes if size in known}


def _is_alone(group: Sequence[Item]) -> bool:
    return len(group) == 1 and group[0].found.size >= ALONE_BYTES


def _groups(
    items: Sequence[Item], share: float, recipe: Recipe, encrypted: bool
) -> Iterator[list[Item]]:
    group: list[Item] = []
    weight = 0.0
    for item in items:
        if item.found.size >= ALONE_BYTES:
            if group:
                yield group
            yield [item]
            group, weight = [], 0.0
            continue
        group.append(item)
        weight += seconds(1, item.found.size, recipe, encrypted=encrypted)
        if weight >= share:
            yield group
            group, weight = [], 0.0
    if group:
        yield group
