"""The places that people name: their addresses, and that none is another's or the inbox's own."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pybak.display import printable
from pybak.errors import PlanError
from pybak.paths import user_path
from pybak.storage.opening import is_remote, open_storage


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


def addresses_of(destination: str, also_to: Sequence[str]) -> tuple[str, ...]:
    """Give the addresses of all places, the first one's first.

    Raises PlanError for what is no place, and for one that is named twice.
    """
    addresses = tuple(dict.fromkeys(map(absolute_place, (destination, *also_to))))
    if len(addresses) < 1 + len(also_to):
        raise PlanError("--also-to: is the destination, or named twice; name another place")
    return addresses


def check_nesting(source: str, addresses: Sequence[str], others: Sequence[str]) -> None:
    """Raise PlanError for a local place that lies in the inbox, or the inbox in it.

    Two places must not lie in each other either. `others`, as the folder for duplicates, may be
    around the inbox. Folders are the same if the file system says so, whatever they are called.
    """
    inbox = _chain(source)
    local = [(place, _chain(place)) for place in addresses if not is_remote(place)]
    for place, chain in [*local, *((place, _chain(place)) for place in others)]:
        is_around = (place, chain) in local and chain[0] in inbox
        if inbox[0] in chain or is_around:
            raise PlanError(
                f"{printable(place)}: lies in the inbox {printable(source)}, or the inbox in it; "
                "name a folder elsewhere"
            )
    for number, (place, chain) in enumerate(local):
        for other, around in local[:number]:
            if chain[0] in around or around[0] in chain:
                raise PlanError(
                    f"{printable(place)} and {printable(other)}: are the same folder, or one lies "
                    "in the other; name another place"
                )


def _chain(path: str) -> list[tuple[int, int] | str]:
    """Give by what a folder and all that are around it are known; a missing one, by its path."""
    at = os.path.realpath(path)
    chain: list[tuple[int, int] | str] = []
    while True:
        try:
            status = os.stat(at)
            chain.append((status.st_dev, status.st_ino))
        except OSError:
            chain.append(at)
        if (parent := os.path.dirname(at)) == at:
            return chain
        at = parent
