"""Removing from a target what the archive does not hold.

Only inside of folders that the archive holds at its top, and only what the patterns cover; never
through a link, never in what is mounted below the target, and never when the archive may hold
more than its listing tells.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Self

import msgspec

from pybak.display import printable
from pybak.errors import reason
from pybak.folders import Folders
from pybak.formats.listing import Listed, Listing
from pybak.mounts import Mount, mount_of
from pybak.problems import DAMAGED, DELETED, EXISTS, STORAGE, UNREADABLE, Problem
from pybak.report.status import PARTIAL
from pybak.restore.items import Node
from pybak.restore.names import UnsafeName, folded, safe_name
from pybak.restore.select import Selector

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH: Final = 500
_MOUNTED: Final = "is on another file system, or mounted, and stays"


class DeletePlan(msgspec.Struct, frozen=True, array_like=True):
    """What may go: whatever lies in the folders `tops`, is covered by the patterns and not `held`.

    `held` are the paths of all that the archive holds, folders that its members lie in included.
    `spared` are nodes that stay whatever their name: the archive itself, work folders. Without
    `tells_case` names that differ by case only are one.
    """

    tops: list[bytes]
    held: set[bytes]
    include: list[str]
    exclude: list[str]
    spared: list[Node]
    tells_case: bool = True

    def save(self, path: Path) -> None:
        """Write it for the last step."""
        path.write_bytes(msgspec.msgpack.encode(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it back."""
        return msgspec.msgpack.decode(path.read_bytes(), type=cls)


def plan_delete(
    names: Iterable[bytes],
    folders: Iterable[bytes],
    *,
    include: Iterable[str],
    exclude: Iterable[str],
    spared: Iterable[Node],
    tells_case: bool,
) -> DeletePlan:
    """Decide what may go.

    `names` are those of all that the snapshot holds, restored or not; `folders` are the paths of
    the folders that are restored, of which those at the top are tidied.
    """
    held: set[bytes] = set()
    for name in names:
        try:
            path = safe_name(name)
        except UnsafeName:
            continue  # it can't be restored, so nothing stands for it
        while path and path not in held:
            held.add(path)
            path = path.rpartition(b"/")[0]
    if not tells_case:
        held = {os.fsencode(folded(path)) for path in held}
    tops = {path.partition(b"/")[0] for path in folders}
    return DeletePlan(sorted(tops), held, list(include), list(exclude), list(spared), tells_case)


def why_incomplete(listing: Listing) -> Problem | None:
    """Say why nothing may be deleted by a listing; None if it tells all that there was."""
    reason = _why_incomplete(listing)
    if reason:
        message = f"nothing was deleted: {reason}, so it may hold more than it lists"
        return Problem("", DAMAGED, message)
    return of_partial() if listing.status == PARTIAL else None


def of_partial() -> Problem:
    """Say why nothing may be deleted if the backup could not read all of its source."""
    message = "nothing was deleted: the backup is partial, and files that it lacks would go, too"
    return Problem("", UNREADABLE, message)


def _why_incomplete(listing: Listing) -> str:
    if listing.problems:
        return "the archive is damaged"
    if listing.missing:
        return "the archive lacks members that its manifest lists"
    if listing.head is not None and listing.head.mode not in ("", "full"):
        return f"the archive is of a backup in mode {printable(listing.head.mode)}"
    if any(_is_doubtful(listed) for listed in listing.members):
        return "the archive has members that can't be read"
    if any(listed.remark for listed in listing.members):
        return "the archive is not what its manifest says"
    return ""


def _is_doubtful(listed: Listed) -> bool:
    if listed.fault is not None:
        return True
    try:
        safe_name(listed.name)
    except UnsafeName:
        return True
    return False


def delete_surplus(
    plan: DeletePlan,
    folders: Folders,
    *,
    should_stop: Callable[[], bool] | None = None,
    dry_run: bool = False,
) -> tuple[int, list[Problem]]:
    """Remove what `plan` says, or count it; give how many files and folders, and notes.

    Notes name each of them, as DELETED, and what resisted.
    """
    deleter = _Deleter(plan, should_stop, dry_run=dry_run)
    for top in plan.tops:
        # A link or a file in its place, or nothing: nothing of ours to tidy.
        with contextlib.suppress(OSError):
            deleter.tidy_below(folders.fd(b""), top, top)
    return deleter.count, deleter.problems


