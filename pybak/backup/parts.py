"""Large files cut into parts that are compressed side by side; of sparse ones only their data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from pybak.backup.open_entry import is_same
from pybak.backup.read_source import open_source, state_of
from pybak.entries import Entry
from pybak.errors import SourceError
from pybak.formats.sparse import Run, cut_runs, data_runs, data_size, may_have_holes

PART_BYTES: Final = 32 << 20
"""A file larger than this is cut into parts of this size, compressed side by side."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A share of one large file: the `number`th of `count`, from 0, and what of it to read.

    `runs` are offsets and lengths; there is more than one only in a sparse file. `total` counts
    the bytes of all parts, and `data_map` is all of a sparse file's data, in its first part.
    """

    number: int
    count: int
    runs: list[Run]
    total: int
    data_map: list[Run] | None = None

    @property
    def length(self) -> int:
        """Bytes to read."""
        return data_size(self.runs)


class Large(NamedTuple):
    """A file to be cut into parts; `data_map` if it is sparse."""

    entry: Entry
    data_map: list[Run] | None


def with_holes(path: bytes, entry: Entry) -> Large:
    """Look where a large file has data; give it with what it is like at that moment.

    Another file in its place is left for those who read it.
    """
    try:
        fd, status = open_source(path)
    except SourceError:
        return Large(entry, None)
    try:
        runs = data_runs(fd, status.st_size) if may_have_holes(status) else None
    finally:
        os.close(fd)
    if runs is None or not is_same(entry, status):
        return Large(entry, None)
    state = state_of(status)
    seen = msgspec.structs.replace(
        entry, size=state.size, mtime_ns=state.mtime_ns, ctime_ns=state.ctime_ns
    )
    return Large(seen, runs)


def cut_parts(
    size: int, data_map: list[Run] | None = None, *, count: int | None = None
) -> Iterator[Part]:
    """Cut a file of `size` bytes, or the data of a sparse one, into parts of nearly one length.

    The number of parts is what PART_BYTES asks for, or `count`; then some may be empty.
    """
    runs = [(0, size)] if data_map is None else data_map
    total = data_size(runs)
    wanted = count or -(-total // PART_BYTES)
    groups = list(cut_runs(runs, max(1, -(-total // wanted))))
    groups += [[] for _ in range(wanted - len(groups))]
    for number, group in enumerate(groups):
        yield Part(number, wanted, group, total, data_map if number == 0 else None)
