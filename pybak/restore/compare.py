"""Whether a file on disk holds what a member of an archive does."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final

from pybak.errors import ArchiveError, StorageError
from pybak.formats.archive import ONE_SHOT, Archive
from pybak.restore.items import Item

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def is_same_content(
    archive: Archive, item: Item, folder_fd: int, name: bytes, ask: Callable[[], None]
) -> bool:
    """Compare byte for byte, holes included; what can't be read is not the same.

    `ask` is called now and then; what it raises goes through.
    """
    try:
        fd = os.open(name, _READ, dir_fd=folder_fd)
    except OSError:
        return False
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != item.member.size:
            return False
        return _is_same(archive, item, fd, ask) and _holes_are_zero(fd, item)
    except (OSError, ArchiveError, StorageError):
        return False
    finally:
        os.close(fd)


def _is_same(archive: Archive, item: Item, fd: int, ask: Callable[[], None]) -> bool:
    runs = iter(item.data_map if item.data_map is not None else [(0, item.member.size)])
    at = left = 0
    for chunk in archive.chunks(item.member, item.limit):
        ask()
        view = memoryview(chunk)
        while len(view):
            if not left:
                at, left = next(runs, (0, len(view)))
            piece = view[:left]
            if os.pread(fd, len(piece), at) != piece:
                return False
            at, left, view = at + len(piece), left - len(piece), view[len(piece) :]
    return True


def _holes_are_zero(fd: int, item: Item) -> bool:
    if item.data_map is None:
        return True
    at = 0
    for start, length in [*item.data_map, (item.member.size, 0)]:
        while at < start:
            data = os.pread(fd, min(start - at, ONE_SHOT), at)
            if not data or data.strip(b"\0"):
                return False
            at += len(data)
        at = start + length
    return True