def empty_folder(
    plan: DeletePlan, folder_fd: int, name: bytes, path: bytes, *, dry_run: bool = False
) -> tuple[int, bool, list[Problem]]:
    """Do the same in the folder `name` only, which stands where the file `path` goes.

    Gives the count, whether the folder is empty then, and what resisted. Raises OSError if it
    can't be opened.
    """
    deleter = _Deleter(plan, None, dry_run=dry_run)
    is_empty = deleter.tidy_below(folder_fd, name, path)
    return deleter.count, is_empty, deleter.problems


class _Deleter:
    def __init__(
        self, plan: DeletePlan, should_stop: Callable[[], bool] | None, *, dry_run: bool
    ) -> None:
        self.count = 0
        self.problems: list[Problem] = []
        self._plan = plan
        self._spared = frozenset(plan.spared)
        self._selector = Selector(plan.include, plan.exclude)
        self._should_stop = should_stop
        self._dry_run = dry_run

    def tidy_below(self, folder_fd: int, name: bytes, path: bytes) -> bool:
        """Tidy the folder `name` unless something is mounted there; whether it is empty then.

        Raises OSError if it can't be opened.
        """
        fd = os.open(name, _OPEN, dir_fd=folder_fd)
        try:
            mount = mount_of(fd)
            if mount != mount_of(folder_fd):
                self._note(path, EXISTS, _MOUNTED)
                return False
            return self._tidy(fd, path, mount, 0)
        finally:
            os.close(fd)

    def _tidy(self, fd: int, path: bytes, mount: Mount, depth: int) -> bool:
        """Remove what may go from an open folder; whether nothing is left in it."""
        is_empty = True
        try:
            names = sorted(map(os.fsencode, os.listdir(fd)))
        except OSError as error:
            self._note(path, STORAGE, f"can't be looked into for what to delete: {reason(error)}")
            return False
        for name in names:
            if self._should_stop and self._should_stop():
                return False
            below = path + b"/" + name
            try:
                is_gone = self._entry(fd, name, below, mount, depth)
            except OSError as error:
                self._note(below, STORAGE, f"can't be deleted: {reason(error)}")
                is_gone = False
            is_empty = is_empty and is_gone
        return is_empty

    def _entry(self, fd: int, name: bytes, path: bytes, mount: Mount, depth: int) -> bool:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if (status.st_dev, status.st_ino) in self._spared:
            return False
        is_folder = stat.S_ISDIR(status.st_mode)
        is_wanted = self._selector.takes_all or self._selector.wants(path, is_folder=is_folder)
        if not is_folder:
            if self._is_held(path) or not is_wanted:
                return False
            self._remove(path, lambda: os.unlink(name, dir_fd=fd))
            return True
        if depth >= _MAX_DEPTH:
            self._note(path, EXISTS, "lies too deep and stays")
            return False
        below = os.open(name, _OPEN, dir_fd=fd)
        try:
            if mount_of(below) != mount:
                if not self._is_held(path):
                    self._note(path, EXISTS, _MOUNTED)
                return False
            is_empty = self._tidy(below, path, mount, depth + 1)
        finally:
            os.close(below)
        if not is_empty or not is_wanted or self._is_held(path):
            return False
        self._remove(path, lambda: os.rmdir(name, dir_fd=fd))
        return True

    def _is_held(self, path: bytes) -> bool:
        key = path if self._plan.tells_case else os.fsencode(folded(path))
        return key in self._plan.held

    def _remove(self, path: bytes, remove: Callable[[], None]) -> None:
        if not self._dry_run:
            remove()
        self.count += 1
        self._note(path, DELETED, "is not in the archive")

    def _note(self, path: bytes, code: str, message: str) -> None:
        self.problems.append(Problem(os.fsdecode(path), code, message))
