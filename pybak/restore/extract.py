"""Unpack one batch of members below the target.

A file is written under a temporary name in its own folder, checked while it is written, given
its owner, mode and time through the descriptor, and only then renamed: what stands under the
final name is whole, and other names of a file that was replaced keep their content. Trouble with
one member is recorded and the batch goes on.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pybak.display import printable
from pybak.entries import LINK
from pybak.errors import ArchiveError, StorageError
from pybak.formats.zip_reader import ONE_SHOT, ZipFile
from pybak.problems import DAMAGED, EXISTS, STORAGE, UNSUPPORTED, Problem, write_problems
from pybak.restore.attempt import Attempt, attempt
from pybak.restore.digest import ContentCheck
from pybak.restore.folders import Folders
from pybak.restore.items import NO_OWNER, Item, Job, read_batch
from pybak.restore.outcome import Outcome, is_disk_full, reason
from pybak.restore.overwrite import IF_CHANGED, reason_to_leave

ShouldStop = Callable[[], bool]
Progress = Callable[[int, int, bytes], None]
"""Called with files done, bytes written and the current name; both counts are of this batch."""

SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ASK_EVERY = 0.05  # seconds between two looks at the cancel check and two progress reports
_FULL_ENOUGH = 3  # members in a row that found no room before the rest is given up
_MAX_LINK = 0xFFFF


class _Stopped(Exception):  # noqa: N818 - not an error
    """Someone asked to stop in the middle of a member."""


def extract_batch(
    batch: Path,
    *,
    should_stop: ShouldStop | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Unpack the members of the batch file `batch`; their folders must exist.

    Doing it again, even at the same time, leaves the same files. The problems are written beside
    the batch file, to a file of this try's own. Raises ArchiveError if the archive is no longer
    the one that was planned for, NotFoundError or StorageError if it or the target can't be
    opened.
    """
    job, items = read_batch(batch, Item)
    with ZipFile(job.archive) as archive:
        if archive.identity != job.identity:
            raise ArchiveError(f"{archive.label}: changed while it was restored; start again")
        try:
            folders = Folders(job.target)
        except OSError as error:
            message = f"{os.fsdecode(job.target)}: can't be opened ({reason(error)})"
            raise StorageError(message) from error
        with folders, attempt(batch, job.token) as own:
            unpacker = Unpacker(job, archive, folders, own, should_stop, progress)
            for item in items:
                if not unpacker.add(item):
                    break
            return unpacker.close()


