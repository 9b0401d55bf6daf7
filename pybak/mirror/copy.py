"""Copy what a hand of batches names, each file whole before it has its name.

A file is written under a temporary name in its folder, given its owner, attributes, mode and time
through the descriptor, and renamed. Where the source changed meanwhile it is copied again. No link
in source or target is followed, neither one that was there nor one that appears. Trouble with one
file is recorded and the hand goes on.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from pybak.attributes import path_in, read_attributes
from pybak.backup.read_source import READ_ATTEMPTS, open_error
from pybak.entries import BLOCK_DEVICE, CHAR_DEVICE, FIFO, FILE, KIND_NAMES, LINK
from pybak.errors import SourceError, reason
from pybak.folders import Folders
from pybak.looks import Looks, dress, dress_named
from pybak.mirror.content import Copying, check_copy
from pybak.mirror.likeness import Likeness
from pybak.mirror.rows import (
    LOOKS,
    NEW,
    UPDATE,
    MirrorJob,
    Row,
    SurplusRow,
    hand_of,
    mark_of,
    read_batch,
    temporary_name,
)
from pybak.mirror.surplus import delete_surplus, open_up
from pybak.problems import (
    CHANGED,
    DAMAGED,
    NOTES,
    SKIPPED_CODES,
    STORAGE,
    TYPE_CHANGED,
    UNSUPPORTED,
    VANISHED,
    Problem,
    pack_problems,
)

ShouldStop = Callable[[], bool]
Progress = Callable[[int, int, bytes], object]
"""Called with files done, bytes copied and the current path; both counts are of this hand."""

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOATIME: Final[int] = getattr(os, "O_NOATIME", 0)
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_FULL_ENOUGH: Final = 3
"""Files in a row that found no room before the rest is given up."""
_WAIT_SECONDS: Final = (0.02, 0.1, 0.4)
_ASK_EVERY: Final = 0.05
_NODES: Final = {CHAR_DEVICE: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}
_MODE_BITS: Final = 0o7777


class Outcome(msgspec.Struct):
    """Counts of a part of a mirror; `looks` are those that got new metadata only.

    `vanished` are those of the `skipped` that are gone from the source. `size` is in bytes,
    `folders` are those that were made. `problems` is packed.
    """

    copied: int = 0
    updated: int = 0
    looks: int = 0
    skipped: int = 0
    vanished: int = 0
    failed: int = 0
    deleted: int = 0
    folders: int = 0
    folders_deleted: int = 0
    size: int = 0
    stopped: bool = False
    problems: bytes = b""

    def add(self, other: Outcome) -> None:
        """Add what another part did."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.stopped = bool(self.stopped)


class _Stopped(Exception):  # noqa: N818 - not an error
    """Someone asked to stop in the middle of a file."""


class _MovedError(Exception):
    """The source changed while it was copied."""


