"""A folder in which volumes are looked for: on disk, or in a storage."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Protocol

from pybak.display import printable
from pybak.errors import StorageError
from pybak.storage.folders import Folders
from pybak.storage.opening import open_storage
from pybak.storage.patience import patiently


class Folder(Protocol):
    """What is asked of a folder. `path` is its path or its address.

    Every method raises StorageError if the folder is there and can't be read.
    """

    path: bytes

    def has(self, name: bytes) -> bool:
        """Whether anything is called so."""

    def is_file(self, name: bytes) -> bool:
        """Whether a file is called so."""

    def names(self) -> Iterator[bytes]:
        """Yield the names of all files; none if there is no such folder."""

    def size(self, name: bytes) -> int:
        """Give the bytes of a file that is there."""

    def head(self, name: bytes, length: int) -> bytes:
        """Read the first bytes of a file; none if that can't be done."""


class LocalFolder:
    """A folder on disk; the current one if `path` is empty."""

    def __init__(self, path: bytes) -> None:
        self.path = path

    def has(self, name: bytes) -> bool:
        """Whether anything is called so."""
        return os.path.exists(os.path.join(self.path, name))

    def is_file(self, name: bytes) -> bool:
        """Whether a file is called so."""
        return os.path.isfile(os.path.join(self.path, name))

    def names(self) -> Iterator[bytes]:
        """Yield the names of all files."""
        try:
            with os.scandir(self.path or b".") as found:
                for entry in found:
                    if entry.is_file():
                        yield entry.name
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return
        except OSError as error:
            message = f"{printable(self.path)}: can't be read ({error.strerror})"
            raise StorageError(message) from error

    def size(self, name: bytes) -> int:
        """Give the bytes of a file that is there."""
        path = os.path.join(self.path, name)
        try:
            return os.stat(path).st_size
        except OSError as error:
            raise StorageError(f"{printable(path)}: can't be read ({error.strerror})") from error

    def head(self, name: bytes, length: int) -> bytes:
        """Read the first bytes of a file."""
        try:
            with open(os.path.join(self.path, name), "rb") as opened:
                return opened.read(length)
        except OSError:
            return b""


class StoredFolder:
    """A folder in a storage, by its address; what is in it is asked through `folders`.

    Where there is no such bucket, every method raises NotFoundError.
    """

    def __init__(self, path: bytes, folders: Folders) -> None:
        self.path = path.rstrip(b"/")
        self._folders = folders

    def has(self, name: bytes) -> bool:
        """Whether a file is called so."""
        return self._folders.stat(os.path.join(self.path, name)) is not None

    is_file = has

    def names(self) -> Iterator[bytes]:
        """Yield the names of all files."""
        yield from map(os.fsencode, self.sizes())

    def sizes(self) -> Mapping[str, int]:
        """Give the bytes of all files by name."""
        found = self._folders.files(os.fsdecode(self.path))
        return {name: stored.size for name, stored in found.items()}

    def size(self, name: bytes) -> int:
        """Give the bytes of a file that is there."""
        return self._folders.files(os.fsdecode(self.path))[os.fsdecode(name)].size

    def head(self, name: bytes, length: int) -> bytes:
        """Read the first bytes of a file."""
        storage = open_storage(os.fsdecode(self.path))
        return patiently(lambda: storage.read(os.fsdecode(name), 0, length))
