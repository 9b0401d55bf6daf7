"""Write regular files under a temporary name, with all that belongs to them.

Most files have neither attributes nor set-id bits, and most belong to whoever makes them. So what
a new file has by itself is learned from the first ones of each folder, and only what is missing is
set: three or four system calls less for each of the others.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Final

from pybak.attributes import read_attributes
from pybak.backup.read_source import READ_ATTEMPTS, open_error
from pybak.errors import SourceError
from pybak.looks import SET_ID, Looks, dress
from pybak.mirror.account import Account
from pybak.mirror.content import Copying, check_copy
from pybak.mirror.destination import Destination
from pybak.mirror.rows import MirrorJob, Row, mark_of
from pybak.problems import CHANGED, DAMAGED, STORAGE, TYPE_CHANGED

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOATIME: Final[int] = getattr(os, "O_NOATIME", 0)
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WAIT_SECONDS: Final = (0.02, 0.1, 0.4)
_MODE_BITS: Final = 0o7777
_PERMISSIONS: Final = 0o777
_OWN_MODE: Final = 0o600
_FORMAT: Final = 0o170000


class _MovedError(Exception):
    """The source changed while it was copied."""


def looks_of(job: MirrorJob, status: os.stat_result) -> Looks:
    """Give what a copy is to look like."""
    mode = status.st_mode & _MODE_BITS
    return Looks(status.st_uid, status.st_gid, mode, status.st_mtime_ns, job.sets_owner, "copied")


class FileCopier:
    """Writes files into the folders of a destination."""

    def __init__(self, job: MirrorJob, destination: Destination, account: Account) -> None:
        self._job = job
        self._keeps_looks, self._sets_owner = job.keeps_looks, job.sets_owner
        self._destination = destination
        self._account = account
        self._copying = Copying()
        self._noatime = _NOATIME
        self._folder: bytes | None = None
        """That of which is known what new files have in it."""
        self._is_bare = False
        self._owner: tuple[int, int] = (-1, -1)
        self._exact: set[int] = set()
        """Modes that a file made with them has; the umask or a default ACL takes from others."""

    def write(self, row: Row, source_fd: int, target_fd: int, name: bytes) -> bool:
        """Write the file under the temporary name; False if it never held still.

        Then it has its name all the same, as it was read last. Raises SourceError, OSError.
        """
        folder = row.path[: -len(name)]
        if folder != self._folder:
            self._folder, self._is_bare = None, False
            self._exact.clear()
        for attempt in range(READ_ATTEMPTS):
            is_last = attempt + 1 == READ_ATTEMPTS
            try:
                self._write(source_fd, target_fd, name, folder, is_last=is_last)
                return True
            except _MovedError:
                if is_last:
                    self._destination.put(target_fd, name)
                    self._account.fail(CHANGED, "changed while it was copied, again and again")
                    self._account.outcome.size += self._account.written
                    return False
                time.sleep(_WAIT_SECONDS[attempt])
            except SourceError as error:
                if error.code != DAMAGED or is_last:
                    raise
            self._account.written = 0
        raise AssertionError("the last attempt returns or raises")

    def _write(
        self, source_fd: int, target_fd: int, name: bytes, folder: bytes, *, is_last: bool
    ) -> None:
        fd = self._open(source_fd, name)
        try:
            status = os.fstat(fd)
            mode = status.st_mode
            if mode & _FORMAT != stat.S_IFREG:
                raise SourceError("was a file when listed, is none now", TYPE_CHANGED)
            xattrs = read_attributes(fd) if self._keeps_looks else None
            # With its mode at once if nobody else can see more by that.
            is_own = self._is_bare and (
                not self._sets_owner or self._owner == (status.st_uid, status.st_gid)
            )
            out = self._create(target_fd, mode & _PERMISSIONS if is_own else _OWN_MODE)
            try:
                is_whole = self._copying.copy(fd, out, status, self._account.ask)
                after = os.fstat(fd)
                moved = (
                    not is_whole
                    or after.st_mtime_ns != status.st_mtime_ns
                    or after.st_size != status.st_size
                    or after.st_ctime_ns != status.st_ctime_ns
                )
                if self._job.verifies and not moved:
                    check_copy(fd, out, self._account.ask)
                if not moved or is_last:
                    if self._folder is None:
                        self._learn(folder, out)
                    self._finish(out, status, xattrs, is_own=is_own)
            finally:
                os.close(out)
            if moved:
                raise _MovedError
        finally:
            os.close(fd)

    def _open(self, folder_fd: int, name: bytes) -> int:
        try:
            return os.open(name, _READ | self._noatime, dir_fd=folder_fd)
        except PermissionError as error:
            if not self._noatime:
                raise open_error(error) from error
        except OSError as error:
            raise open_error(error) from error
        # Only its owner may ask to leave a file's access time alone.
        try:
            return os.open(name, _READ, dir_fd=folder_fd)
        except OSError as error:
            raise open_error(error) from error

    def _create(self, folder_fd: int, mode: int) -> int:
        temporary = self._destination.temporary
        try:
            return os.open(temporary, _CREATE, mode, dir_fd=folder_fd)
        except (FileExistsError, PermissionError):
            return self._destination.fresh(
                lambda: os.open(temporary, _CREATE, mode, dir_fd=folder_fd), folder_fd
            )

    def _learn(self, folder: bytes, fd: int) -> None:
        """See what a new file has by itself here: its owner, and attributes (a default ACL's)."""
        if not self._keeps_looks:
            return
        born = os.fstat(fd)
        self._owner = born.st_uid, born.st_gid
        try:
            self._is_bare = not read_attributes(fd)
        except SourceError:
            self._is_bare = False
        self._folder = folder

    def _finish(
        self, fd: int, status: os.stat_result, xattrs: dict[bytes, bytes] | None, *, is_own: bool
    ) -> None:
        """Give a new file what it does not have yet; `is_own` if it was made with its mode."""
        mode = status.st_mode
        if xattrs or not self._is_bare or mode & SET_ID:
            self._dress(fd, status, xattrs)
            return
        try:
            if not is_own or mode not in self._exact:
                self._settle(fd, status, is_own=is_own)
            os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
        except (OSError, OverflowError):
            self._dress(fd, status, xattrs)  # says what it can't

    def _settle(self, fd: int, status: os.stat_result, *, is_own: bool) -> None:
        born = os.fstat(fd)
        if self._sets_owner and (born.st_uid != status.st_uid or born.st_gid != status.st_gid):
            os.fchown(fd, status.st_uid, status.st_gid)
        if born.st_mode != status.st_mode:
            os.fchmod(fd, status.st_mode & _MODE_BITS)
        elif is_own:
            self._exact.add(status.st_mode)

    def _dress(self, fd: int, status: os.stat_result, xattrs: dict[bytes, bytes] | None) -> None:
        if xattrs is None:
            os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
            return
        for message in dress(fd, looks_of(self._job, status), xattrs, removes_others=True):
            self._account.note(self._account.current, STORAGE, message)

    def touch_up(self, row: Row, source_fd: int, target_fd: int, name: bytes) -> bool:
        """Give the file that is there its looks; False if it must be made anew for that.

        It must if either side is no longer what was compared: its content may be another now.
        """
        if row.seen is None:
            return False
        try:
            fd = self._open(source_fd, name)
            try:
                out = os.open(name, _READ, dir_fd=target_fd)
                try:
                    status, there = os.fstat(fd), os.fstat(out)
                    if row.seen != (mark_of(status), mark_of(there)):
                        return False
                    self._dress(out, status, read_attributes(fd))
                    return mark_of(os.fstat(fd)) == row.seen[0]
                finally:
                    os.close(out)
            finally:
                os.close(fd)
        except OSError:
            return False
