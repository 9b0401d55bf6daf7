"""Take a file out of the inbox once it is stored, without losing a writer.

The file first gets a hidden name: whoever opens it by its path from then on finds it gone, and
writes a new one. Whoever opened it before is told by the lease, or has changed it by then; then the
file gets its name back, or where that is taken a numbered one. Only after that it is deleted, or
put aside. A kill in between leaves the hidden name, which the next run finds by the row in the
catalog; without the row it gets its name back. The file's folder is reached anew each time, since
one that was moved out of the inbox takes its files along.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from typing import Final

from pybak import problems
from pybak.backup.read_source import state_of
from pybak.errors import SourceError
from pybak.folders import Folders
from pybak.inbox.found import Found, open_file, shown_name
from pybak.inbox.naming import numbered
from pybak.inbox.settle import BusyError, Lease
from pybak.inbox.tally import Tally
from pybak.staging import NO_HARD_LINKS, reason

GONE: Final = "gone"
"""It was taken, or somebody else did."""
CHANGED: Final = "changed"
"""It is there with other content, or is being written."""
REPLACED: Final = "replaced"
"""Another file is there."""
SAME: Final = "same"
"""It is what it was."""

Dispose = Callable[[int, bytes, bytes], object]
"""Does away with a file: the folder's descriptor, its hidden name there, the name it had."""


def delete(folder: int, hidden: bytes, _name: bytes) -> None:
    """Delete a file."""
    os.unlink(hidden, dir_fd=folder)


def look(folders: Folders, found: Found) -> str:
    """Tell whether a file is what it was: SAME, CHANGED, REPLACED by something else, or GONE."""
    folders.refresh()
    try:
        fd, status = open_file(folders, found.path)
    except SourceError as error:
        return GONE if error.code == problems.VANISHED else REPLACED
    os.close(fd)
    if status.st_ino != found.inode:
        return REPLACED
    return SAME if state_of(status) == found.state else CHANGED


class Links:
    """Remembers of files with several names (hard links) how taking one of these changed them.

    It moves the ctime that all the others have as well, which is no reason to leave these.
    """

    def __init__(self) -> None:
        self._moved: dict[tuple[int, int], tuple[int, int]] = {}

    def ctime_ns(self, found: Found) -> int:
        """Give the ctime that a file must have to be what was found."""
        before, after = self._moved.get((found.device, found.inode), (None, 0))
        return after if before == found.ctime_ns else found.ctime_ns

    def taken(self, found: Found, status: os.stat_result) -> None:
        """Take note of a file after one of its names went."""
        if status.st_nlink:
            self._moved[found.device, found.inode] = (found.ctime_ns, status.st_ctime_ns)


def take(
    folders: Folders,
    found: Found,
    hidden: bytes,
    dispose: Dispose = delete,
    links: Links | None = None,
) -> str:
    """Take a file away if it still is what it was; give GONE, CHANGED or REPLACED.

    `hidden` is its name meanwhile, `links` knows what this run did to its other names. Raises
    SourceError where it can't be removed; then it is there as before.
    """
    links = links or Links()
    folders.refresh()
    try:
        fd, status = open_file(folders, found.path)
    except SourceError as error:
        if error.code == problems.VANISHED:
            return GONE
        if error.code == problems.TYPE_CHANGED:
            return REPLACED
        raise
    try:
        if status.st_ino != found.inode or status.st_dev != found.device:
            return REPLACED
        if not _is_as_it_was(status, found) or status.st_ctime_ns != links.ctime_ns(found):
            return CHANGED
        try:
            with Lease(fd) as lease:
                end = _take(folders, found, hidden, dispose, fd, lease)
                if end == GONE and status.st_nlink > 1:
                    with contextlib.suppress(OSError):
                        after = os.fstat(fd)
                        if lease.is_whole and _is_as_it_was(after, found):
                            links.taken(found, after)
                return end
        except BusyError:
            return CHANGED
    finally:
        os.close(fd)


def _take(
    folders: Folders, found: Found, hidden: bytes, dispose: Dispose, fd: int, lease: Lease
) -> str:
    where, _, name = found.path.rpartition(b"/")
    try:
        folder = folders.fd(where)
        if _exists(folder, hidden):
            raise SourceError(
                f"can't be removed: {os.fsdecode(hidden)} stands in its way; move that away",
                problems.UNREADABLE,
            )
        os.rename(name, hidden, src_dir_fd=folder, dst_dir_fd=folder)
        here = os.stat(hidden, dir_fd=folder, follow_symlinks=False)
        if here.st_ino != found.inode:
            _give_back(folder, hidden, name)
            return REPLACED
        if not lease.is_whole or not _is_as_it_was(os.fstat(fd), found):
            _give_back(folder, hidden, name)
            return CHANGED
        try:
            dispose(folder, hidden, name)
        except BaseException:
            _give_back(folder, hidden, name)
            raise
    except FileNotFoundError:
        return GONE
    except OSError as error:
        raise SourceError(f"can't be removed: {reason(error)}", problems.UNREADABLE) from error
    return GONE


