"""What of the target is something that the source has under another spelling.

This is asked before anything is removed, of each folder by itself and whatever the destination was
taken for: what was just copied may be what is to go.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from pybak.folders import Folders
from pybak.restore.names import folded

_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FOLDER: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_KNOWN: Final = 128
"""So many folders are remembered."""


class Namesakes:
    """Answers for one entry after the other; quickest for those of one folder in a row."""

    def __init__(self, sources: Folders, targets: Folders) -> None:
        self._sources = sources
        self._targets = targets
        self._known: dict[bytes, dict[str, list[bytes]]] = {}
        self._listed: tuple[bytes, frozenset[bytes]] | None = None

    def has(self, path: bytes) -> bool:
        """Whether the target has, at `path`, what the source has at another one.

        Raises OSError if a folder can't be looked into.
        """
        above, _, name = path.rpartition(b"/")
        return any(other != path for other in self._same(above, name))

    def _same(self, folder: bytes, name: bytes) -> list[bytes]:
        """Give the paths in the source that are `name` in this folder of the target."""
        candidates = self._below(folder).get(_key(name), [])
        return [path for path in candidates if self._is_one(folder, name, path)]

    def _below(self, folder: bytes) -> dict[str, list[bytes]]:
        """Give what the source has in what is this folder of the target."""
        found = self._known.get(folder)
        if found is not None:
            return found
        above, _, name = folder.rpartition(b"/")
        found = {}
        for path in self._same(above, name) if folder else [b""]:
            prefix = path + b"/" if path else b""
            for child in _names(self._sources, path):
                found.setdefault(_key(child), []).append(prefix + child)
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[folder] = found
        return found

    def _is_one(self, folder: bytes, name: bytes, path: bytes) -> bool:
        """Whether the target takes both for one: it knows the other and does not list it."""
        other = path.rpartition(b"/")[2]
        if other == name:
            return True
        if self._listed is None or self._listed[0] != folder:
            self._listed = folder, frozenset(_names(self._targets, folder))
        if other in self._listed[1]:
            return False
        try:
            os.stat(other, dir_fd=self._targets.fd(folder), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True


def _key(name: bytes) -> str:
    # FAT and SMB drop what stands at the end here.
    return folded(name).rstrip(". ")


def _names(folders: Folders, path: bytes) -> list[bytes]:
    """List a folder; nothing if there is none."""
    try:
        fd = os.open(b".", _LIST, dir_fd=folders.fd(path))
    except OSError as error:
        if error.errno in _NO_FOLDER:
            return []
        raise
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)
