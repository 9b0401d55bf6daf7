"""A local folder as a place: files are staged inside it and get their names by a link."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pybak.display import printable
from pybak.errors import ExistsError, StorageError
from pybak.inbox.check import digest_of
from pybak.inbox.encode import Read
from pybak.inbox.mounts import check_folder, prepare_folder
from pybak.staging import NO_HARD_LINKS, reason, remove_leftovers, sync_folder
from pybak.storage.local import make_folder

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class FolderPlace:
    """A local folder: files that are staged on its file system are given a name there."""

    def __init__(self, address: str, *, root: str | None = None) -> None:
        self.address = address
        self._folder = Path(address)
        self._root = None if root is None else Path(root)

    def prepare(self, *, is_known: bool = False) -> None:
        """Make the folder if it is missing and new."""
        prepare_folder(self._folder, root=self._root, is_known=is_known)

    def check(self) -> None:
        """See that the folder is there, and the file system that it was on."""
        check_folder(self._folder)

    def clean(self, names: Sequence[str] = (), begun: Sequence[str] = ()) -> None:
        """Remove what killed runs left."""
        clean_folder(self._folder, names, begun)

    def size(self, name: str) -> int | None:
        """Give how many bytes a file has."""
        try:
            return (self._folder / name).lstat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._error(name, error) from error

    def put(self, staged: Path, name: str, expected: Read) -> None:  # noqa: ARG002 - a Place's
        """Give a staged file its name."""
        target = self._folder / name
        try:
            if target.parent != self._folder and not target.parent.is_dir():
                self._make(target.parent)
            _name(staged, target)
        except FileExistsError as error:
            raise ExistsError(f"{printable(str(target))}: exists already") from error
        except OSError as error:
            raise self._error(name, error) from error

    def sync(self, names: Sequence[str]) -> None:
        """Bring the folders that got files to the disk."""
        for folder in sorted({(self._folder / name).parent for name in names}):
            try:
                sync_folder(folder)
            except OSError as error:
                raise self._error(str(folder), error) from error

    def holds(self, name: str, expected: Read) -> bool:
        """Whether a file has this size and digest."""
        try:
            return self.size(name) == expected.size and (
                digest_of(os.fsencode(self._folder / name)) == expected
            )
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._error(name, error) from error

    def remove(self, name: str) -> None:
        """Delete a file."""
        try:
            with contextlib.suppress(FileNotFoundError):
                (self._folder / name).unlink()
        except OSError as error:
            raise self._error(name, error) from error

    def close(self) -> None:
        """Do nothing."""

    def _make(self, folder: Path) -> None:
        for made in make_folder(folder):
            with contextlib.suppress(OSError):
                sync_folder(made.parent)

    def _error(self, name: str, error: OSError) -> StorageError:
        where = printable(os.path.join(self.address, name))
        return StorageError(f"{where}: {reason(error)}; check the disk and the folder")


def clean_folder(folder: Path, names: Sequence[str], begun: Sequence[str]) -> None:
    """Remove what killed runs left in a folder; see `Place.clean`."""
    for one in sorted({folder, *((folder / name).parent for name in names)}):
        remove_leftovers(one)
    for name in begun:
        path = folder / name
        with contextlib.suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size == 0:
                path.unlink()


def _name(staged: Path, target: Path) -> None:
    """Give a file its name by a link, so that nothing is replaced. Raises OSError."""
    try:
        os.link(staged, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
    else:
        staged.unlink()
        return
    os.close(os.open(target, _NEW, 0o600))
    try:
        staged.replace(target)
    except OSError:
        target.unlink()
        raise
