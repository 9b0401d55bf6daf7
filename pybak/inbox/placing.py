"""Where an inbox's files go: places that are none of the inbox's own, and names that are free."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from pybak import problems
from pybak.display import printable
from pybak.errors import PlanError, PyBakError, StorageError
from pybak.inbox import naming
from pybak.inbox.outcome import Tally
from pybak.inbox.places import Place, absolute_place
from pybak.inbox.scan import Found
from pybak.storage.opening import is_remote

_ASKING: Final = 8
"""Storages are asked so many names at once."""
_LONG_NUMBER: Final = 99

Namer = Callable[[Found, int], str]
"""Gives what a file would be called; the number tells names apart."""
Reserved = Callable[[Sequence[str]], set[str]]
"""Gives which names are not free though nothing has them yet."""


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


def free_names(
    files: Sequence[Found],
    namer: Namer,
    places: Sequence[Place],
    tally: Tally,
    *,
    reserved: Reserved = lambda _names: set(),
) -> list[tuple[Found, str]]:
    """Give each file a name that is free at all places; one that can have none has failed.

    So has one of whose name that can't be told. Raises StorageError where a place is gone itself.
    """
    is_local = not any(is_remote(place.address) for place in places)
    fitting: list[Found] = []
    for found in files:
        if why := naming.trouble(namer(found, _LONG_NUMBER), in_storage=not is_local):
            tally.fail(found.path, problems.STORAGE, why)
        else:
            fitting.append(found)

    look = partial(_is_taken, places)
    first = [namer(found, 1) for found in fitting]
    if is_local:
        taken = [look(name) for name in first]
    else:
        with ThreadPoolExecutor(_ASKING, thread_name_prefix="names") as pool:
            taken = list(pool.map(look, first))
    chosen = reserved(first)
    named: list[tuple[Found, str]] = []
    for found, name, there in zip(fitting, first, taken, strict=True):
        number, free = 1, name
        while there is True or (there is False and free in chosen):
            number += 1
            free = namer(found, number)
            there = look(free)
            chosen |= reserved([free])
        if isinstance(there, PyBakError):
            tally.fail(found.path, problems.STORAGE, str(there))
            continue
        chosen.add(free)
        named.append((found, free))
    return named


def _is_taken(places: Sequence[Place], name: str) -> bool | PyBakError:
    """Whether a name is taken at a place, or why that can't be told.

    Raises StorageError if a place can't be used at all.
    """
    for place in places:
        try:
            if place.size(name) is not None:
                return True
        except (StorageError, PlanError) as error:
            place.check()
            return error
    return False
