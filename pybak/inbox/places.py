"""Where an inbox puts files: a local folder that staging lies in, or any storage.

Both take a file only under a name that is free, whole or not at all. Names may have folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from pybak.backup.output import Extent
from pybak.backup.part_sizes import PartSizes
from pybak.display import printable
from pybak.errors import ExistsError, NotFoundError, PyBakError, StorageError
from pybak.inbox.check import digest_of
from pybak.inbox.encode import Read
from pybak.inbox.mounts import check_folder, prepare_folder
from pybak.paths import user_path
from pybak.staging import NO_HARD_LINKS, reason, remove_leftovers, sync_folder
from pybak.storage.body import ExtentsBody
from pybak.storage.local import make_folder
from pybak.storage.opening import is_remote, join, open_storage
from pybak.storage.patience import patiently
from pybak.storage.protocol import SentPart, Storage, Stored, Upload
from pybak.storage.unfinished import UploadNotes, clean_up, notes_folder

WHOLE_BYTES: Final = 16 << 20
"""Files up to this size are sent to a storage at once, larger ones in parts."""
_READ_BYTES: Final = 8 << 20
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Place(Protocol):
    """A folder that gets files. Every method raises StorageError where it can't be used."""

    @property
    def address(self) -> str:
        """Its path or address, by which the catalog knows it."""

    def prepare(self, *, is_known: bool = False) -> None:
        """Make it if it is a missing folder, unless `is_known`: then files were stored there.

        Raises NotFoundError for a missing bucket.
        """

    def check(self) -> None:
        """See that it is there as it was; for one that was prepared before."""

    def clean(self, names: Sequence[str] = (), begun: Sequence[str] = ()) -> None:
        """Remove what killed runs left, also where files of these names were to lie.

        An empty file that is called like one of `begun` goes: it held the name for what was to be
        stored. What is stored is never empty.
        """

    def size(self, name: str) -> int | None:
        """Give how many bytes a file has; None if there is none of this name."""

    def put(self, staged: Path, name: str, expected: Read) -> None:
        """Give a staged file its name; raises ExistsError if that is taken."""

    def settle(self, names: Sequence[str]) -> None:
        """See that files that were put are there to stay."""

    def holds(self, name: str, expected: Read) -> bool:
        """Whether a file has this size and digest, read from where it lies."""

    def remove(self, name: str) -> None:
        """Delete a file; fine if there is none."""

    def close(self) -> None:
        """Forget what is needed only while a run lives."""


def absolute_place(text: str) -> str:
    """Give the address of a place that people name. Raises PlanError for what is none."""
    return text.rstrip("/") if is_remote(text) else str(user_path(text))


def located(address: str) -> tuple[str, str | None]:
    """Give the path of a block's folder, and the root in it that is never made; others as they are.

    Raises PlanError, NotFoundError and StorageError for a block that can't be read.
    """
    if not address.startswith("block:"):
        return address, None
    from pybak.storage.local_folder import FolderStorage

    storage = open_storage(address)
    if not isinstance(storage, FolderStorage):
        return address, None
    return storage.address, storage.root


def open_place(address: str, *, run_id: str, has_staging: bool, root: str | None = None) -> Place:
    """Open a place by its address; `has_staging` tells whether staged files lie inside it.

    `root` is a folder around it, or itself, that is never made. Raises PlanError for what is no
    address.
    """
    if has_staging and not is_remote(address):
        return FolderPlace(address, root=root)
    return StoragePlace(address, run_id=run_id, root=root)


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
        _remove_leftovers(self._folder, names)
        _remove_empty(self._folder, begun)

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

    def settle(self, names: Sequence[str]) -> None:
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


def _remove_leftovers(folder: Path, names: Sequence[str]) -> None:
    for one in sorted({folder, *((folder / name).parent for name in names)}):
        remove_leftovers(one)


def _remove_empty(folder: Path, names: Sequence[str]) -> None:
    for name in names:
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


