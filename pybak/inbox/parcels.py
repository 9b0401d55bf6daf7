"""Parcels: a round's files in order, cut into shares of about the same work for workers.

Parcels and what became of their files are small files in the staging folder: neither passes through
Prefect or Dask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from pybak.inbox.encode import Recipe
from pybak.inbox.found import Found

MADE: Final = "made"
DUPLICATE: Final = "duplicate"
WAITING: Final = "waiting"
SKIPPED: Final = "skipped"
FAILED: Final = "failed"

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

_ROOM: Final = 400
"""More bytes than an outcome usually has."""


class Item(msgspec.Struct, frozen=True, array_like=True):
    """A file to pack: its row in the catalog, what it looked like, its name in a wrapper.

    `anew` says that it is packed whatever its digest is.
    """

    row: int
    found: Found
    inner: bytes
    anew: bool = False


class Parcel(msgspec.Struct, frozen=True, array_like=True):
    """The files that one call takes, in order.

    `known` are the digests of what was stored before, by the size it had in the inbox: a file with
    one of these is not packed. One that changed after `quiet_since_ns` is left if nobody can tell
    whether it is being written.
    """

    number: int
    source: bytes
    recipe: Recipe
    encrypted: bool
    items: list[Item]
    known: dict[int, tuple[str, ...]]
    quiet_since_ns: int

    @property
    def size(self) -> int:
        """How many bytes are to be read."""
        return sum(item.found.size for item in self.items)


class Outcome(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What became of one file: MADE with all digests, DUPLICATE with its own, or why not."""

    row: int
    status: str
    sha256: str = ""
    stored_size: int = 0
    stored_sha256: str = ""
    code: str = ""
    message: str = ""


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


def parcel_path(staging: Path, number: int) -> Path:
    """Give where a parcel lies."""
    return staging / f"{number:04d}.parcel"


def made_path(staging: Path, row: int) -> Path:
    """Give where a packed file lies until it is stored."""
    return staging / f"{row}.made"


def write_parcel(staging: Path, parcel: Parcel) -> None:
    """Leave a parcel for its worker, and room for what it gives back. Raises OSError."""
    parcel_path(staging, parcel.number).write_bytes(msgspec.msgpack.encode(parcel))
    # The files may fill the disk; what became of them must still be told.
    _room_path(staging, parcel.number).write_bytes(bytes(_ROOM * (len(parcel.items) + 1)))


def read_parcel(staging: Path, number: int) -> Parcel:
    """Read a parcel. Raises OSError."""
    return msgspec.msgpack.decode(parcel_path(staging, number).read_bytes(), type=Parcel)


def _outcomes_path(staging: Path, number: int) -> Path:
    return staging / f"{number:04d}.outcomes"


def _room_path(staging: Path, number: int) -> Path:
    return staging / f"{number:04d}.room"


def write_outcomes(staging: Path, number: int, outcomes: Sequence[Outcome]) -> None:
    """Leave what became of a parcel's files. Raises OSError."""
    room = _room_path(staging, number)
    with room.open("r+b") as file:
        file.write(msgspec.msgpack.encode(outcomes))
        file.truncate()
    room.rename(_outcomes_path(staging, number))


def read_outcomes(staging: Path, number: int) -> list[Outcome]:
    """Read what became of a parcel's files; none if the worker left nothing."""
    try:
        data = _outcomes_path(staging, number).read_bytes()
    except FileNotFoundError:
        return []
    return msgspec.msgpack.decode(data, type=list[Outcome])
