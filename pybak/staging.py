"""The folders where a run keeps unfinished work, and how leftovers are told from live ones.

A work folder is hidden, lies beside what it will become, and holds a lock for as long as its run
lives. The lock dies with the process, so a later run recognises what a killed one left behind
and removes it. Anybody may put things with such a name into a shared folder: what is removed is a
folder of our own user, held open and never looked up again, so no link leads anywhere else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pybak.errors import StorageError

PREFIX: Final = ".pybak-work-"
NO_HARD_LINKS: Final = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV}
)
"""What `os.link` fails with where a file can't have a second name."""
_NO_FOLDER_SYNC: Final = frozenset(
    {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)
"""What `os.fsync` fails with where folders can't be synced."""
_LOCK = "lock"
_CANCEL = "cancel"
_SPARE = "cancel.spare"
_NAMES = "names"
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_LOCK: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEVER_LOCKED_SECONDS: Final = 24 * 3600
"""A work folder gets its lock at once; one that is older and has none is nobody's."""

_FOREIGN_SECONDS: Final = 7 * 24 * 3600
"""A work folder of another host in which nothing happened for so long is nobody's."""


class WorkFolder:
    """A run's own folder on disk; remove it with `remove` when the run ends, however it ends."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def create(cls, parent: Path, run_id: str) -> WorkFolder:
        """Make and lock a work folder below `parent`, which must exist.

        Raises StorageError if `parent` can't be written.
        """
        path = parent / f"{PREFIX}{run_id}"
        while True:
            try:
                path.mkdir(mode=0o700, exist_ok=True)
                lock_fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                if parent.is_dir():
                    continue
                raise StorageError(f"{parent}: is gone; make it again") from None
            except OSError as error:
                with contextlib.suppress(OSError):
                    path.rmdir()
                raise StorageError(
                    f"{parent}: {reason(error)}; choose a folder you can write"
                ) from error
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(lock_fd, fcntl.LOCK_EX)
            # Before it had its lock, another run may have taken it for a leftover.
            if _is_still(path / _LOCK, lock_fd):
                with contextlib.suppress(OSError):  # a full disk; the lock itself will do
                    os.pwrite(lock_fd, _host(), 0)
                    (path / _SPARE).touch()
                return cls(path, lock_fd)
            os.close(lock_fd)

    def subfolder(self, name: str) -> Path:
        """Give the folder `name` inside, made if missing."""
        path = self.path / name
        path.mkdir(exist_ok=True)
        return path

    def remove(self) -> None:
        """Delete the folder and let go of the lock; does nothing the second time."""
        if self._lock_fd >= 0:
            with contextlib.suppress(OSError), _opened(self.path.parent) as parent:
                _delete(parent, self.path.name, self._lock_fd)
            os.close(self._lock_fd)
            self._lock_fd = -1


def remove_leftovers(parent: Path, *, now: float | None = None) -> int:
    """Delete the work folders below `parent` whose run is dead; give how many they were.

    Those of other users are left alone, and those of other hosts, whose locks may not reach here,
    until nothing in them has changed for a week: a container has another name each time. `now` is
    in seconds since 1970.
    """
    removed = 0
    with contextlib.suppress(OSError), _opened(parent) as parent_fd:
        with os.scandir(parent_fd) as found:
            names = [entry.name for entry in found if entry.name.startswith(PREFIX)]
        for name in names:
            # Being made or removed right now, alive, or not ours.
            with contextlib.suppress(OSError):
                removed += _remove_leftover(parent_fd, name, time.time() if now is None else now)
    return removed


def _remove_leftover(parent: int, name: str, now: float) -> bool:
    """Delete one work folder if its run is dead. Raises OSError where that can't be told."""
    with _opened(name, parent) as folder:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid():
            return False
        try:
            lock = os.open(_LOCK, _OPEN_LOCK, dir_fd=folder)
        except FileNotFoundError:
            if now - status.st_mtime < _NEVER_LOCKED_SECONDS:
                return False
            os.rmdir(name, dir_fd=parent)  # refused where there is anything in it
            return True
        try:
            if not stat.S_ISREG(os.fstat(lock).st_mode):
                return False
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.pread(lock, 256, 0) not in (b"", _host()) and not _is_quiet(folder, now):
                return False
            _take_back_names(parent, folder)
            return _delete(parent, name, lock)
        finally:
            os.close(lock)


def _is_quiet(folder: int, now: float) -> bool:
    """Whether nothing in a work folder, or in the folders in it, has changed for long."""
    newest = os.fstat(folder).st_mtime
    with os.scandir(folder) as found:
        for entry in found:
            newest = max(newest, entry.stat(follow_symlinks=False).st_mtime)
            if entry.is_dir(follow_symlinks=False):
                with _opened(entry.name, folder) as inner, os.scandir(inner) as inside:
                    for one in inside:
                        newest = max(newest, one.stat(follow_symlinks=False).st_mtime)
    return now - newest > _FOREIGN_SECONDS


def is_work_folder(path: bytes) -> bool:
    """Whether the folder `path`, whose name begins with PREFIX, is that of a run, by its lock."""
    return os.path.lexists(os.path.join(path, os.fsencode(_LOCK)))


def note_names(folder: Path, files: Sequence[tuple[Path, str]]) -> None:
    """Note in a work folder what names beside it the files of a set are about to get, in order.

    The first of `files` is to get its name last, and makes the set complete: if the run is killed
    before that, `remove_leftovers` takes the other names back. Raises OSError.
    """
    known = [[name, *_identity(path.stat())] for path, name in files]
    unfinished = folder / f"{_NAMES}.new"
    with unfinished.open("wb") as out:
        out.write(json.dumps(known).encode("ascii"))
        out.flush()
        os.fsync(out.fileno())
    unfinished.rename(folder / _NAMES)


def _take_back_names(parent: int, folder: int) -> None:
    """Delete what a killed run named of a set whose first file has no name yet."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        fd = os.open(_NAMES, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        with open(fd, "rb") as file:
            (first, *_), *others = json.load(file)
        if _status(parent, first) is not None:
            return
        for name, *identity in others:
            found = _status(parent, name)
            if found is not None and identity == _identity(found):
                os.unlink(name, dir_fd=parent)


def _status(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(os.path.basename(name), dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _delete(parent: int, name: str, lock: int) -> bool:
    """Delete a work folder, its lock last: what a kill leaves of it is still a leftover.

    Only if `lock` is the lock in it. Raises OSError when something can't be deleted.
    """
    with _opened(name, parent) as folder:
        inside = os.stat(_LOCK, dir_fd=folder, follow_symlinks=False)
        if not os.path.samestat(inside, os.fstat(lock)):
            return False
        with os.scandir(folder) as found:
            entries = list(found)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.name, ignore_errors=True, dir_fd=folder)
            elif entry.name != _LOCK:
                with contextlib.suppress(OSError):
                    os.unlink(entry.name, dir_fd=folder)
        os.unlink(_LOCK, dir_fd=folder)
    os.rmdir(name, dir_fd=parent)
    return True


@contextlib.contextmanager
def _opened(path: Path | str, parent: int | None = None) -> Iterator[int]:
    """Hold a folder open. In an open folder `parent`, a link in its place is refused."""
    no_link = 0 if parent is None else os.O_NOFOLLOW
    fd = os.open(path, _OPEN_FOLDER | no_link, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _host() -> bytes:
    return os.fsencode(os.uname().nodename)


def _is_still(path: Path, fd: int) -> bool:
    """Whether `path` names the open file `fd`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except OSError:
        return False


def write_once(path: Path, data: bytes) -> bool:
    """Write a small file that appears complete; False, and no change, if it is there by then.

    Where there are no hard links, one that appears at the same moment is replaced. Raises OSError.
    """
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        temporary.write_bytes(data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            if path.exists():
                return False
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def request_cancel(staging: Path) -> None:
    """Ask everyone who works in `staging` to stop soon.

    Where nothing can be made any more, a file that was made for this is renamed. Where that can't
    be either, or the folder is gone, the work fails by itself.
    """
    try:
        (staging / _CANCEL).touch()
    except OSError:
        with contextlib.suppress(OSError):
            (staging / _SPARE).rename(staging / _CANCEL)


def is_cancelled(staging: Path) -> bool:
    """Whether `request_cancel` was called."""
    return (staging / _CANCEL).exists()


def sync_folder(folder: Path | bytes) -> None:
    """Bring what a folder lists to the disk, where the file system can."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(fd)


def reason(error: OSError) -> str:
    """Say in plain words why a system call failed."""
    if error.errno == errno.ENOSPC:
        return "no space left on the disk"
    if error.errno == errno.EDQUOT:
        return "the disk quota is used up"
    if error.errno == errno.EROFS:
        return "the file system is read-only"
    return (error.strerror or str(error)).lower() if error.errno else str(error)