class Copier:
    """Copies one row after the other; a context manager that closes what it opened."""

    def __init__(
        self,
        job: MirrorJob,
        *,
        own: str | None = None,
        should_stop: ShouldStop = lambda: False,
        progress: Progress = lambda _files, _size, _path: None,
    ) -> None:
        """Open source and target. Raises OSError if that can't be done.

        `own` tells its unfinished files, 12 hexadecimal digits; they are replaced by the next one
        that has the same.
        """
        self._job = job
        self._likeness = Likeness(job)
        self.sources = Folders(job.source, inode=job.source_root)
        try:
            self.targets = Folders(job.target, inode=job.target_root)
        except BaseException:
            self.sources.close()
            raise
        self._should_stop = should_stop
        self._progress = progress
        self._temporary = temporary_name(job.token, own or os.urandom(6).hex())
        self._copying = Copying()
        self._asked_at = time.monotonic()
        self._noatime = _NOATIME
        self._full = 0
        self._written = 0
        self._current = b""
        self.outcome = Outcome()
        self.problems: list[Problem] = []

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        self.sources.close()
        self.targets.close()

    def finish(self) -> Outcome:
        """Give the counts and what is to be told."""
        self.outcome.problems = pack_problems(self.problems)
        return self.outcome

    def copy(self, row: Row) -> bool:
        """Make or change what a row names. False if it was asked to stop."""
        self._current = row.path
        self._written = 0
        try:
            self._ask(0)
            if self._full >= _FULL_ENOUGH:
                self._fail(row.path, STORAGE, "not written: the destination is full or read-only")
                return True
            if self._place(row):
                self._count(row)
            self._full = 0
        except _Stopped:
            self.outcome.stopped = True
            return False
        except SourceError as error:
            self._fail(row.path, error.code, str(error))
        except OSError as error:
            self._full = self._full + 1 if error.errno in _FULL else 0
            self._fail(row.path, STORAGE, f"can't be written: {_explain(error)}")
        return True

    def _count(self, row: Row) -> None:
        outcome = self.outcome
        outcome.size += self._written
        outcome.copied += row.what == NEW
        outcome.updated += row.what == UPDATE
        outcome.looks += row.what == LOOKS

    def _ask(self, size: int) -> None:
        self._written += size
        now = time.monotonic()
        if now - self._asked_at >= _ASK_EVERY:
            self._asked_at = now
            if self._should_stop():
                raise _Stopped
            outcome = self.outcome
            done = outcome.copied + outcome.updated + outcome.looks + outcome.failed
            self._progress(done, outcome.size + self._written, self._current)

    def note(self, path: bytes, code: str, message: str) -> None:
        """Take down what is to be told of a path."""
        self.problems.append(Problem(os.fsdecode(path), code, message))

    def _fail(self, path: bytes, code: str, message: str) -> None:
        self.note(path, code, message)
        if code in SKIPPED_CODES:
            self.outcome.skipped += 1
            self.outcome.vanished += code == VANISHED
        elif code not in NOTES:
            self.outcome.failed += 1

    # -- one row

    def _place(self, row: Row) -> bool:
        """Do it; False if that was told of already."""
        folder, _, name = row.path.rpartition(b"/")
        try:
            source_fd = self.sources.fd(folder)
        except OSError as error:
            raise open_error(error) from error
        target_fd = self.target_folder(folder)
        if row.what == LOOKS and self._touch_up(row, source_fd, target_fd, name):
            return True
        try:
            if row.kind == FILE:
                if not self._file(row, source_fd, target_fd, name):
                    return False
            elif not self._node(row, source_fd, target_fd, name):
                return False
            self.put(target_fd, name)
        except BaseException:
            self._remove_temporary(target_fd)
            raise
        return True

    def put(self, target_fd: int, name: bytes) -> None:
        """Give what stands under the temporary name its own name; an empty folder gives way."""
        try:
            os.rename(self._temporary, name, src_dir_fd=target_fd, dst_dir_fd=target_fd)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=target_fd)
            os.rename(self._temporary, name, src_dir_fd=target_fd, dst_dir_fd=target_fd)

    def _remove_temporary(self, target_fd: int) -> None:
        try:
            os.unlink(self._temporary, dir_fd=target_fd)
        except OSError:
            return  # the first error says more

    def target_folder(self, path: bytes) -> int:
        """Give the folder in the target, made if it is missing; good until the next call."""
        missing = [path]
        while True:
            try:
                fd = self.targets.fd(missing[-1])
            except FileNotFoundError:
                missing.append(missing[-1].rpartition(b"/")[0])
                continue
            missing.pop()
            if not missing:
                return fd
            self._make_folder(fd, missing[-1].rpartition(b"/")[2])

    def _make_folder(self, above_fd: int, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=above_fd)
        except FileExistsError:
            return
        except PermissionError:
            if not open_up(above_fd):
                raise
            os.mkdir(name, 0o700, dir_fd=above_fd)
        self.outcome.folders += 1

    def _fresh(self, make: Callable[[], int | None], target_fd: int) -> int:
        """Make something under the temporary name, where the owner may be kept from it."""
        for _ in range(2):
            try:
                return make() or 0
            except FileExistsError:
                os.unlink(self._temporary, dir_fd=target_fd)
            except PermissionError:
                if not open_up(target_fd):
                    raise
        return make() or 0

    def looks(self, status: os.stat_result) -> Looks:
        """Give what a copy is to look like."""
        mode = status.st_mode & _MODE_BITS
        sets_owner = self._job.sets_owner
        return Looks(status.st_uid, status.st_gid, mode, status.st_mtime_ns, sets_owner, "copied")

    # -- files

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

    def _file(self, row: Row, source_fd: int, target_fd: int, name: bytes) -> bool:
        """Write the file under the temporary name; False if it never held still."""
        for attempt in range(READ_ATTEMPTS):
            is_last = attempt + 1 == READ_ATTEMPTS
            try:
                self._written = 0
                self._write(source_fd, target_fd, name, is_last=is_last)
                return True
            except _MovedError:
                if is_last:
                    self.put(target_fd, name)
                    self._fail(row.path, CHANGED, "changed while it was copied, again and again")
                    self.outcome.size += self._written
                    return False
                time.sleep(_WAIT_SECONDS[attempt])
            except SourceError as error:
                if error.code != DAMAGED or is_last:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _write(self, source_fd: int, target_fd: int, name: bytes, *, is_last: bool) -> None:
        fd = self._open(source_fd, name)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise SourceError("was a file when listed, is none now", TYPE_CHANGED)
            xattrs = read_attributes(fd) if self._job.keeps_looks else None
            try:
                out = os.open(self._temporary, _CREATE, 0o600, dir_fd=target_fd)
            except (FileExistsError, PermissionError):
                out = self._fresh(
                    lambda: os.open(self._temporary, _CREATE, 0o600, dir_fd=target_fd), target_fd
                )
            try:
                is_whole = self._copying.copy(fd, out, status, self._ask)
                after = os.fstat(fd)
                moved = (
                    not is_whole
                    or after.st_mtime_ns != status.st_mtime_ns
                    or after.st_size != status.st_size
                    or after.st_ctime_ns != status.st_ctime_ns
                )
                if self._job.verifies and not moved:
                    check_copy(fd, out, self._ask)
                if not moved or is_last:
                    self._dress(out, status, xattrs)
            finally:
                os.close(out)
            if moved:
                raise _MovedError
        finally:
            os.close(fd)

    def _dress(self, fd: int, status: os.stat_result, xattrs: dict[bytes, bytes] | None) -> None:
        if xattrs is None:
            os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
            return
        for message in dress(fd, self.looks(status), xattrs, removes_others=True):
            self.note(self._current, STORAGE, message)

    def _touch_up(self, row: Row, source_fd: int, target_fd: int, name: bytes) -> bool:
        """Give the file that is there its looks; False if it must be made anew for that.

        It must if either side is no longer what was compared: its content may be another now.
        """
        if row.kind != FILE or row.seen is None:
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

    # -- what has no content

    def _node(self, row: Row, source_fd: int, target_fd: int, name: bytes) -> bool:
        """Make a link, FIFO or device under the temporary name; False if that can't be here."""
        try:
            status = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
            target = os.readlink(name, dir_fd=source_fd) if row.kind == LINK else b""
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise SourceError("was a link when listed, is none now", TYPE_CHANGED) from error
            raise open_error(error) from error
        temporary = self._temporary
        try:
            if row.kind == LINK:
                self._fresh(lambda: os.symlink(target, temporary, dir_fd=target_fd), target_fd)
            elif row.kind == FIFO and stat.S_ISFIFO(status.st_mode):
                self._fresh(lambda: os.mkfifo(temporary, 0o600, dir_fd=target_fd), target_fd)
            elif row.kind in _NODES and stat.S_IFMT(status.st_mode) == _NODES[row.kind]:
                mode, device = _NODES[row.kind] | 0o600, status.st_rdev
                self._fresh(lambda: os.mknod(temporary, mode, device, dir_fd=target_fd), target_fd)
            else:
                raise SourceError("is no longer what it was when listed", TYPE_CHANGED)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            message = f"is a {KIND_NAMES[row.kind]}, which can't be made there: {reason(error)}"
            self._fail(row.path, UNSUPPORTED, message)
            return False
        self._dress_named(source_fd, name, target_fd, temporary, status)
        return True

    def _dress_named(
        self, source_fd: int, name: bytes, target_fd: int, made: bytes, status: os.stat_result
    ) -> None:
        try:
            xattrs = read_attributes(path_in(source_fd, name))
        except SourceError as error:
            if error.code == VANISHED:
                raise
            xattrs = {}
            self.note(self._current, error.code, f"copied, but {error}")
        looks = self.looks(status)
        for message in dress_named(target_fd, made, looks, xattrs, removes_others=True):
            self.note(self._current, STORAGE, message)

    def link(self, first: bytes, path: bytes) -> bool:
        """Make `path` another name of the target's file `first`; False if that can't be.

        Nor is it done unless that file is what the source has at `path` now: it may not have been
        copied in this run.
        """
        above, _, name = first.rpartition(b"/")
        folder, _, own = path.rpartition(b"/")
        try:
            source_fd = self.sources.fd(folder)
            here = os.stat(own, dir_fd=source_fd, follow_symlinks=False)
            target_fd = os.dup(self.target_folder(folder))
        except OSError:
            return False
        try:
            first_fd = self.targets.fd(above)
            there = os.stat(name, dir_fd=first_fd, follow_symlinks=False)
            if not self._is_copy(here, there):
                return False
            self._fresh(
                lambda: os.link(
                    name, self._temporary, src_dir_fd=first_fd, dst_dir_fd=target_fd,
                    follow_symlinks=False,
                ),
                target_fd,
            )  # fmt: skip
            self.put(target_fd, own)
            # Of two names of one file a rename does nothing.
            self._remove_temporary(target_fd)
        except OSError:
            self._remove_temporary(target_fd)
            return False
        finally:
            os.close(target_fd)
        return True

    def delete(self, rows: Iterable[SurplusRow]) -> None:
        """Remove what the source does not hold, unless it is asked to stop."""
        inodes = self._job.keeps_inodes
        deleted = delete_surplus(rows, self.targets, self._should_stop, keeps_inodes=inodes)
        self.outcome.deleted += deleted.files
        self.outcome.folders_deleted += deleted.folders
        self.problems += deleted.problems

    def _is_copy(self, here: os.stat_result, there: os.stat_result) -> bool:
        are_files = stat.S_ISREG(here.st_mode) and stat.S_ISREG(there.st_mode)
        is_one = here.st_nlink > 1 and here.st_size == there.st_size
        return are_files and is_one and self._likeness.has_time(here, there)


def copy_hand(
    work_dir: Path,
    hand: Path,
    *,
    should_stop: ShouldStop = lambda: False,
    progress: Progress = lambda _files, _size, _path: None,
) -> Outcome:
    """Copy all rows of a hand; doing it again does no harm.

    Raises OSError if source or target can't be opened any more.
    """
    job, own = MirrorJob.load(work_dir), hand.name.rpartition("-")[2].rjust(12, "0")
    with Copier(job, own=own, should_stop=should_stop, progress=progress) as copier:
        for batch in hand_of(hand):
            if not all(map(copier.copy, read_batch(batch))):
                break
        outcome = copier.finish()
        done = outcome.copied + outcome.updated + outcome.looks + outcome.failed
        progress(done, outcome.size, b"")
        return outcome


def _explain(error: OSError) -> str:
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "a link or a file stands where its folder must be"
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return "a folder that is not empty stands in its place; --delete removes what is in it"
    return reason(error)
