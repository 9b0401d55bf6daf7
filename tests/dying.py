"""A process that dies by SIGKILL right before one of the changes that it makes to what lasts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final, NoReturn

from sqlalchemy.engine.default import DefaultDialect

from pybak.catalog import removal, replacing
from pybak.retention import consolidate, places
from pybak.storage import local

Place = tuple[ModuleType, str]
"""A function, by the module that looks it up."""

PRUNE_CHANGES: Final[tuple[Place, ...]] = ((places, "_unlink"),)
PRUNE_WRITERS: Final[tuple[Place, ...]] = (
    (removal, "mark_deleting"), (removal, "finish_removal"),
)  # fmt: skip
CONSOLIDATION_CHANGES: Final[tuple[Place, ...]] = (
    *PRUNE_CHANGES, (local, "publish"), (local, "sync_folder"),
)  # fmt: skip
CONSOLIDATION_WRITERS: Final[tuple[Place, ...]] = (
    *PRUNE_WRITERS,
    *(
        (module, name)
        for module in (replacing, consolidate)
        for name in ("enter_unfinished", "replace_archive")
    ),
)


def die_at(
    step: int,
    work: Callable[[], object],
    *,
    changes: Iterable[Place],
    writers: Iterable[Place],
) -> NoReturn:
    """Do the work in a process that was forked for it, and die before its `step`th change.

    A change is a call of one of `changes`, and the first commit after a call of one of `writers`,
    which write to the catalog. Work that makes fewer of them is killed at its end.
    """
    left = step
    is_writing = False

    def count() -> None:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def begin() -> None:
        nonlocal is_writing
        is_writing = True

    def commit() -> None:
        nonlocal is_writing
        if is_writing:
            count()
        is_writing = False

    try:
        for module, name in writers:
            _before(module, name, begin)
        for module, name in changes:
            _before(module, name, count)
        _before(DefaultDialect, "do_commit", commit)
        work()
        os.kill(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(1)


def _before(owner: Any, name: str, act: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def wrapper(*given: Any, **more: Any) -> Any:
        act()
        return original(*given, **more)

    setattr(owner, name, wrapper)
