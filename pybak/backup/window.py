"""Bounded staging: which batches may be compressed now, so that sending can keep up.

The assembler says below which number batches may be begun: so many that what they can come to fits
into the staging folder besides what waits to be sent. Workers wait before a batch beyond. The
number stands in a small file, so that it reaches workers in other processes.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pybak import staging
from pybak.backup.batches import Batch, Job, read_batch
from pybak.errors import Interrupted

_NUMBER: Final = struct.Struct("<Q")
_POLL_SECONDS: Final = 0.02
_A_FILE: Final = 1 << 10
"""What headers, checksums and the like of a member come to."""
_SPARE: Final = 1.01  # what does not compress grows a little


def _path(folder: Path) -> Path:
    return folder / "window"


def most_bytes(batch: Batch) -> int:
    """Give how many bytes a batch's segment can have, unless its files grow meanwhile."""
    content = sum(entry.size for entry in batch.entries)
    if batch.part is not None:
        content = batch.part.length
    return int(content * _SPARE) + _A_FILE * len(batch.entries)


class Window:
    """Opens as far as `limit_bytes` go. Used by the assembler's thread alone.

    Batches from `last` on don't wait. `staged` tells the bytes that were taken over and are not
    sent, `will_shrink` whether they become fewer by themselves.
    """

    def __init__(
        self,
        folder: Path,
        job: Job,
        limit_bytes: int,
        *,
        last: int,
        staged: Callable[[], int],
        will_shrink: Callable[[], bool],
    ) -> None:
        self._folder = folder
        self._job = job
        self._limit = limit_bytes
        self._last = last
        self._staged = staged
        self._will_shrink = will_shrink
        self._next = 0  # the batch that is wanted next
        self._open_to = 0
        self._sizes: dict[int, int] = {}  # of the batches from `_next` to `_open_to`
        self._total = 0
        self._fd = os.open(_path(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.pwrite(self._fd, _NUMBER.pack(0), 0)

    def update(self, wanted: int) -> None:
        """Say which batch is wanted next, and open as far as there is room.

        That one is let in even beyond the limit if nothing would make room for it.
        """
        while self._next < wanted:
            self._total -= self._sizes.pop(self._next, 0)
            self._next += 1
        self._open_to = max(self._open_to, wanted)
        before = self._open_to
        while self._open_to < self._last:
            size = most_bytes(read_batch(self._folder, self._open_to, self._job.parts))
            fits = self._staged() + self._total + size <= self._limit
            if not fits and (self._total or self._will_shrink()):
                break
            self._sizes[self._open_to] = size
            self._total += size
            self._open_to += 1
        if self._open_to != before or not wanted:
            os.pwrite(self._fd, _NUMBER.pack(self._open_to), 0)

    def has_no_room(self, batch: Batch) -> bool:
        """Whether a batch that is not counted must wait until more is sent."""
        return self._will_shrink() and self._staged() + most_bytes(batch) > self._limit

    @property
    def is_shut(self) -> bool:
        """Whether batches wait."""
        return self._open_to < self._last

    def close(self) -> None:
        """Let everybody go on."""
        if self._fd >= 0:
            os.pwrite(self._fd, _NUMBER.pack(1 << 62), 0)
            os.close(self._fd)
            self._fd = -1


def wait_for_room(folder: Path, number: int) -> None:
    """Wait until a batch may be compressed; at once where staging is not bounded.

    Raises Interrupted once a cancel was requested.
    """
    try:
        fd = os.open(_path(folder), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        while _NUMBER.unpack(os.pread(fd, _NUMBER.size, 0))[0] <= number:
            if staging.is_cancelled(folder):
                raise Interrupted("stopped on request")
            time.sleep(_POLL_SECONDS)
    finally:
        os.close(fd)
