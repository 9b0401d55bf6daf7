"""What a file is called at the destination: `report.csv` → `report.csv_20261121_101500.gz`.

The time is the local one at which the round started. A taken name gets a number behind the time:
`report.csv_20261121_101500_2.gz`. Subfolders are kept. A name is taken if any place has a file of
it, or any row of the catalog.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Final

from pybak import problems
from pybak.errors import PlanError, PyBakError, StorageError
from pybak.inbox.encode import WRAPPER, is_wrapped
from pybak.inbox.found import Found
from pybak.inbox.places import Place
from pybak.inbox.tally import Tally
from pybak.storage.naming import NAME_BYTES
from pybak.storage.opening import is_remote

_ASKING: Final = 8
"""Storages are asked so many names at once."""
_LONG_NUMBER: Final = 99

Namer = Callable[[Found, int], str]
"""Gives what a file would be called; the number tells names apart."""
Reserved = Callable[[Sequence[str]], set[str]]
"""Gives which names are not free though nothing has them yet."""


def stored_name(
    path: bytes, moment: datetime, file_format: str, *, encrypted: bool, number: int = 1
) -> str:
    """Give the name, with its folders, below the destination; `path` is that below the source.

    `moment` is in local time. `number` tells names apart that would be the same.
    """
    again = f"_{number}" if number > 1 else ""
    wrapper = WRAPPER if is_wrapped(file_format, encrypted=encrypted) else ""
    return f"{os.fsdecode(path)}_{moment:%Y%m%d_%H%M%S}{again}.{file_format}{wrapper}"


def inner_name(name: str, file_format: str, *, encrypted: bool) -> bytes:
    """Give what a wrapped file is called inside: its name without the wrapper's ending."""
    base = os.path.basename(name)
    if is_wrapped(file_format, encrypted=encrypted):
        base = base.removesuffix(WRAPPER)
    return os.fsencode(base)


def trouble(name: str, *, in_storage: bool) -> str | None:
    """Say why no file can be called so, in a storage or at all."""
    if len(os.fsencode(os.path.basename(name))) > NAME_BYTES:
        return "its name is too long for time and ending to be added; shorten it"
    try:
        if in_storage:
            name.encode("utf-8")
    except UnicodeEncodeError:
        return "its name is no UTF-8, as names in storages are; rename it"
    return None


def numbered(name: str, number: int) -> str:
    """Give another name for a file that is put aside: `report.csv_2`."""
    return f"{name}_{number}" if number > 1 else name


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
        if why := trouble(namer(found, _LONG_NUMBER), in_storage=not is_local):
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