class StoragePlace:
    """Any storage (`pybak.storage.protocol`), also a folder on another file system.

    What is begun there is noted in `notes`, so that a later run finds it after a kill.
    """

    def __init__(
        self,
        address: str,
        *,
        run_id: str,
        threads: int = 4,
        notes: Path | None = None,
        root: str | None = None,
    ) -> None:
        self.address = address
        self._root = None if root is None else Path(root)
        self._run_id = run_id
        self._threads = threads
        self._folder = notes or notes_folder()
        self._notes: dict[str, UploadNotes] = {}
        self._lock = threading.Lock()

    def prepare(self, *, is_known: bool = False) -> None:
        """Make a local folder that is missing and new, or see that the bucket is there."""
        if is_remote(self.address):
            open_storage(self.address).check()
        else:
            prepare_folder(Path(self.address), root=self._root, is_known=is_known)

    def check(self) -> None:
        """See that the bucket is there, or the folder as it was."""
        if is_remote(self.address):
            open_storage(self.address).check()
        else:
            check_folder(Path(self.address))

    def clean(self, names: Sequence[str] = (), begun: Sequence[str] = ()) -> None:
        """Drop uploads of killed runs; those into subfolders are known by their notes."""
        if not is_remote(self.address):
            _remove_leftovers(Path(self.address), names)
            _remove_empty(Path(self.address), begun)
        for address in {self.address, *_noted(self._folder, self.address)}:
            with contextlib.suppress(PyBakError):
                clean_up(open_storage(address), None, folder=self._folder)

    def size(self, name: str) -> int | None:
        """Give how many bytes a file has."""
        found = self._stat(name)
        return None if found is None else found.size

    def put(self, staged: Path, name: str, expected: Read) -> None:
        """Send a staged file."""
        storage, base = self._at(name)
        path = os.fsencode(staged)
        if expected.size <= min(WHOLE_BYTES, storage.limits.most):
            body = ExtentsBody([Extent(expected.size, path)])
            found = patiently(partial(storage.put, base, body))
        else:
            found = self._send(storage, base, path, expected.size)
        if found.size != expected.size:
            raise StorageError(
                f"{join(storage.address, base)}: holds {found.size} bytes, {expected.size} were "
                "sent; try again"
            )

    def _send(self, storage: Storage, name: str, path: bytes, size: int) -> Stored:
        sizes = PartSizes(storage.limits, size)
        upload = storage.begin(name)
        try:
            self._noting(storage).begun(upload)
            parts: list[tuple[int, Extent]] = []
            at = 0
            while at < size:
                length = min(sizes.size(len(parts) + 1), size - at)
                parts.append((len(parts) + 1, Extent(length, path, at)))
                at += length
            with ThreadPoolExecutor(self._threads, thread_name_prefix="send") as pool:
                sent = list(pool.map(partial(_send_part, storage, upload), parts))
            return storage.complete(upload, sent)
        except BaseException:
            with contextlib.suppress(StorageError):
                storage.abort(upload)
            raise

    def _noting(self, storage: Storage) -> UploadNotes:
        known = self._notes.get(storage.address)
        if known is None:
            number = len(self._notes)
            known = UploadNotes(self._folder, f"{self._run_id}-{number}", storage.address, first="")
            self._notes[storage.address] = known
        return known

    def settle(self, names: Sequence[str]) -> None:
        """Do nothing: a storage answers when it has a file."""

    def holds(self, name: str, expected: Read) -> bool:
        """Whether a file has this size and digest; reads all of it."""
        found = self._stat(name)
        if found is None or found.size != expected.size:
            return False
        storage, base = self._at(name)
        digest = hashlib.sha256()
        at = 0
        while at < found.size:
            data = patiently(partial(storage.read, base, at, _READ_BYTES, version=found.version))
            if not data:
                return False
            digest.update(data)
            at += len(data)
        return digest.hexdigest() == expected.sha256

    def remove(self, name: str) -> None:
        """Delete a file."""
        storage, base = self._at(name)
        with contextlib.suppress(NotFoundError):
            patiently(partial(storage.delete, base))

    def close(self) -> None:
        """Forget the notes: everything that was begun is complete or aborted."""
        for notes in self._notes.values():
            notes.close()
        self._notes.clear()

    def _stat(self, name: str) -> Stored | None:
        storage, base = self._at(name, make=False)
        try:
            return patiently(partial(storage.stat, base))
        except NotFoundError:
            return None

    def _at(self, name: str, *, make: bool = True) -> tuple[Storage, str]:
        """Give the folder that a file lies in, and the file's own name."""
        folder, _, base = name.rpartition("/")
        address = join(self.address, folder) if folder else self.address
        if make and folder and not is_remote(address):
            make_folder(Path(address))
        return open_storage(address), base


def _send_part(storage: Storage, upload: Upload, part: tuple[int, Extent]) -> SentPart:
    number, extent = part
    return patiently(partial(storage.send, upload, number, ExtentsBody([extent])))


def _noted(folder: Path, address: str) -> set[str]:
    """Give the addresses below `address` that notes of runs here speak of."""
    import json

    found: set[str] = set()
    with contextlib.suppress(OSError):
        for path in folder.glob("*.jsonl"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
                told = str(json.loads(path.read_bytes().splitlines()[0])["address"])
                if told.startswith(address + "/"):
                    found.add(told)
    return found
