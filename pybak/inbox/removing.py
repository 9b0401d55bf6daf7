"""Whether files could be removed from their folder, asked before anything is done with them."""

from __future__ import annotations

import os
import stat

from pybak.folders import Folders


class Removing:
    """Tells for files, and looks at each folder once."""

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
