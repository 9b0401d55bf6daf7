"""A restore that writes nothing: what it would count and meet, by looking at the target.

Damage inside of members shows only when they are read, so it is not foreseen here.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from pybak.entries import HARD_LINK, LINK
from pybak.errors import ArchiveError
from pybak.folders import Folders
from pybak.formats.archive import Archive
from pybak.problems import DELETED, EXISTS, STORAGE, Problem
from pybak.restore.delete import delete_surplus, empty_folder
from pybak.restore.finish import may_replace
from pybak.restore.items import Folder, Item, open_job
from pybak.restore.obstacles import own_problem
from pybak.restore.outcome import Outcome
from pybak.restore.overwrite import IF_CHANGED, reason_to_leave
from pybak.restore.plan import Prepared
from pybak.restore.symlinks import link_target

_IN_THE_WAY = "a link or a file stands where its folder must be"


class Rehearsal(NamedTuple):
    """What would come of a restore; `problems` are those met at the target."""

    outcome: Outcome
    problems: list[Problem]


def rehearse(prepared: Prepared, *, password: bytes | None = None) -> Rehearsal:
    """Foretell the outcome of the restore that `prepared` describes.

    Its own problems, which were known before, are not repeated. Raises ArchiveError,
    NotFoundError or StorageError if the archive can't be opened.
    """
    with _open_target(prepared) as folders:
        return _Rehearser(prepared, password, folders).run()


@contextlib.contextmanager
def _open_target(prepared: Prepared) -> Iterator[Folders | None]:
    try:
        folders = Folders(prepared.job.target)
    except OSError:
        yield None
        return
    with folders:
        yield folders


class _Rehearser:
    def __init__(self, prepared: Prepared, password: bytes | None, folders: Folders | None) -> None:
        self._prepared = prepared
        self._overwrite = prepared.job.overwrite
        self._password = password
        self._folders = folders
        self._missing: set[bytes] = set() if folders else {b""}
        self._blocked: set[bytes] = set()
        self._problems: list[Problem] = []
        self._restored = self._skipped = self._failed = self._size = self._deleted = 0

    def run(self) -> Rehearsal:
        for folder in self._prepared.folders:
            self._folder(folder)
        for part in self._prepared.parts:
            for item in part.files:
                self._count(item, self._item(item))
        for part in self._prepared.parts:
            if part.links:
                # Where a link points to may stand in the archive only.
                with open_job(part.job, self._password) as archive:
                    for item in part.links:
                        self._count(item, self._item(item, archive))
        surplus = self._prepared.surplus
        if surplus is not None and self._folders is not None:
            deleted, notes = delete_surplus(surplus, self._folders, dry_run=True)
            self._deleted += deleted
            self._problems += notes
        outcome = Outcome(
            self._restored, self._skipped, self._failed, self._size, deleted=self._deleted
        )
        return Rehearsal(outcome, self._problems)

    def _count(self, item: Item, problem: Problem | None) -> None:
        if problem is None:
            self._restored += 1
            self._size += item.member.size if item.kind not in (LINK, HARD_LINK) else 0
            return
        self._skipped += problem.is_skip
        self._failed += not problem.is_skip
        self._problems.append(problem)

    def _folder(self, folder: Folder) -> None:
        above = folder.path.rpartition(b"/")[0]
        if above in self._blocked:
            self._block(folder, STORAGE, _IN_THE_WAY)
            return
        status = self._status(folder.path)
        if status is None:
            self._missing.add(folder.path)
        elif not stat.S_ISDIR(status.st_mode):
            if may_replace(folder, status, self._prepared.job):
                self._missing.add(folder.path)
            elif stat.S_ISLNK(status.st_mode):
                self._block(folder, STORAGE, "a link or a file stands where a folder must be")
            else:
                self._block(folder, EXISTS, "a file stands in its place and stays")

    def _block(self, folder: Folder, code: str, message: str) -> None:
        self._blocked.add(folder.path)
        self._problems.append(Problem(os.fsdecode(folder.path), code, message))

    def _status(self, path: bytes) -> os.stat_result | None:
        above, _, name = path.rpartition(b"/")
        if above in self._missing or self._folders is None:
            return None
        try:
            return os.stat(name, dir_fd=self._folders.fd(above), follow_symlinks=False)
        except OSError:
            return None

    def _item(self, item: Item, archive: Archive | None = None) -> Problem | None:
        """Give what would keep a member from being restored; of links by a look into `archive`."""
        path = os.fsdecode(item.path)
        if item.path.rpartition(b"/")[0] in self._blocked:
            return Problem(path, STORAGE, f"can't be written: {_IN_THE_WAY}")
        status = self._status(item.path)
        if status is None:
            return None
        if self._prepared.job.is_own(status):
            return own_problem(item.path)
        kept = reason_to_leave(item, status, self._overwrite)
        if kept is None and archive is not None and self._overwrite == IF_CHANGED:
            kept = self._same_link(item, status, archive)
        if kept is not None:
            return Problem(path, EXISTS, kept)
        if stat.S_ISDIR(status.st_mode) and self._is_full(item.path):
            message = "can't be written: a folder that is not empty stands in its place"
            return Problem(path, STORAGE, message)
        return None

    def _same_link(self, item: Item, status: os.stat_result, archive: Archive) -> str | None:
        if item.kind != LINK or not stat.S_ISLNK(status.st_mode):
            return None
        assert self._folders is not None
        above, _, name = item.path.rpartition(b"/")
        try:
            there = os.readlink(name, dir_fd=self._folders.fd(above))
            if there == link_target(archive, item):
                return "exists already and points to the same place"
        except (OSError, ArchiveError):
            return None
        return None

    def _is_full(self, path: bytes) -> bool:
        """Whether something will be left in the folder when a file is to take its place."""
        assert self._folders is not None
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        above, _, name = path.rpartition(b"/")
        try:
            above_fd = self._folders.fd(above)
            fd = os.open(name, flags, dir_fd=above_fd)
        except OSError:
            return True
        try:
            left = bool(os.listdir(fd))
        finally:
            os.close(fd)
        surplus = self._prepared.surplus
        if left and surplus is not None:
            count, is_empty, notes = empty_folder(surplus, above_fd, name, path, dry_run=True)
            if path.partition(b"/")[0] not in surplus.tops:
                # The others are counted when folders are tidied.
                self._deleted += count
                self._problems += [note for note in notes if note.code == DELETED]
            left = not is_empty
        return left
