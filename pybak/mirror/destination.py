"""The folders of a destination, and the one unfinished file that a writer has in them.

What is made gets its own name when it is whole. No link that was there or appears is followed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from pybak.folders import Folders
from pybak.mirror.rows import MirrorJob, temporary_name
from pybak.mirror.surplus import open_up


class Destination:
    """Where a writer puts what it makes, under `temporary` first; a context manager."""

    def __init__(self, job: MirrorJob, own: str) -> None:
        """Open it. Raises OSError if that can't be done.

        `own` tells its unfinished files, 12 hexadecimal digits; they are replaced by the next one
        that has the same.
        """
        self.folders = Folders(job.target, inode=job.target_root)
        self.temporary = temporary_name(job.token, own)
        self.made = 0

    def close(self) -> None:
        """Close all folders."""
        self.folders.close()

    def folder(self, path: bytes) -> int:
        """Give a folder, made if it is missing; good until the next call."""
        try:
            return self.folders.fd(path)
        except FileNotFoundError:
            return self._missing(path)

    def _missing(self, path: bytes) -> int:
        missing = [path]
        while True:
            try:
                fd = self.folders.fd(missing[-1])
            except FileNotFoundError:
                missing.append(missing[-1].rpartition(b"/")[0])
                continue
            missing.pop()
            if not missing:
                return fd
            self._make(fd, missing[-1].rpartition(b"/")[2])

    def _make(self, above_fd: int, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=above_fd)
        except FileExistsError:
            return
        except PermissionError:
            if not open_up(above_fd):
                raise
            os.mkdir(name, 0o700, dir_fd=above_fd)
        self.made += 1

    def fresh(self, make: Callable[[], int | None], folder_fd: int) -> int:
        """Make something under the temporary name, where the owner may be kept from it."""
        for _ in range(2):
            try:
                return make() or 0
            except FileExistsError:
                os.unlink(self.temporary, dir_fd=folder_fd)
            except PermissionError:
                if not open_up(folder_fd):
                    raise
        return make() or 0

    def put(self, folder_fd: int, name: bytes) -> None:
        """Give what stands under the temporary name its own name; an empty folder gives way."""
        try:
            os.rename(self.temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=folder_fd)
            os.rename(self.temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)

    def remove_temporary(self, folder_fd: int) -> None:
        """Remove what stands under the temporary name, if anything does and it can be."""
        with suppress(OSError):  # what went wrong before says more
            os.unlink(self.temporary, dir_fd=folder_fd)
