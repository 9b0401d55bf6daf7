"""Whether two folders of storages are one that is reached in two ways, found out by trying.

Addresses don't tell, nor do the sizes, times and versions of files: a bucket may have two kinds of
keys, or be mounted as a folder, and two buckets may get the same file in the same second. So a
small file with a name of its own is put into one folder, and looked for in the other.
"""

from __future__ import annotations

import contextlib
import os
import re
from functools import partial
from typing import Final

from pybak.display import printable
from pybak.errors import NotFoundError, StorageError
from pybak.storage.body import BytesBody
from pybak.storage.opening import is_remote, join
from pybak.storage.patience import patiently
from pybak.storage.protocol import Storage

PROBE_NAMES: Final = re.compile(r"\.pybak-probe-[0-9a-f]{32}")


class Places:
    """What was found out about folders; each pair of them is tried once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], bool] = {}

    def are_one(self, here: Storage, there: Storage) -> bool:
        """Whether two folders are one; a probe is put into `there`.

        Raises StorageError if that can't be found out.
        """
        key = (here.address, there.address)
        if key not in self._known:
            self._known[key] = here.address == there.address or _are_one(here, there)
        return self._known[key]


def _are_one(here: Storage, there: Storage) -> bool:
    if _shows(there, here):
        return True
    if is_remote(here.address) == is_remote(there.address):
        return False
    # One may be a mount of the other that knows a folder's names by heart for a while: what is new
    # shows late in the mount, but at once where it leads to. A full or lost folder takes none.
    with contextlib.suppress(StorageError, NotFoundError):
        return _shows(here, there)
    return False


def _shows(folder: Storage, other: Storage) -> bool:
    """Whether what is put into a folder is in the other one."""
    if any(_is_only_in(folder, other, name) for name in _left(folder)):
        return False
    name = f".pybak-probe-{os.urandom(16).hex()}"
    try:
        patiently(partial(folder.put, name, BytesBody(name.encode("ascii")), temporary=True))
        if patiently(partial(other.stat, name)) is not None:
            return True
        if not _holds(folder, name):
            path = printable(join(folder.address, name))
            raise StorageError(f"{path}: is gone again; try again")
        return False
    finally:
        # Where nothing may be deleted it stays, and serves those who come later.
        with contextlib.suppress(StorageError):
            folder.delete(name)


def _left(folder: Storage) -> list[str]:
    """Give the probes that could not be deleted, or that others have there now."""
    return [one.name for one in folder.list() if PROBE_NAMES.fullmatch(one.name)]


def _is_only_in(folder: Storage, other: Storage, name: str) -> bool:
    """Whether a probe that is there already shows that these are two folders.

    One that is in both shows nothing: it may have been copied with all else.
    """
    return patiently(partial(other.stat, name)) is None and _holds(folder, name)


def _holds(folder: Storage, name: str) -> bool:
    """Whether a probe is still there."""
    wanted = name.encode("ascii")
    try:
        return patiently(partial(folder.read, name, 0, len(wanted))) == wanted
    except NotFoundError:
        return False
