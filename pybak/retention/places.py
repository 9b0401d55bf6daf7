"""The folders that archives lie in, as a prune needs them: what is there, may it go, delete it.

A local folder is asked for each file, at the moment. A storage is listed once; what the listing
lacks is asked for by name, for some storages list late. Files of storages are deleted only as they
were listed: one that was replaced meanwhile stays.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from pybak.display import printable
from pybak.errors import NotFoundError, PyBakError, StorageError
from pybak.storage.opening import is_remote, join, open_storage, split
from pybak.storage.patience import patiently
from pybak.storage.protocol import Stored

_T = TypeVar("_T")


class UnreachableError(StorageError):
    """A storage can't be asked, so nothing is known of what lies there."""


class Found(NamedTuple):
    """The size of a file in bytes, -1 for what is no ordinary file; `version` is a storage's."""

    size: int
    version: str | None = None


class Place(Protocol):
    """One folder. All methods raise StorageError."""

    @property
    def folder(self) -> str:
        """Its path or address."""

    def look(self, name: str, *, sure: bool = True) -> Found | None:
        """Give what is known of a file; None for nothing. `sure` if it is known to have been."""

    def read(self, name: str, known: Found) -> bytes:
        """Read all of a small file."""

    def try_deleting(self, name: str) -> None:
        """See whether a file could be deleted, as far as that can be told without doing it."""

    def delete(self, name: str, known: Found) -> None:
        """Delete a file as it was looked at; fine if it is gone."""

    def sync(self) -> None:
        """Bring the deletions to the disk, as far as it can be told to."""


def open_place(folder: str) -> Place:
    """Give the folder at a path or at an address; nothing is asked yet."""
    return StoragePlace(folder) if is_remote(folder) else LocalPlace(folder)


class LocalPlace:
    """A local folder, or a mounted share."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def look(self, name: str, *, sure: bool = True) -> Found | None:  # noqa: ARG002 - as the protocol has it
        """Give what is there now; links are not followed."""
        path = self._path(name)
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _failed(path, "can't be looked at", error) from error
        return Found(found.st_size if stat.S_ISREG(found.st_mode) else -1)

    def read(self, name: str, known: Found) -> bytes:  # noqa: ARG002
        """Read all of a file."""
        path = self._path(name)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise _failed(path, "can't be read", error) from error

    def try_deleting(self, name: str) -> None:
        """Ask the kernel whether a file may be deleted.

        `rmdir` of what is no folder fails with ENOTDIR, but only after everything that `unlink`
        would fail with as well: Linux, fs/namei.c, may_delete().
        """
        path = self._path(name)
        try:
            os.rmdir(path)
        except (NotADirectoryError, FileNotFoundError):
            return
        except OSError as error:
            raise _failed(path, "can't be deleted", error) from error

    def delete(self, name: str, known: Found) -> None:  # noqa: ARG002
        """Delete a file."""
        _unlink(self._path(name))

    def sync(self) -> None:
        """Sync the folder."""
        with contextlib.suppress(OSError):
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)


class StoragePlace:
    """A folder of a storage, as it was when it was first looked into."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._listed: dict[str, Stored] | None = None
        self._missing: set[str] = set()
        self._is_there = True

    def look(self, name: str, *, sure: bool = True) -> Found | None:
        """Give what was listed. Raises UnreachableError if the storage can't be asked.

        A bucket that does not exist has no files.
        """
        known = self._files().get(name)
        if known is None and sure and self._is_there and name not in self._missing:
            known = self._ask(lambda: open_storage(self.folder).stat(name))
            if known is None:
                self._missing.add(name)
            else:
                self._files()[name] = known
        return None if known is None else Found(known.size, known.version or None)

    def _files(self) -> dict[str, Stored]:
        if self._listed is None:
            try:
                self._listed = self._ask(
                    lambda: {found.name: found for found in open_storage(self.folder).list()}
                )
            except NotFoundError:
                self._listed, self._is_there = {}, False
        return self._listed

    def _ask(self, ask: Callable[[], _T]) -> _T:
        try:
            return patiently(ask)
        except NotFoundError:
            raise
        except PyBakError as error:
            retryable = isinstance(error, StorageError) and error.retryable
            raise UnreachableError(str(error), retryable=retryable) from error

    def read(self, name: str, known: Found) -> bytes:
        """Read all of a file."""
        storage = open_storage(self.folder)
        try:
            return patiently(lambda: storage.read(name, 0, known.size, version=known.version))
        except NotFoundError as error:
            raise StorageError(str(error)) from error

    def try_deleting(self, name: str) -> None:
        """Do nothing: whoever may not delete is told so by the first deletion."""

    def delete(self, name: str, known: Found) -> None:
        """Delete a file. Raises StorageError for one that was replaced, or that a lock keeps."""
        storage = open_storage(self.folder)
        try:
            patiently(lambda: storage.delete(name, version=known.version))
        except NotFoundError as error:
            raise StorageError(str(error)) from error
        self._files().pop(name, None)
        self._missing.add(name)

    def sync(self) -> None:
        """Do nothing: what was answered is done."""


def parts_of(path: str) -> tuple[str, str]:
    """Give the folder and the name of a file by its path or its address."""
    return split(path) if is_remote(path) else os.path.split(path)


def shown(folder: str, name: str) -> str:
    """Give a file's path or address as people are told it."""
    return printable(join(folder, name) if is_remote(folder) else os.path.join(folder, name))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed(path, "can't be deleted", error) from error


def _failed(path: str, what: str, error: OSError) -> StorageError:
    why = (error.strerror or str(error)).lower()
    return StorageError(
        f"{printable(path)}: {what} ({why}); see that this user may delete files there"
    )
