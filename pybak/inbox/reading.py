"""Open a file of an inbox without following any link on the way to it."""

from __future__ import annotations

import os
import stat

from pybak import problems
from pybak.backup.read_source import open_error
from pybak.errors import SourceError
from pybak.folders import Folders

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_file(folders: Folders, path: bytes) -> tuple[int, os.stat_result]:
    """Open the regular file `path`; give its descriptor and status.

    Raises SourceError: vanished, type_changed, unreadable, io_error.
    """
    folder, _, name = path.rpartition(b"/")
    try:
        fd = os.open(name, _FLAGS, dir_fd=folders.fd(folder))
    except OSError as error:
        raise open_error(error) from error
    try:
        status = os.fstat(fd)
    except OSError as error:
        os.close(fd)
        raise open_error(error) from error
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise SourceError("was a file when listed, is none now", problems.TYPE_CHANGED)
    return fd, status
