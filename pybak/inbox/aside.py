"""Put duplicates aside instead of deleting them: into another folder, subfolders kept."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final
from uuid import uuid4

from pybak.inbox.naming import numbered
from pybak.inbox.taking import Dispose
from pybak.staging import NO_HARD_LINKS, WorkFolder, remove_leftovers

_BLOCK: Final = 1 << 20


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
