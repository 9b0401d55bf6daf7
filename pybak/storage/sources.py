"""The files of an archive in storages, opened as sources that share what they keep in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pybak.display import printable
from pybak.formats.source import FileSource, Identity, Source
from pybak.storage.folders import Folders
from pybak.storage.opening import is_remote, open_storage, split
from pybak.storage.reading import SHORT_TAIL, TAIL, RangeCache, StorageSource


class Opener:
    """Opens the files of one archive; several threads may do so at once.

    `known` are their identities, where they were opened before; else storages are asked, once for
    all files of a folder if there are many.
    """

    def __init__(self, paths: Sequence[bytes], known: Sequence[Identity] = ()) -> None:
        self._cache = RangeCache()
        self._tail = TAIL if len(paths) == 1 else SHORT_TAIL
        self._known = dict(zip(paths, known, strict=True)) if known else {}
        self._folders = Folders(paths)
        for folder in {split(os.fsdecode(path))[0] for path in paths if is_remote(path)}:
            open_storage(folder)  # once, before threads do it at the same time

    def open(self, path: bytes) -> Source:
        """Open a file by its address, or its path.

        Raises NotFoundError, PlanError or StorageError if it can't be opened.
        """
        if not is_remote(path):
            return FileSource(path)
        folder, name = split(os.fsdecode(path))
        known = self._known.get(path)
        if known is None:
            known = self._folders.identity(path)
        return StorageSource(
            open_storage(folder), name, label=printable(path), known=known, cache=self._cache,
            tail=self._tail,
        )  # fmt: skip
