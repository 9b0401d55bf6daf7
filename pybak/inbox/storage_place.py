"""Any storage as a place (`pybak.storage.protocol`), also a folder on another file system."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from pybak.backup.output import Extent
from pybak.backup.part_sizes import PartSizes
from pybak.errors import NotFoundError, PyBakError, StorageError
from pybak.inbox.encode import Read
from pybak.inbox.folder_place import clean_folder
from pybak.inbox.mounts import check_folder, prepare_folder
from pybak.storage.body import ExtentsBody
from pybak.storage.local import make_folder
from pybak.storage.opening import is_remote, join, open_storage
from pybak.storage.patience import patiently
from pybak.storage.protocol import SentPart, Storage, Stored, Upload
from pybak.storage.unfinished import UploadNotes, clean_up, notes_folder

WHOLE_BYTES: Final = 16 << 20
"""Files up to this size are sent to a storage at once, larger ones in parts."""
_READ_BYTES: Final = 8 << 20


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
            clean_folder(Path(self.address), names, begun)
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

    def sync(self, names: Sequence[str]) -> None:
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
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for path in folder.glob("*.jsonl"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
                told = str(json.loads(path.read_bytes().splitlines()[0])["address"])
                if told.startswith(address + "/"):
                    found.add(told)
    return found
