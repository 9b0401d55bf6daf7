"""Folders below a target, reached component by component without ever following a link.

Every step is an `openat` with O_NOFOLLOW and O_DIRECTORY from the folder above, so that neither a
link that was there before nor one that appears meanwhile can lead outside. Paths longer than
PATH_MAX work as well.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from types import TracebackType
from typing import Final, Self

_CAPACITY: Final = 128
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folders:
    """Open folders below `target` by path; keeps at most `capacity` of them. A context manager.

    Raises OSError if the target can't be opened. The target itself may be reached through links:
    the person who named it chose them. With `inode`, device and inode, it must be that folder.
    """

    def __init__(
        self, target: bytes, *, capacity: int = _CAPACITY, inode: tuple[int, int] | None = None
    ) -> None:
        self._root = os.open(target, _SEARCH & ~os.O_NOFOLLOW)
        status = os.fstat(self._root)
        if inode is not None and (status.st_dev, status.st_ino) != inode:
            os.close(self._root)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        self._capacity = capacity
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._last: tuple[bytes, int] = (b"", self._root)

    def fd(self, path: bytes) -> int:
        """Give a descriptor of the folder `path`, good until the next call.

        Raises OSError: NotADirectoryError where a link or a file stands in its way.
        """
        last, fd = self._last
        if path == last:
            return fd
        if not path:
            return self._root
        found = self._open.get(path)
        if found is None:
            found = self._descend(path)
        else:
            self._open.move_to_end(path)
        self._last = (path, found)
        return found

    def _descend(self, path: bytes) -> int:
        missing: list[bytes] = []
        above = path
        fd: int | None = None
        while above and (fd := self._open.get(above)) is None:
            missing.append(above)
            above = above.rpartition(b"/")[0]
        if fd is None:
            fd = self._root
        else:
            self._open.move_to_end(above)
        for folder in reversed(missing):
            fd = os.open(folder[folder.rfind(b"/") + 1 :], _SEARCH, dir_fd=fd)
            self._open[folder] = fd
            if len(self._open) > self._capacity:
                self._last = (b"", self._root)
                os.close(self._open.popitem(last=False)[1])
        return fd

    def refresh(self) -> None:
        """Close all but the target, so that the next ones are reached anew."""
        self._last = (b"", self._root)
        while self._open:
            os.close(self._open.popitem()[1])

    def forget(self, path: bytes) -> None:
        """Close the folder `path` if it is open, because it is about to go away."""
        self._last = (b"", self._root)
        fd = self._open.pop(path, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Close them all."""
        self.refresh()
        os.close(self._root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
