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
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Final
from uuid import uuid4

from pybak import problems
from pybak.backup.read_source import state_of
from pybak.errors import SourceError
from pybak.folders import Folders
from pybak.inbox.naming import numbered
from pybak.inbox.outcome import Tally
from pybak.inbox.reading import open_file
from pybak.inbox.scan import Found, shown_name
from pybak.inbox.settle import BusyError, Lease
from pybak.staging import NO_HARD_LINKS, WorkFolder, reason, remove_leftovers

GONE: Final = "gone"
"""It was taken, or somebody else did."""
CHANGED: Final = "changed"
"""It is there with other content, or is being written."""
REPLACED: Final = "replaced"
"""Another file is there."""
SAME: Final = "same"
"""It is what it was."""

_BLOCK: Final = 1 << 20

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


def take(folders: Folders, found: Found, hidden: bytes, dispose: Dispose = delete) -> str:
    """Take a file away if it still is what it was; give GONE, CHANGED or REPLACED.

    `hidden` is its name meanwhile. Raises SourceError where it can't be removed; then it is there
    as before.
    """
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
        if not _is_as_it_was(status, found) or status.st_ctime_ns != found.ctime_ns:
            return CHANGED
        try:
            with Lease(fd) as lease:
                return _take(folders, found, hidden, dispose, fd, lease)
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


def aside(target: Path) -> Callable[[bytes], Dispose]:
    """Give what makes a `Dispose` for a file's folder: it moves the file below `target`.

    What killed runs left there is removed. A file that is there already, by a run that was killed
    before it could say so, is not moved again.
    """
    remove_leftovers(target)

    def below(folder: bytes) -> Dispose:
        def dispose(fd: int, hidden: bytes, name: bytes) -> None:
            place = os.path.join(os.fsencode(target), folder)
            os.makedirs(place, mode=0o700, exist_ok=True)
            number = 1
            while True:
                new = os.fsencode(numbered(os.fsdecode(os.path.join(place, name)), number))
                try:
                    _name(target, fd, hidden, new)
                except FileExistsError:
                    if not _is_same(fd, hidden, new):
                        number += 1
                        continue
                os.unlink(hidden, dir_fd=fd)
                return

        return dispose

    return below


def _name(target: Path, folder: int, hidden: bytes, new: bytes) -> None:
    """Give a file a second name, or a copy where it can't have one. Raises OSError."""
    try:
        os.link(hidden, new, src_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
    else:
        return
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    work = WorkFolder.create(target, str(uuid4()))
    try:
        copy = os.path.join(os.fsencode(work.path), b"copy")
        with _opened(folder, hidden) as content, open(copy, "xb") as out:
            shutil.copyfileobj(content, out, _BLOCK)
            out.flush()
            status = os.fstat(content.fileno())
            os.fchmod(out.fileno(), status.st_mode & 0o777)
            os.utime(out.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fsync(out.fileno())
        os.rename(copy, new)
    finally:
        work.remove()


def _is_same(folder: int, hidden: bytes, other: bytes) -> bool:
    """Whether another name is this file's, or that of a copy with its time."""
    try:
        with _opened(folder, hidden) as ours, open(other, "rb") as theirs:
            mine, found = os.fstat(ours.fileno()), os.fstat(theirs.fileno())
            if os.path.samestat(mine, found):
                return True
            if (mine.st_size, mine.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
                return False
            while block := ours.read(_BLOCK):
                if theirs.read(len(block)) != block:
                    return False
            return True
    except OSError:
        return False


def _opened(folder: int, hidden: bytes) -> IO[bytes]:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    return open(os.open(hidden, flags, dir_fd=folder), "rb")


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
