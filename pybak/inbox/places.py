"""Where an inbox puts files: what it asks of a place, and which kind an address is.

Both kinds take a file only under a name that is free, whole or not at all. Names may have folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pybak.inbox.encode import Read
from pybak.inbox.folder_place import FolderPlace
from pybak.inbox.storage_place import StoragePlace
from pybak.storage.opening import is_remote


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

    def sync(self, names: Sequence[str]) -> None:
        """See that files that were put are there to stay."""

    def holds(self, name: str, expected: Read) -> bool:
        """Whether a file has this size and digest, read from where it lies."""

    def remove(self, name: str) -> None:
        """Delete a file; fine if there is none."""

    def close(self) -> None:
        """Forget what is needed only while a run lives."""


def open_place(address: str, *, run_id: str, has_staging: bool, root: str | None = None) -> Place:
    """Open a place by its address; `has_staging` tells whether staged files lie inside it.

    `root` is a folder around it, or itself, that is never made. Raises PlanError for what is no
    address.
    """
    if has_staging and not is_remote(address):
        return FolderPlace(address, root=root)
    return StoragePlace(address, run_id=run_id, root=root)
