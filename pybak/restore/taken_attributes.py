"""Attributes of folders and links, taken down by batches for the last step.

In a stream they stand in the members' headers, which are read on the way; the last step would
have to unpack everything again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from pybak.formats.listing import Spot
from pybak.restore.items import Item

SUFFIX: Final = ".attributes"
"""What the files end in, beside the batches."""

_PLAIN_HEADER: Final = 512

Taken: TypeAlias = tuple[bytes, dict[bytes, bytes]]
"""A path and its attributes by name."""


def may_have_attributes(item: Item) -> bool:
    """Whether more stands before the content than one plain header, which holds no attributes."""
    member = item.member
    return isinstance(member, Spot) and member.data - member.head > _PLAIN_HEADER


def write_taken(path: Path, rows: Iterable[Taken]) -> None:
    """Write down what was taken, if anything."""
    rows = list(rows)
    if rows:
        path.write_bytes(msgspec.msgpack.encode(rows))


def read_taken(work_dir: Path) -> dict[bytes, dict[bytes, bytes]]:
    """Give what all batches took down, by path."""
    found: dict[bytes, dict[bytes, bytes]] = {}
    for path in work_dir.glob(f"*{SUFFIX}"):
        found.update(msgspec.msgpack.decode(path.read_bytes(), type=list[Taken]))
    return found
