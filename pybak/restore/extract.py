"""Unpack one batch of members below the target.

Each is made under a temporary name in its own folder (`make`) and only then renamed: what stands
under the final name is whole, and other names of a file that was replaced keep their content.
Trouble with one member is recorded and the batch goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pybak.entries import FOLDER, HARD_LINK, LINK
from pybak.errors import ArchiveError, NotFoundError, StorageError, reason
from pybak.folders import Folders
from pybak.formats.archive import Archive
from pybak.problems import DAMAGED, EXISTS, STORAGE, Problem, write_problems
from pybak.restore.account import Account, Progress, ShouldStop, Stopped
from pybak.restore.attempt import Attempt, attempt
from pybak.restore.compare import is_same_content
from pybak.restore.delete import DeletePlan, empty_folder
from pybak.restore.hard_links import note_sources
from pybak.restore.items import Item, Job, open_job, read_parts
from pybak.restore.make import Maker
from pybak.restore.obstacles import own_problem
from pybak.restore.outcome import Outcome, is_disk_full
from pybak.restore.overwrite import IF_CHANGED, reason_to_leave
from pybak.restore.symlinks import link_target
from pybak.restore.taken_attributes import Taken, write_taken

_FULL_ENOUGH = 3  # members in a row that found no room before the rest is given up
_UNSURE: Final = "extended attributes and ACLs of files in it may be wrong, contents are checked"


def extract_batch(
    batch: Path,
    *,
    password: bytes | None = None,
    should_stop: ShouldStop | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Unpack the members of the batch file `batch`, archive by archive; their folders must exist.

    Doing it again, even at the same time, leaves the same files. The problems are written beside
    the batch file, to a file of this try's own; a batch without members makes none. Raises
    ArchiveError if an archive is no longer the one that was planned for, NotFoundError or
    StorageError if it or the target can't be opened.
    """
    with contextlib.ExitStack() as stack:
        unpacker: _Unpacker | None = None
        for job, items in read_parts(batch, Item):
            with open_job(job, password) as archive:
                if archive.identity != job.identity:
                    message = f"{archive.label}: changed while it was restored; start again"
                    raise ArchiveError(message)
                if unpacker is None:
                    folders = stack.enter_context(_open_target(job.target))
                    own = stack.enter_context(attempt(batch, job.token))
                    unpacker = _Unpacker(folders, own, Account(should_stop, progress))
                unpacker.begin(job, archive)
                if not all(map(unpacker.add, items)):
                    break
                unpacker.end()
        return Outcome() if unpacker is None else unpacker.close()


def _open_target(target: bytes) -> Folders:
    try:
        return Folders(target)
    except OSError as error:
        message = f"{os.fsdecode(target)}: can't be opened ({reason(error)})"
        raise StorageError(message) from error