def resume(folders: Folders, found: Found, hidden: bytes, *, give_back: bool = False) -> bool:
    """Go on where a kill left a file under its hidden name; False if there is none.

    It is deleted if it is what it was, nobody has it open for writing, and it is not to be given
    back. Raises SourceError.
    """
    where, _, name = found.path.rpartition(b"/")
    folders.refresh()
    try:
        fd, here = open_file(folders, os.path.join(where, hidden))
    except SourceError as error:
        if error.code == problems.VANISHED:
            return False
        raise
    try:
        folder = folders.fd(where)
        if give_back or here.st_ino != found.inode or not _delete_unless_written(
            folder, hidden, found, fd
        ):  # fmt: skip
            _give_back(folder, hidden, name)
    except OSError as error:
        raise SourceError(f"can't be removed: {reason(error)}", problems.UNREADABLE) from error
    finally:
        os.close(fd)
    return True


def _delete_unless_written(folder: int, hidden: bytes, found: Found, fd: int) -> bool:
    try:
        with Lease(fd) as lease:
            if not lease.is_whole or not _is_as_it_was(os.fstat(fd), found):
                return False
            os.unlink(hidden, dir_fd=folder)
    except BusyError:
        return False
    return True


def give_back_strays(folders: Folders, strays: Iterable[bytes], tally: Tally) -> None:
    """Give files their names again that have hidden ones and no row; they wait for a round."""
    for path in strays:
        where, _, hidden = path.rpartition(b"/")
        try:
            _give_back(folders.fd(where), hidden, shown_name(hidden) or hidden)
        except FileNotFoundError:
            continue
        except OSError as error:
            message = f"can't be given its name back: {reason(error)}"
            tally.fail(path, problems.UNREADABLE, message)
        else:
            tally.wait(path, problems.WAITING, "an earlier run left it; it has its name back")


def _is_as_it_was(status: os.stat_result, found: Found) -> bool:
    """Compare content's size and time; a rename has moved ctime."""
    return status.st_size == found.size and status.st_mtime_ns == found.mtime_ns


def _exists(folder: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _give_back(folder: int, hidden: bytes, name: bytes) -> None:
    """Give a file its name again; where a new one has that, a numbered one."""
    number = 1
    while True:
        new = os.fsencode(numbered(os.fsdecode(name), number))
        number += 1
        try:
            os.link(hidden, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            if not _are_one(folder, hidden, new):
                continue
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            if _exists(folder, new):
                continue
            os.rename(hidden, new, src_dir_fd=folder, dst_dir_fd=folder)
            return
        os.unlink(hidden, dir_fd=folder)
        return


def _are_one(folder: int, name: bytes, other: bytes) -> bool:
    first, second = (os.stat(one, dir_fd=folder, follow_symlinks=False) for one in (name, other))
    return os.path.samestat(first, second)


def sync_folders(folders: Folders, paths: Iterable[bytes]) -> None:
    """Bring to the disk that files went: those of a round, folder by folder.

    What fails is left: a file that is back after a power cut is known as a duplicate.
    """
    for where in sorted({path.rpartition(b"/")[0] for path in paths}):
        with contextlib.suppress(OSError):
            fd = os.open(
                b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folders.fd(where)
            )
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


class Removing:
    """Tells before anything is done with a file whether it could be removed; asks a folder once."""

    def __init__(self) -> None:
        self._folders: dict[bytes, tuple[bool, bool]] = {}

    def trouble(self, folders: Folders, path: bytes) -> str:
        """Say why we can't remove a file from its folder; nothing if we can, or reading will tell.

        In a sticky folder only the owners of the file and of the folder can, and root.
        """
        where, _, name = path.rpartition(b"/")
        try:
            fd = folders.fd(where)
            if where not in self._folders:
                self._folders[where] = _looked_at(fd)
            is_writable, is_sticky = self._folders[where]
            if not is_writable:
                return "the folder can't be written; make it writable, or use --keep"
            if is_sticky and os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid != os.geteuid():
                return (
                    "it is another user's, and the folder is sticky; run as its owner, take the "
                    "sticky bit away, or use --keep"
                )
        except OSError:
            pass
        return ""


def _looked_at(fd: int) -> tuple[bool, bool]:
    """Whether a folder can be written, and whether only owners may remove files from it."""
    status = os.fstat(fd)
    own = os.geteuid() in (0, status.st_uid)
    is_sticky = bool(status.st_mode & stat.S_ISVTX) and not own
    return os.access(b".", os.W_OK | os.X_OK, dir_fd=fd), is_sticky
