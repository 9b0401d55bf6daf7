"""What the target has and the source has not: found, and removed.

Never through a link, never what lies on another mount, nor what patterns leave out, nor what is the
run's own; and only what was found: whatever took the place of something meanwhile stays.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from typing import Final

from pybak.backup.rules import NOT_INCLUDED, Chooser
from pybak.errors import reason
from pybak.folders import Folders
from pybak.mirror.namesakes import Namesakes
from pybak.mirror.rows import MirrorJob, SurplusRow, inode_of, is_temporary
from pybak.mounts import mount_of
from pybak.problems import DELETED, EXISTS, STORAGE, Problem

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH: Final = 500
_OWN_ACCESS: Final = 0o700
_LOST_AND_FOUND: Final = b"lost+found"
MOUNTED: Final = "is on another file system, or mounted, and stays"
NAMESAKE: Final = "is what the source has under another spelling, and stays"


class SurplusFinder:
    """Collects what may go in `rows`; `problems` tells what stays, `entries` counts all seen."""

    def __init__(self, job: MirrorJob, chooser: Chooser | None) -> None:
        """With a `chooser` only what it chooses may go."""
        self._chooser = chooser
        self._left_out = frozenset(map(tuple, job.left_out))
        self._keeps_inodes = job.keeps_inodes
        self.rows: list[SurplusRow] = []
        self.entries = 0
        self.problems: list[Problem] = []

    def find(
        self, folder_fd: int, name: bytes, path: bytes, status: os.stat_result, depth: int = 0
    ) -> bool:
        """Collect what may go of `name` in an open folder and of all below; whether all of it may.

        The deepest comes first.
        """
        is_folder = stat.S_ISDIR(status.st_mode)
        # A file system's own folder is at its root.
        if inode_of(status) in self._left_out or (is_folder and path == _LOST_AND_FOUND):
            return False
        why_not = self._why_not(path, is_folder=is_folder)
        if why_not is not None and not (is_folder and why_not == NOT_INCLUDED):
            return False
        is_empty = not is_folder or self._below(folder_fd, name, path, depth)
        if not is_empty or why_not is not None:
            return False
        self.rows.append(
            SurplusRow(path, is_folder, _mark(status, keeps_inodes=self._keeps_inodes))
        )
        return True

    def _why_not(self, path: bytes, *, is_folder: bool) -> str | None:
        if self._chooser is None:
            return None
        return self._chooser.reason(os.fsdecode(path) + ("/" if is_folder else ""))

    def _below(self, folder_fd: int, name: bytes, path: bytes, depth: int) -> bool:
        if depth >= _MAX_DEPTH:
            self._note(path, EXISTS, "lies too deep and stays")
            return False
        try:
            fd = os.open(name, _OPEN, dir_fd=folder_fd)
        except OSError as error:
            self._note(path, STORAGE, f"can't be looked into: {reason(error)}")
            return False
        try:
            if mount_of(fd) != mount_of(folder_fd):
                self.note_mounted(path)
                return False
            with os.scandir(fd) as found:
                listing = list(found)
            self.entries += len(listing)
            is_empty = True
            for item in listing:
                child, status = os.fsencode(item.name), item.stat(follow_symlinks=False)
                is_gone = self.find(fd, child, path + b"/" + child, status, depth + 1)
                is_empty = is_empty and is_gone
        except OSError as error:
            self._note(path, STORAGE, f"can't be looked into: {reason(error)}")
            return False
        finally:
            os.close(fd)
        return is_empty

    def note_mounted(self, path: bytes) -> None:
        """Tell that nothing goes from there."""
        self._note(path, EXISTS, MOUNTED)

    def _note(self, path: bytes, code: str, message: str) -> None:
        self.problems.append(Problem(os.fsdecode(path), code, message))


def _mark(status: os.stat_result, *, keeps_inodes: bool) -> tuple[int | None, ...]:
    """Give what tells something from whatever takes its place.

    An inode may be given to the next file at once, so it is not enough. None stands for anything:
    the change time of a file with several names changes as one of them goes.
    """
    if stat.S_ISDIR(status.st_mode):
        return inode_of(status) if keeps_inodes else (stat.S_IFDIR,)
    kept = stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns
    if not keeps_inodes:
        return kept
    return *kept, *inode_of(status), status.st_ctime_ns if status.st_nlink == 1 else None


def _is_still(row: SurplusRow, status: os.stat_result, *, keeps_inodes: bool) -> bool:
    now = _mark(status, keeps_inodes=keeps_inodes)
    return len(now) == len(row.mark) and all(
        was is None or was == one for was, one in zip(row.mark, now, strict=True)
    )


class Deleted:
    """How many files and folders were removed; `problems` names them, and what resisted."""

    def __init__(self) -> None:
        self.files = 0
        self.folders = 0
        self.problems: list[Problem] = []


def delete_surplus(
    rows: Iterable[SurplusRow],
    folders: Folders,
    should_stop: Callable[[], bool],
    namesakes: Namesakes,
    *,
    keeps_inodes: bool = True,
) -> Deleted:
    """Remove what was found, in that order, as far as it is still the same.

    What the source has under another spelling stays and is told of.
    """
    done = Deleted()
    for number, row in enumerate(rows):
        if not number % 64 and should_stop():
            break
        try:
            if namesakes.has(row.path):
                done.problems.append(Problem(os.fsdecode(row.path), EXISTS, NAMESAKE))
                continue
            _remove(row, folders, keeps_inodes=keeps_inodes)
        except FileNotFoundError:
            continue
        except OSError as error:
            message = f"can't be deleted: {reason(error)}"
            done.problems.append(Problem(os.fsdecode(row.path), STORAGE, message))
            continue
        done.folders += row.is_folder
        done.files += not row.is_folder
        done.problems.append(Problem(os.fsdecode(row.path), DELETED, "is not in the source"))
    return done


def _remove(row: SurplusRow, folders: Folders, *, keeps_inodes: bool) -> None:
    above, _, name = row.path.rpartition(b"/")
    fd = folders.fd(above)
    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if not _is_still(row, status, keeps_inodes=keeps_inodes):
        raise FileExistsError(0, "it changed, or something else took its place meanwhile")
    if row.is_folder:
        folders.forget(row.path)
        fd = folders.fd(above)
    remove = os.rmdir if row.is_folder else os.unlink
    try:
        remove(name, dir_fd=fd)
    except PermissionError:
        if not open_up(fd):
            raise
        remove(name, dir_fd=fd)


def open_up(folder_fd: int) -> bool:
    """Let the owner write into a folder, which is completed later; whether that worked."""
    try:
        mode = stat.S_IMODE(os.fstat(folder_fd).st_mode)
        if mode & _OWN_ACCESS == _OWN_ACCESS:
            return False
        # A descriptor that only stands for a path takes no `fchmod`.
        target = f"/proc/self/fd/{folder_fd}" if hasattr(os, "O_PATH") else folder_fd
        os.chmod(target, mode | _OWN_ACCESS)
    except OSError:
        return False
    return True


def remove_temporaries(paths: Iterable[bytes], folders: Folders) -> int:
    """Remove what earlier runs that were killed left; give how many."""
    count = 0
    for path in paths:
        above, _, name = path.rpartition(b"/")
        if not is_temporary(name):
            continue
        try:
            fd = folders.fd(above)
            try:
                os.unlink(name, dir_fd=fd)
            except PermissionError:
                if not open_up(fd):
                    continue
                os.unlink(name, dir_fd=fd)
        except OSError:
            continue
        count += 1
    return count