class _Unpacker:
    """Unpacks members one after the other, archive after archive, each into its place."""

    def __init__(self, folders: Folders, own: Attempt, account: Account) -> None:
        self._job: Job
        self._archive: Archive
        self._folders = folders
        self._own = own
        self._temporary = own.temporary
        self._account = account
        self._maker = Maker(folders, own, account)
        self._sources: list[tuple[bytes, int, int]] = []
        self._collected: list[Taken] = []
        self._full = 0

    def begin(self, job: Job, archive: Archive) -> None:
        """From now on unpack members of `archive`."""
        self._job = job
        self._archive = archive
        self._maker.begin(job, archive)

    def end(self) -> None:
        """Name the damage in the pieces of the archive that no member's digest has shown."""
        try:
            found = self._archive.finish()
        except ArchiveError as error:
            found = [str(error)]
        except (StorageError, NotFoundError) as error:
            self._account.problems.append(Problem("", STORAGE, str(error)))
            return
        self._account.problems += (Problem("", DAMAGED, f"{text}; {_UNSURE}") for text in found)

    def add(self, item: Item) -> bool:
        """Unpack one member. False if it was asked to stop, and then the member is not counted.

        Of what is given as a folder only the attributes are taken down, for the last step: of
        folders, and of links, which come after all files.
        """
        account = self._account
        size = account.size
        try:
            account.ask(item)
            if item.kind == FOLDER:
                self._once_more(item, self._collect)
            elif self._full >= _FULL_ENOUGH:
                account.fail(item, STORAGE, "not written: the target's disk is full")
            else:
                self._once_more(item, self._place)
                self._full = 0
        except Stopped:
            account.stopped = True
            account.size = size
            return False
        except ArchiveError as error:
            account.fail(item, DAMAGED, str(error))
        except StorageError as error:
            account.fail(item, STORAGE, str(error))
        except OSError as error:
            self._full = self._full + 1 if is_disk_full(error) else 0
            account.fail(item, STORAGE, f"can't be written: {_explain(error)}")
        else:
            return True
        account.size = size
        return True

    def _once_more(self, item: Item, unpack: Callable[[Item], None]) -> None:
        """Unpack a member; if it is damaged, and came over a network, fetch it once more."""
        account = self._account
        size, noted = account.size, len(account.problems)
        try:
            unpack(item)
        except ArchiveError:
            if not self._archive.again():
                raise
            account.size = size
            del account.problems[noted:]
            unpack(item)

    def close(self) -> Outcome:
        """Write down what the last step needs and give the counts."""
        write_problems(self._own.problems_file, self._account.problems)
        note_sources(self._own.linked_file, self._sources)
        write_taken(self._own.attributes_file, self._collected)
        return self._account.outcome(self._own.problems_file)

    def _collect(self, item: Item) -> None:
        xattrs = self._maker.xattrs(item)
        if xattrs:
            self._collected.append((item.path, dict(xattrs)))

    def _place(self, item: Item) -> None:
        folder, _, name = item.path.rpartition(b"/")
        folder_fd = self._folders.fd(folder)
        in_the_way = False
        try:
            status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if self._job.is_own(status):
                self._account.fail(item, STORAGE, own_problem(item.path).message)
                return
            kept = reason_to_leave(item, status, self._job.overwrite)
            if kept is None and item.kind == LINK and self._job.overwrite == IF_CHANGED:
                kept = self._same_link(item, folder_fd, name)
            if kept is not None:
                self._account.note(item, EXISTS, kept)
                self._account.skipped += 1
                if item.is_linked and is_same_content(
                    self._archive, item, folder_fd, name, lambda: self._account.ask(item)
                ):
                    self._sources.append((item.path, status.st_dev, status.st_ino))
                return
            in_the_way = stat.S_ISDIR(status.st_mode)
        if item.kind == HARD_LINK:
            # Looking up the folder of the first name may close this one.
            folder_fd = os.dup(folder_fd)
            try:
                self._maker.make_hard_link(item, folder_fd)
                self._rename(item, folder_fd, name, in_the_way=in_the_way)
            finally:
                os.close(folder_fd)
        else:
            if not self._maker.make(item, folder_fd):
                return
            self._rename(item, folder_fd, name, in_the_way=in_the_way)
        self._account.restored += 1

    def _rename(self, item: Item, folder_fd: int, name: bytes, *, in_the_way: bool) -> None:
        try:
            if item.is_linked:
                status = os.stat(self._temporary, dir_fd=folder_fd, follow_symlinks=False)
                self._sources.append((item.path, status.st_dev, status.st_ino))
            if in_the_way:
                self._folders.forget(item.path)
                self._clear(item, folder_fd, name)
                os.rmdir(name, dir_fd=folder_fd)
            os.rename(self._temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except OSError:
            self._maker.remove_temporary(folder_fd)
            raise
        if item.kind == HARD_LINK:
            # Of two names of one file a rename does nothing.
            self._maker.remove_temporary(folder_fd)

    def _clear(self, item: Item, folder_fd: int, name: bytes) -> None:
        """Empty a folder that stands where a file goes, if what is not in the archive may go."""
        if not self._job.delete_file:
            return
        surplus = DeletePlan.load(Path(self._job.delete_file))
        count, _, notes = empty_folder(surplus, folder_fd, name, item.path)
        self._account.deleted += count
        self._account.problems += notes

    def _same_link(self, item: Item, folder_fd: int, name: bytes) -> str | None:
        try:
            there = os.readlink(name, dir_fd=folder_fd)
        except OSError:
            return None
        if there != link_target(self._archive, item):
            return None
        return "exists already and points to the same place"


def _explain(error: OSError) -> str:
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "a link or a file stands where its folder must be"
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return "a folder that is not empty stands in its place"
    if error.errno == errno.ENOENT:
        return "its folder is missing"
    return reason(error)
