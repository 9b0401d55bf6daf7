"""What a worker of an inbox is handed and what it gives back: small files in the staging folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from pybak.inbox.encode import Recipe
from pybak.inbox.scan import Found

MADE: Final = "made"
DUPLICATE: Final = "duplicate"
WAITING: Final = "waiting"
SKIPPED: Final = "skipped"
FAILED: Final = "failed"

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
