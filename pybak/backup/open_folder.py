"""Open a folder for listing by its path, though the path be long or something moved meanwhile.

No link below the source leads elsewhere, and reading does not change the folder's access time where
the system lets that be asked for.
"""

from __future__ import annotations

import errno
import os
from typing import Final

_NOATIME: Final[int] = getattr(os, "O_NOATIME", 0)
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PIECE_BYTES: Final = 1000
"""Below every system's limit for one path: 4096 on Linux, 1024 on macOS."""


def open_folder(source: bytes, path: bytes, device: int, inode: int) -> int:
    """Open the folder `path` below `source` for listing; give its file descriptor.

    It is the one with this device and inode, or another one that came in its place without any
    link in between. Paths may be longer than the system's limit. Raises OSError: ENOTDIR or
    ELOOP where something else, such as a link, took the place of a folder.
    """
    disk = source if not path else source + b"/" + path if source != b"/" else source + path
    try:
        fd = _open(disk)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        fd = _open_in_pieces(disk)
    info = os.fstat(fd)
    if info.st_ino == inode and info.st_dev == device:
        return fd
    os.close(fd)
    return open_step_by_step(source, path)


def _open(path: bytes, parent: int | None = None, flags: int = os.O_NOFOLLOW) -> int:
    flags |= _FOLDER_FLAGS
    if _NOATIME:
        try:
            return os.open(path, flags | _NOATIME, dir_fd=parent)
        except PermissionError:
            # Only the owner may ask for it.
            pass
    return os.open(path, flags, dir_fd=parent)


def _open_in_pieces(path: bytes) -> int:
    """Open a path of any length; links above its last part are followed, as by `os.open`."""
    fd = None
    while len(path) > _PIECE_BYTES:
        cut = path.rfind(b"/", 1, _PIECE_BYTES)
        fd = _step(path[:cut], fd, 0)
        path = path[cut + 1 :]
    return _step(path, fd)


def open_step_by_step(source: bytes, path: bytes) -> int:
    """Open a folder for listing by a path of any length; no link below `source` is followed.

    Raises OSError: ENOTDIR or ELOOP for what is no folder.
    """
    fd = _open(source)
    for name in path.split(b"/") if path else ():
        fd = _step(name, fd)
    return fd


def _step(name: bytes, fd: int | None, flags: int = os.O_NOFOLLOW) -> int:
    """Open a folder below another one and close that."""
    try:
        return _open(name, fd, flags)
    finally:
        if fd is not None:
            os.close(fd)