class Unpacker:
    """Unpacks members one after the other and counts."""

    def __init__(
        self,
        job: Job,
        archive: ZipFile,
        folders: Folders,
        own: Attempt,
        should_stop: ShouldStop | None,
        progress: Progress | None,
    ) -> None:
        self._overwrite = job.overwrite
        self._default_mode = 0o666 & ~job.umask
        self._archive = archive
        self._folders = folders
        self._temporary, self._problems_file = own
        self._should_stop = should_stop
        self._progress = progress
        self._asked_at = time.monotonic()
        self._problems: list[Problem] = []
        self._restored = self._skipped = self._failed = self._size = 0
        self._full = 0
        self._stopped = False
        self._uid = os.geteuid()

    def add(self, item: Item) -> bool:
        """Unpack one member. False if it was asked to stop, and then the member is not counted."""
        size = self._size
        try:
            self._ask(item)
            if self._full >= _FULL_ENOUGH:
                self._fail(item, STORAGE, "not written: the target's disk is full")
            else:
                self._place(item)
                self._full = 0
        except _Stopped:
            self._stopped = True
            self._size = size
            return False
        except ArchiveError as error:
            self._fail(item, DAMAGED, str(error))
        except StorageError as error:
            self._fail(item, STORAGE, str(error))
        except OSError as error:
            self._full = self._full + 1 if is_disk_full(error) else 0
            self._fail(item, STORAGE, f"can't be written: {explain(error)}")
        else:
            return True
        self._size = size
        return True

    def close(self) -> Outcome:
        """Write the problems down and give the counts."""
        write_problems(self._problems_file, self._problems)
        if self._progress and not self._stopped:
            self._progress(self._done, self._size, b"")
        return Outcome(
            self._restored, self._skipped, self._failed, self._size, self._stopped,
            self._problems_file,
        )  # fmt: skip

    @property
    def _done(self) -> int:
        return self._restored + self._skipped + self._failed

    def _ask(self, item: Item) -> None:
        now = time.monotonic()
        if now - self._asked_at >= _ASK_EVERY or not self._done:
            self._asked_at = now
            if self._should_stop and self._should_stop():
                raise _Stopped
            if self._progress:
                self._progress(self._done, self._size, item.path)

    def _note(self, item: Item, code: str, message: str) -> None:
        self._problems.append(Problem(os.fsdecode(item.path), code, message))

    def _fail(self, item: Item, code: str, message: str) -> None:
        self._note(item, code, message)
        self._failed += 1

    def _place(self, item: Item) -> None:
        folder, _, name = item.path.rpartition(b"/")
        folder_fd = self._folders.fd(folder)
        in_the_way = False
        try:
            status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            kept = reason_to_leave(item, status, self._overwrite)
            if kept is None and item.kind == LINK and self._overwrite == IF_CHANGED:
                kept = self._same_link(item, folder_fd, name)
            if kept is not None:
                self._note(item, EXISTS, kept)
                self._skipped += 1
                return
            in_the_way = stat.S_ISDIR(status.st_mode)
        if item.kind == LINK:
            self._make_link(item, folder_fd)
        else:
            self._write_file(item, folder_fd)
        try:
            if in_the_way:
                self._folders.forget(item.path)
                os.rmdir(name, dir_fd=folder_fd)
            os.rename(self._temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except OSError:
            self._remove_temporary(folder_fd)
            raise
        self._restored += 1

    def _write_file(self, item: Item, folder_fd: int) -> None:
        member = item.member
        data: bytes | None = None
        if member.size <= ONE_SHOT and member.stored_size <= ONE_SHOT:
            # Checked before a file is made: a damaged member leaves no trace.
            data = self._archive.read(member, item.limit)
            if item.sha256 and hashlib.sha256(data).hexdigest() != item.sha256:
                raise self._mismatch(item)
        fd = self._create(folder_fd)
        try:
            try:
                if data is None:
                    self._stream(item, fd)
                elif data:
                    _write_all(fd, data)
                    self._size += len(data)
                self._finish_file(item, fd)
            finally:
                os.close(fd)
        except BaseException:
            self._remove_temporary(folder_fd)
            raise

    def _create(self, folder_fd: int) -> int:
        try:
            return os.open(self._temporary, _CREATE, 0o600, dir_fd=folder_fd)
        except FileExistsError:
            os.unlink(self._temporary, dir_fd=folder_fd)
            return os.open(self._temporary, _CREATE, 0o600, dir_fd=folder_fd)

    def _remove_temporary(self, folder_fd: int) -> None:
        with contextlib.suppress(OSError):  # the first error says more
            os.unlink(self._temporary, dir_fd=folder_fd)

    def _stream(self, item: Item, fd: int) -> None:
        content = ContentCheck(item)
        for chunk in self._archive.chunks(item.member, item.limit):
            self._ask(item)
            content.update(chunk)
            _write_all(fd, chunk)
            self._size += len(chunk)
        if not content.matches():
            raise self._mismatch(item)

    def _mismatch(self, item: Item) -> ArchiveError:
        return ArchiveError(
            f"{self._archive.label}: member {printable(item.member.name)} is damaged: its SHA-256 "
            "is not the manifest's"
        )

    def _finish_file(self, item: Item, fd: int) -> None:
        mode = item.mode
        uid, gid = item.uid, item.gid
        is_owned = False
        if self._uid == 0:
            if uid == NO_OWNER:
                uid, gid = self._archive.owner(item.member) or (NO_OWNER, NO_OWNER)
            if uid != NO_OWNER:
                is_owned = self._try_owner(item, uid, gid, fd=fd)
        if mode < 0:
            mode = self._default_mode
        elif mode & SET_ID and not is_owned:
            mode = without_set_id(mode, fd, uid, gid)
        mtime_ns = item.mtime_ns
        try:
            os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        except (OverflowError, OSError) as error:
            # Some network and FAT file systems hold contents only.
            message = f"restored, but its mode or time can't be set: {reason(error)}"
            self._note(item, UNSUPPORTED, message)

    def _try_owner(
        self, item: Item, uid: int, gid: int, *, fd: int | None = None, at: int | None = None
    ) -> bool:
        """Give the file, or the temporary link in folder `at`, its owner; whether it worked."""
        try:
            if fd is not None:
                os.fchown(fd, uid, gid)
            else:
                os.chown(self._temporary, uid, gid, dir_fd=at, follow_symlinks=False)
        except (OSError, OverflowError) as error:
            message = f"restored, but its owner {uid}:{gid} can't be set: {reason(error)}"
            self._note(item, UNSUPPORTED, message)
            return False
        return True

    def _same_link(self, item: Item, folder_fd: int, name: bytes) -> str | None:
        try:
            there = os.readlink(name, dir_fd=folder_fd)
        except OSError:
            return None
        if there != link_target(self._archive, item):
            return None
        return "exists already and points to the same place"

    def _make_link(self, item: Item, folder_fd: int) -> None:
        target = link_target(self._archive, item)
        try:
            os.symlink(target, self._temporary, dir_fd=folder_fd)
        except FileExistsError:
            os.unlink(self._temporary, dir_fd=folder_fd)
            os.symlink(target, self._temporary, dir_fd=folder_fd)
        if self._uid == 0:
            uid, gid = item.uid, item.gid
            if uid == NO_OWNER:
                uid, gid = self._archive.owner(item.member) or (NO_OWNER, NO_OWNER)
            if uid != NO_OWNER:
                self._try_owner(item, uid, gid, at=folder_fd)
        times = (item.mtime_ns, item.mtime_ns)
        try:
            os.utime(self._temporary, ns=times, dir_fd=folder_fd, follow_symlinks=False)
        except (OverflowError, OSError) as error:
            self._note(item, UNSUPPORTED, f"restored, but its time can't be set: {reason(error)}")


def link_target(archive: ZipFile, item: Item) -> bytes:
    """Give where a link member points. Raises ArchiveError if that can be no link's target."""
    if not 0 < item.member.size <= _MAX_LINK:
        name = printable(item.member.name)
        raise ArchiveError(f"{archive.label}: member {name} is a link with an impossible target")
    target = archive.read(item.member, item.limit)
    if b"\0" in target:
        name = printable(item.member.name)
        raise ArchiveError(f"{archive.label}: member {name} is a link to a name with a NUL byte")
    return target


def without_set_id(mode: int, fd: int, uid: int, gid: int) -> int:
    """Drop setuid and setgid unless the file already belongs to whom they were meant for.

    Otherwise a program that was harmless as its owner's would run as whoever restores it.
    """
    status = os.fstat(fd)
    if uid != status.st_uid:
        mode &= ~stat.S_ISUID
    if gid != status.st_gid:
        mode &= ~stat.S_ISGID
    return mode


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def explain(error: OSError) -> str:
    """Say in the words of a restore what an error of the file system means."""
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "a link or a file stands where its folder must be"
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return "a folder that is not empty stands in its place"
    if error.errno == errno.ENOENT:
        return "its folder is missing"
    return reason(error)
