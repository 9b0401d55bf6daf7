"""What lies in the folders of storages, asked as seldom as can be.

A file is looked for by its name; where many of a folder are looked for, the folder is listed once
instead. Everything is as it was when it was asked for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Final, TypeVar

from pybak.formats.source import Identity
from pybak.storage.opening import is_remote, open_storage, split
from pybak.storage.patience import patiently
from pybak.storage.protocol import Stored

_T = TypeVar("_T")
_FEW: Final = 4  # files of a folder that are looked for one by one


class Folders:
    """Folders of storages that someone looks into; `expected` are files that will be looked for.

    Every method raises StorageError if the storage can't be asked, NotFoundError if there is no
    such place, PlanError for an address that is none. Threads may share one.
    """

    def __init__(self, expected: Iterable[bytes] = ()) -> None:
        self._counts = Counter(os.path.dirname(path) for path in expected if is_remote(path))
        self._listed: dict[str, Mapping[str, Stored]] = {}
        self._answered: set[str] = set()
        self._lock = Lock()

    def stat(self, path: bytes) -> Stored | None:
        """Give what is known of the file at an address; None if there is none."""
        folder, name = split(os.fsdecode(path))
        if folder in self._listed or self._counts[os.path.dirname(path)] > _FEW:
            return self.files(folder).get(name)
        return self._ask(folder, lambda: open_storage(folder).stat(name))

    def _ask(self, folder: str, ask: Callable[[], _T]) -> _T:
        """Ask about a folder; patiently once it has answered, for before its address may be wrong.

        A storage makes its own few tries in any case.
        """
        answer = patiently(ask) if folder in self._answered else ask()
        self._answered.add(folder)
        return answer

    def identity(self, path: bytes) -> Identity | None:
        """Give the identity of the file at an address; None if there is none."""
        found = self.stat(path)
        if found is None:
            return None
        return Identity(found.size, found.modified_ns, 0, found.version)

    def files(self, folder: str) -> Mapping[str, Stored]:
        """Give the files of a folder by name."""
        with self._lock:
            if folder not in self._listed:
                self._listed[folder] = self._ask(
                    folder, lambda: {found.name: found for found in open_storage(folder).list()}
                )
            return self._listed[folder]
