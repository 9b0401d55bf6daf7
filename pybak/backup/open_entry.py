"""Open a file that the walk saw, a while later.

What is opened by its path follows a link that meanwhile took the place of a folder above it, out of
the source. So a file that is not the one of the walk is opened again, folder by folder.
"""

from __future__ import annotations

import errno
import os

from pybak.backup.open_folder import open_step_by_step
from pybak.backup.read_source import open_error, open_source
from pybak.entries import Entry, Root
from pybak.errors import SourceError
from pybak.problems import TYPE_CHANGED


def is_same(entry: Entry, status: os.stat_result | None) -> bool:
    """Whether this is the file that was listed, whatever became of its content."""
    return status is not None and (status.st_dev, status.st_ino) == (entry.device, entry.inode)


def open_entry(root: Root, entry: Entry) -> tuple[int, os.stat_result]:
    """Open a regular file for reading; give its descriptor and status.

    It is the one of the walk, or another one that came in its place without any link above it.
    Raises as `open_source` does.
    """
    fd, status = open_source(root.disk_path(entry.path))
    if is_same(entry, status) or not entry.path:
        return fd, status
    os.close(fd)
    above, _, name = entry.path.rpartition(b"/")
    try:
        folder_fd = open_step_by_step(root.source, above)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            message = "a folder above it gave way to a link or a file"
            raise SourceError(message, TYPE_CHANGED) from error
        raise open_error(error) from error
    try:
        return open_source(name, folder_fd)
    finally:
        os.close(folder_fd)
