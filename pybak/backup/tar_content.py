"""The content of a file on its way into a tar archive: as long as its header promised, always."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pybak.backup.read_source import Read, filling, look_again, state_of
from pybak.backup.tar_entries import attributes_of
from pybak.formats.sparse import Run, data_runs, data_size, may_have_holes
from pybak.formats.tar_records import sparse_map_block

Space = Callable[[int], memoryview]
"""Gives the place for the next so many bytes."""
READ_BYTES = 1 << 20


class Content:
    """An open file's content: always as many bytes as its status promised.

    `size` counts the bytes in the archive, `got` those that were read; the rest are zeros.
    """

    def __init__(self, fd: int, status: os.stat_result, read: Read) -> None:
        self.status = status
        self.real_size: int = status.st_size
        self.attributes = attributes_of(fd)
        self.data_map = data_runs(fd, self.real_size) if may_have_holes(status) else None
        self._runs = [(0, self.real_size)] if self.data_map is None else self.data_map
        self.size = data_size(self._runs)
        if self.data_map is not None:
            self.map_block = sparse_map_block(self.data_map, self.real_size)
        else:
            self.map_block = b""
        self.got = 0
        self._fd = fd
        self._read = read
        self._sha = hashlib.sha256()

    def blocks(self, space: Space) -> Iterator[memoryview]:
        """Yield the data in blocks, each where `space` said. Raises SourceError (io_error)."""
        for block in exactly(self._fd, self._runs, self._read, space):
            self._sha.update(block.data)
            self.got += block.got
            yield block.data

    def has_changed(self) -> bool:
        """Whether the file moved while it was read."""
        return self.got < self.size or state_of(look_again(self._fd)) != state_of(self.status)

    def sha256(self) -> str:
        """Give the digest of the data, without the map."""
        return self._sha.hexdigest()


class _Block(NamedTuple):
    data: memoryview
    got: int


def exactly(fd: int, runs: Sequence[Run], read: Read, space: Space) -> Iterator[_Block]:
    """Yield all bytes of `runs`; where the file ends early, zeros. Raises SourceError.

    Each block is where `space` said, which is asked for a block at a time.
    """
    fill = filling(read)
    for start, length in runs:
        at, left, ended = start, length, False
        while left:
            block = space(min(left, READ_BYTES))
            got = 0 if ended else fill(fd, block, at)
            if got < len(block):
                ended = True
                block[got:] = bytes(len(block) - got)
            yield _Block(block, got)
            at += len(block)
            left -= len(block)
