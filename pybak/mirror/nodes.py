"""Make what has no content of its own: links, FIFOs, devices, and further names of files."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from pybak.attributes import path_in, read_attributes
from pybak.backup.read_source import open_error
from pybak.entries import BLOCK_DEVICE, CHAR_DEVICE, FIFO, KIND_NAMES, LINK
from pybak.errors import SourceError, reason
from pybak.folders import Folders
from pybak.looks import dress_named
from pybak.mirror.account import Account
from pybak.mirror.destination import Destination
from pybak.mirror.files import looks_of
from pybak.mirror.likeness import Likeness
from pybak.mirror.rows import MirrorJob, Row
from pybak.problems import STORAGE, TYPE_CHANGED, UNSUPPORTED, VANISHED

_NODES: Final = {CHAR_DEVICE: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}
_UNSUPPORTED: Final = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP)


class NodeMaker:
    """Makes them under the temporary name of a destination."""

    def __init__(self, job: MirrorJob, destination: Destination, account: Account) -> None:
        self._job = job
        self._destination = destination
        self._account = account

    def make(self, row: Row, source_fd: int, target_fd: int, name: bytes) -> bool:
        """Make a link, FIFO or device under the temporary name; False if that can't be here.

        Raises SourceError, OSError.
        """
        try:
            status = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
            target = os.readlink(name, dir_fd=source_fd) if row.kind == LINK else b""
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise SourceError("was a link when listed, is none now", TYPE_CHANGED) from error
            raise open_error(error) from error
        try:
            self._node(row.kind, status, target, target_fd)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            message = f"is a {KIND_NAMES[row.kind]}, which can't be made there: {reason(error)}"
            self._account.fail(UNSUPPORTED, message)
            return False
        self._dress(source_fd, name, target_fd, status)
        return True

    def _node(self, kind: str, status: os.stat_result, target: bytes, target_fd: int) -> None:
        made, fresh = self._destination.temporary, self._destination.fresh
        if kind == LINK:
            fresh(lambda: os.symlink(target, made, dir_fd=target_fd), target_fd)
        elif kind == FIFO and stat.S_ISFIFO(status.st_mode):
            fresh(lambda: os.mkfifo(made, 0o600, dir_fd=target_fd), target_fd)
        elif kind in _NODES and stat.S_IFMT(status.st_mode) == _NODES[kind]:
            mode, device = _NODES[kind] | 0o600, status.st_rdev
            fresh(lambda: os.mknod(made, mode, device, dir_fd=target_fd), target_fd)
        else:
            raise SourceError("is no longer what it was when listed", TYPE_CHANGED)

    def _dress(self, source_fd: int, name: bytes, target_fd: int, status: os.stat_result) -> None:
        current = self._account.current
        try:
            xattrs = read_attributes(path_in(source_fd, name))
        except SourceError as error:
            if error.code == VANISHED:
                raise
            xattrs = {}
            self._account.note(current, error.code, f"copied, but {error}")
        looks, made = looks_of(self._job, status), self._destination.temporary
        for message in dress_named(target_fd, made, looks, xattrs, removes_others=True):
            self._account.note(current, STORAGE, message)


class Linker:
    """Makes further names of files that are in the destination already."""

    def __init__(self, job: MirrorJob, sources: Folders, destination: Destination) -> None:
        self._likeness = Likeness(job)
        self._sources = sources
        self._destination = destination

    def link(self, first: bytes, path: bytes) -> bool:
        """Make `path` another name of the target's file `first`; False if that can't be.

        Nor is it done unless that file is what the source has at `path` now: it may not have been
        copied in this run.
        """
        above, _, name = first.rpartition(b"/")
        folder, _, own = path.rpartition(b"/")
        to = self._destination
        try:
            source_fd = self._sources.fd(folder)
            here = os.stat(own, dir_fd=source_fd, follow_symlinks=False)
            target_fd = os.dup(to.folder(folder))
        except OSError:
            return False
        try:
            first_fd = to.folders.fd(above)
            there = os.stat(name, dir_fd=first_fd, follow_symlinks=False)
            if not self._is_copy(here, there):
                return False
            to.fresh(
                lambda: os.link(
                    name, to.temporary, src_dir_fd=first_fd, dst_dir_fd=target_fd,
                    follow_symlinks=False,
                ),
                target_fd,
            )  # fmt: skip
            to.put(target_fd, own)
            # Of two names of one file a rename does nothing.
            to.remove_temporary(target_fd)
        except OSError:
            to.remove_temporary(target_fd)
            return False
        finally:
            os.close(target_fd)
        return True

    def _is_copy(self, here: os.stat_result, there: os.stat_result) -> bool:
        are_files = stat.S_ISREG(here.st_mode) and stat.S_ISREG(there.st_mode)
        is_one = here.st_nlink > 1 and here.st_size == there.st_size
        return are_files and is_one and self._likeness.has_time(here, there)
