"""Locks of a job that die with their holder, and who holds them.

A job has two. `job` lets one run at a time change its history: backup, prune. `archives` lets any
number read its archives, or one delete some. Whoever needs both takes `job` first.

Each is an flock on a file in `PYBAK_HOME/locks` (`lock_file`), and for a catalog on PostgreSQL a
session advisory lock besides (`lock_server`), for several machines write there. The kernel and the
server let go of them when the process ends, however it ends; so there is nothing stale to take
over, and no time after which a lock counts as dead. What a file says about the holder is for
messages only.

Where a lock can't be had at all, for the file system of PYBAK_HOME has none or it can't be
written, the run goes on and `Lock.problem` says so; whoever deletes things asks `is_safe` first.
A catalog that can't be reached leaves the flock alone.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pybak.catalog.lock_file import FileLock, Note, holder_at, note_at
from pybak.catalog.lock_server import ServerLock
from pybak.catalog.lock_wanted import Holder, Wanted
from pybak.errors import Interrupted
from pybak.home import home
from pybak.units import parse_duration

FOREVER: Final = math.inf

_FOLDER: Final = "locks"
_PAUSE_SECONDS: Final = 0.1
_MOST_PAUSE_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Lock:
    """A lock that is held. `problem` says what of it could not be had; see the module."""

    is_safe: bool
    problem: str | None = None


def job_lock(
    job: str,
    *,
    wait: float | None = None,
    catalog_url: str | None = None,
    run_id: str | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    on_wait: Callable[[str], object] = lambda _told: None,
    folder: Path | None = None,
) -> contextlib.AbstractContextManager[Lock]:
    """Keep other runs from changing the history of `job` for as long as the block lasts.

    `wait` is how many seconds to wait for it at most: FOREVER, or None for not at all. While
    waiting `cancelled` is asked several times a second, and `on_wait` is told once for whom.
    `folder` holds the files, by default below PYBAK_HOME. Raises LockedError, which names the
    holder, and Interrupted once `cancelled` says so; neither leaves a lock.
    """
    return _lock(
        Wanted("job", job, shared=False, run_id=run_id), wait, catalog_url, cancelled, on_wait,
        folder,
    )  # fmt: skip


def archives_lock(
    job: str,
    *,
    shared: bool,
    wait: float | None = None,
    catalog_url: str | None = None,
    run_id: str | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    on_wait: Callable[[str], object] = lambda _told: None,
    folder: Path | None = None,
) -> contextlib.AbstractContextManager[Lock]:
    """Keep the archives of `job` from being deleted, or with `shared` False from being read.

    All else is as for `job_lock`.
    """
    return _lock(
        Wanted("archives", job, shared=shared, run_id=run_id), wait, catalog_url, cancelled,
        on_wait, folder,
    )  # fmt: skip


def is_locked(job: str, *, catalog_url: str | None = None, folder: Path | None = None) -> bool:
    """Whether a run is changing the history of `job`, as far as holders wrote themselves down.

    It takes no lock, not for a moment: a run that begins just then would be refused.
    """
    wanted = Wanted("job", job, shared=False, run_id=None)
    if holder_at((folder or home() / _FOLDER) / wanted.file_name()) != Holder():
        return True
    server = ServerLock(wanted, catalog_url)
    try:
        return server.holder() != Holder()
    finally:
        server.release()


def noted(job: str, *, folder: Path | None = None) -> Note | None:
    """Read who took the lock of a job last; None where none was ever taken. Takes no lock.

    `folder` is as for `job_lock`.
    """
    wanted = Wanted("job", job, shared=False, run_id=None)
    return note_at((folder or home() / _FOLDER) / wanted.file_name())


def waiting_seconds(*, wait: bool, limit: str | None) -> float | None:
    """Give how long to wait for a lock, None for not at all; `limit` is a duration.

    A limit alone means to wait that long.
    """
    if limit is not None:
        return float(parse_duration(limit).total_seconds)
    return FOREVER if wait else None


@contextmanager
def _lock(
    wanted: Wanted,
    wait: float | None,
    catalog_url: str | None,
    cancelled: Callable[[], bool],
    on_wait: Callable[[str], object],
    folder: Path | None,
) -> Iterator[Lock]:
    patience = _Patience(wanted, wait or 0.0, cancelled, on_wait)
    with contextlib.ExitStack() as stack:
        file = FileLock(wanted, folder or home() / _FOLDER)
        stack.callback(file.release)
        patience.acquire(file.try_once, file.holder)
        server = ServerLock(wanted, catalog_url)
        stack.callback(server.release)
        patience.acquire(server.try_once, server.holder)
        file.note()
        yield Lock(is_safe=file.is_held or server.is_held, problem=file.problem)


class _Patience:
    """Tries until it works, the time is over or someone cancels; one deadline for all it tries."""

    def __init__(
        self,
        wanted: Wanted,
        seconds: float,
        cancelled: Callable[[], bool],
        on_wait: Callable[[str], object],
    ) -> None:
        self._wanted = wanted
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._cancelled = cancelled
        self._on_wait: Callable[[str], object] | None = on_wait

    def acquire(self, try_once: Callable[[], bool], holder: Callable[[], Holder]) -> None:
        pause = _PAUSE_SECONDS
        while not try_once():
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise self._wanted.refusal(holder(), waited=self._seconds > 0)
            if self._on_wait is not None:
                self._on_wait(f"waiting for {holder()} ({self._wanted.trouble})")
                self._on_wait = None
            self._sleep(min(pause, left))
            pause = min(pause * 1.5, _MOST_PAUSE_SECONDS)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._cancelled():
                raise Interrupted("stopped on request while it waited for another run")
            time.sleep(min(left, _PAUSE_SECONDS))
