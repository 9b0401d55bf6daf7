"""Whether a file of the target has the looks of the source's, and its content.

Attributes are not compared where the source's inode was last changed well before the target's was:
whatever they were then, they were given to the target later. That spares two system calls a file.
It does not hold where the target's file got further names, which changes its inode as well.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final

from pybak.attributes import is_kept, needs_privilege, path_in, read_attributes
from pybak.errors import SourceError
from pybak.looks import SET_ID, without_set_id
from pybak.mirror.rows import MirrorJob

_SETTLED_NS: Final = 2_000_000_000
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE: Final = 1 << 20


class Likeness:
    """Compares what stands under one name in two open folders, by the rules of a job."""

    def __init__(self, job: MirrorJob) -> None:
        self._job = job
        self._is_thorough = job.copies_all or job.compares_content

    def has_time(self, here: os.stat_result, there: os.stat_result) -> bool:
        """Whether both have the same time, as exactly as the target keeps it."""
        if here.st_mtime_ns == there.st_mtime_ns:
            return True
        return abs(here.st_mtime_ns - there.st_mtime_ns) < self._job.step_ns

    def has_looks(
        self, here: os.stat_result, there: os.stat_result, fds: tuple[int, int], name: bytes
    ) -> bool:
        """Whether mode, owner and attributes are those that a copy would get; links have no mode.

        `fds` are the folders, the source's first.
        """
        job = self._job
        if not job.keeps_looks:
            return True
        mode = here.st_mode
        if mode & SET_ID and not job.sets_owner:
            mode = without_set_id(mode, there, here.st_uid, here.st_gid)
        if mode != there.st_mode and not stat.S_ISLNK(mode):
            return False
        if job.sets_owner and (here.st_uid != there.st_uid or here.st_gid != there.st_gid):
            return False
        is_settled = here.st_ctime_ns < there.st_ctime_ns - _SETTLED_NS
        got_names = there.st_nlink > here.st_nlink and not stat.S_ISDIR(mode)
        if is_settled and not self._is_thorough and not got_names:
            return True
        try:
            return self._attributes(fds[0], name) == self._attributes(fds[1], name)
        except SourceError:
            return False

    def _attributes(self, folder_fd: int, name: bytes) -> dict[bytes, bytes]:
        found = read_attributes(path_in(folder_fd, name))
        return {
            key: value
            for key, value in found.items()
            if is_kept(key) and (self._job.privileged or not needs_privilege(key))
        }


def is_same_content(fds: tuple[int, int], name: bytes, ask: Callable[[], object]) -> bool:
    """Compare two regular files byte by byte; what can't be read is not the same.

    `ask` is called again and again; what it raises ends it.
    """
    try:
        with (
            open(os.open(name, _READ, dir_fd=fds[0]), "rb", buffering=0) as here,
            open(os.open(name, _READ, dir_fd=fds[1]), "rb", buffering=0) as there,
        ):
            while True:
                ask()
                piece = here.read(_PIECE)
                if piece != there.read(_PIECE):
                    return False
                if not piece:
                    return True
    except OSError:
        return False
