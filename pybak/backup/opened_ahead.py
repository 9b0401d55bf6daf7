"""The small files of a batch, opened some places before their turn.

The system fetches what of them is not in memory while others are compressed, many at a time, where
one after the other would be waited for. What becomes of a file between that and its turn is seen as
any change during a read is: its status is of the moment when it was opened.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from pybak.backup.read_source import SmallFile, open_small
from pybak.resources import most_open_files

AHEAD: Final = 32
"""Files that are open at once for one batch, at most."""

_SHARE: Final = 4
"""All batches of a process have this part of the files that it may open; its threads share them."""

_FETCHED_BYTES: Final = 256 << 10
"""Of larger files the system fetches the rest ahead by itself, when it is read."""
_HAS_ADVICE: Final = hasattr(os, "posix_fadvise")


_at_work: Final[set[OpenedAhead]] = set()


class OpenedAhead:
    """Files that will be asked for in this order; some may be left out. To be closed."""

    def __init__(self, paths: Iterable[bytes], limit: int) -> None:
        """Open none yet. `limit` is as for `open_small`."""
        self._paths = iter(paths)
        self._limit = limit
        self._waiting: deque[tuple[bytes, SmallFile | None]] = deque()
        self._allowed = most_open_files()
        _at_work.add(self)

    def open(self, path: bytes) -> SmallFile | None:
        """Give a file as `open_small` does; the caller closes it."""
        waiting = self._waiting
        self._open_next(self._most() - len(waiting))
        if waiting and waiting[0][0] == path:
            return waiting.popleft()[1]
        return self._out_of_turn(path)

    def _most(self) -> int:
        if self._allowed is None:
            return AHEAD
        return max(1, min(AHEAD, self._allowed // _SHARE // len(_at_work)))

    def _open_next(self, count: int) -> None:
        for path in islice(self._paths, max(count, 0)):
            found = open_small(path, self._limit)
            if found is not None and _HAS_ADVICE:
                _fetch(found.fd, found.status.st_size)
            self._waiting.append((path, found))

    def _out_of_turn(self, path: bytes) -> SmallFile | None:
        if all(path != other for other, _ in self._waiting):
            return open_small(path, self._limit)
        while self._waiting[0][0] != path:
            _close(self._waiting.popleft()[1])
        return self._waiting.popleft()[1]

    def close(self) -> None:
        """Close what nobody asked for; fine the second time."""
        _at_work.discard(self)
        while self._waiting:
            _close(self._waiting.popleft()[1])


def _fetch(fd: int, size: int) -> None:
    """Have the system fetch the start of a file, without waiting for it."""
    try:
        os.posix_fadvise(fd, 0, min(size, _FETCHED_BYTES), os.POSIX_FADV_WILLNEED)
    except OSError:  # a file system that takes no advice
        return


def _close(found: SmallFile | None) -> None:
    if found is not None:
        os.close(found.fd)
