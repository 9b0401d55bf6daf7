"""A file of an inbox: what it looked like, its name while it is taken, how it is opened."""

from __future__ import annotations

import os
import re
import stat
from typing import Final

import msgspec

from pybak import problems
from pybak.backup.read_source import State, open_error
from pybak.errors import SourceError
from pybak.folders import Folders

_HIDDEN: Final = re.compile(rb"\.pybak-taken-[0-9a-f]{4}-(.+)", re.DOTALL)
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Identity = tuple[bytes, int, int, int]
"""By what a file that was kept is known again; see `Found`."""


class Found(msgspec.Struct, frozen=True):
    """A file that may be taken: its path below the inbox, and what it looked like."""

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    mode: int

    @property
    def state(self) -> State:
        """What tells whether it changed."""
        return State(self.size, self.mtime_ns, self.ctime_ns, self.inode)

    @property
    def identity(self) -> Identity:
        """By what a file that was kept is known again."""
        return self.path, self.size, self.mtime_ns, self.inode


def hidden_name(run_id: str, name: bytes) -> bytes:
    """Give what a run calls a file while it takes it, so short that every name fits in."""
    return b".pybak-taken-%s-%s" % (os.fsencode(run_id.replace("-", "")[:4]), name)


def shown_name(hidden: bytes) -> bytes | None:
    """Give the name that a file had before a hidden one; None if this is none."""
    found = _HIDDEN.fullmatch(hidden)
    return None if found is None else found[1]


def open_file(folders: Folders, path: bytes) -> tuple[int, os.stat_result]:
    """Open the regular file `path`; give its descriptor and status.

    No link is followed on the way.

    Raises SourceError: vanished, type_changed, unreadable, io_error.
    """
    folder, _, name = path.rpartition(b"/")
    try:
        fd = os.open(name, _OPEN, dir_fd=folders.fd(folder))
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
