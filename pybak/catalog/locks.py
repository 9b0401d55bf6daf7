"""Locks of a job that die with their holder, and who holds them.

A job has two. `job` lets one run at a time change its history: backup, prune. `archives` lets any
number read its archives, or one delete some. Whoever needs both takes `job` first.

Each is an flock on a file in `PYBAK_HOME/locks` (`lock_file`). Who shares a catalog need not share
PYBAK_HOME: for an SQLite file elsewhere there is an flock in `locks` beside it as well, and for a
catalog on PostgreSQL a session advisory lock (`lock_server`), for several machines write there. The
kernel and the server let go of them when the process ends, however it ends; so there is nothing
stale to take over, and no time after which a lock counts as dead. What a file says about the holder
is for messages only.

Where a lock can't be had at all, for the file system of PYBAK_HOME, or of the file elsewhere, has
none or it can't be written, the run goes on and `Lock.problem` says so; whoever deletes things asks
`is_safe` first. A server that can't be reached leaves the flock alone. A catalog that a block names
is taken for one on a server.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pybak.catalog.lock_file import FileLock, Note, holder_at, note_at
from pybak.catalog.lock_server import ServerLock
from pybak.catalog.lock_wanted import Holder, Wanted
from pybak.display import printable
from pybak.errors import Interrupted
from pybak.home import HOME_VARIABLE, home
from pybak.home import catalog_url as own_catalog_url
from pybak.units import parse_duration

FOREVER: Final = math.inf

_FOLDER: Final = "locks"
_SQLITE: Final = "sqlite"
_LOCKS: Final = ("job-", "archives-")
_PAUSE_SECONDS: Final = 0.1
_MOST_PAUSE_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Lock:
    """A lock that is held. `problem` says what of it could not be had; see the module."""

    is_safe: bool
    problem: str | None = None
    files: tuple[FileLock, ...] = field(default=(), compare=False, repr=False)

    def note_run(self, run_id: str) -> None:
        """Write down which run holds it, where that was not known when it was taken."""
        for file in self.files:
            file.note(run_id)


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
    `folder` holds the files, by default as the module says. Raises LockedError, which names the
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
    folders = _folders(catalog_url, folder)
    if any(holder_at(one / wanted.file_name()) != Holder() for one in folders):
        return True
    server = ServerLock(wanted, catalog_url)
    try:
        return server.holder() != Holder()
    finally:
        server.release()


def noted(job: str, *, folder: Path | None = None) -> Note | None:
    """Read who took the lock of a job last; None where none was ever taken. Takes no lock.

    The catalog is the one that the environment names. `folder` is as for `job_lock`.
    """
    wanted = Wanted("job", job, shared=False, run_id=None)
    # In the last one all write themselves down who share the catalog.
    folders = reversed(_folders(own_catalog_url(), folder))
    notes = (note_at(one / wanted.file_name()) for one in folders)
    return next((note for note in notes if note is not None), None)


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

        def take(lock: FileLock | ServerLock) -> None:
            stack.callback(lock.release)
            patience.acquire(lock.try_once, lock.holder)

        file = FileLock(wanted, folder or home() / _FOLDER)
        take(file)
        catalog = _file_elsewhere(catalog_url) if folder is None else None
        # Where it has no folder the catalog itself can't be used, which is told.
        has_folder = catalog is not None and _is_made(catalog.parent)
        beside = _FileBeside(wanted, catalog) if catalog is not None and has_folder else None
        if beside is not None:
            take(beside)
        server = ServerLock(wanted, catalog_url)
        take(server)
        is_safe, problem = file.is_held or server.is_held, file.problem
        files: tuple[FileLock, ...] = (file,)
        if beside is not None:
            files = (file, beside)
            is_safe, problem = is_safe and beside.is_held, beside.problem or problem
        for one in files:
            one.note()
        yield Lock(is_safe=is_safe, problem=problem, files=files)


def _folders(catalog_url: str | None, folder: Path | None) -> list[Path]:
    """Give where the files of locks lie."""
    if folder is not None:
        return [folder]
    catalog = _file_elsewhere(catalog_url)
    return [home() / _FOLDER, *([catalog.parent / _FOLDER] if catalog is not None else [])]


def _file_elsewhere(catalog_url: str | None) -> Path | None:
    """Give the real path of an SQLite catalog that does not lie in PYBAK_HOME; None of others."""
    if catalog_url is None or not catalog_url.startswith(_SQLITE):
        return None
    here = home()
    path: str | None
    if catalog_url == own_catalog_url({HOME_VARIABLE: os.fspath(here)}):
        path = catalog_url.removeprefix(f"{_SQLITE}:///")
    else:
        from pybak.catalog.address import file_of, parse
        from pybak.catalog.failures import CatalogError

        try:
            path = file_of(parse(catalog_url))
        except CatalogError:
            return None
    if path is None:
        return None
    real = Path(os.path.realpath(path))
    # One lock that is taken twice would keep its own run away.
    is_here = _is_same(real.parent, here) or _is_same(real.parent / _FOLDER, here / _FOLDER)
    return None if is_here else real


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def _is_made(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder.is_dir()


class _FileBeside(FileLock):
    """The flock beside a catalog, for all who share it."""

    def __init__(self, wanted: Wanted, catalog: Path) -> None:
        folder = catalog.parent / _FOLDER
        with contextlib.suppress(OSError):  # which the lock tells
            _make_like(catalog, folder.name, wanted.file_name())
        super().__init__(wanted, folder)

    def _give_up(self, error: OSError) -> None:
        self.problem = (
            f"{printable(str(self._path.parent))}: can't hold locks "
            f"({(error.strerror or str(error)).lower()}), so nothing keeps two runs of a job "
            "apart that share the catalog and not PYBAK_HOME; let all who write the catalog write "
            "there, too, on a local disk"
        )
        self.release()


def _make_like(catalog: Path, folder: str, name: str) -> None:
    """Make the file of a lock for all who may write the catalog, as SQLite makes those beside it.

    The modes follow the catalog's; made by root, it is its owner's. Then nothing is gone through
    that somebody else may put in the way: all is opened step by step. Raises OSError.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.ExitStack() as stack:
        above = os.open(catalog.parent, flags)
        stack.callback(os.close, above)
        about = os.stat(catalog.name, dir_fd=above, follow_symlinks=False)
        is_for_other = os.geteuid() == 0 != about.st_uid
        owner = about.st_uid if is_for_other else -1
        shared = stat.S_IMODE(about.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
        if not (is_for_other or shared) or not stat.S_ISREG(about.st_mode):
            return
        if is_for_other and os.fstat(above).st_uid not in (0, owner):
            return
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700, dir_fd=above)
        here = os.open(folder, flags, dir_fd=above)
        stack.callback(os.close, here)
        names = os.listdir(here)
        # One that only happens to be called so is left as it is.
        if all(one.startswith(_LOCKS) for one in names) and not (is_for_other and names):
            _give(here, 0o700 | shared << 1 | shared | shared >> 1, owner, about.st_gid)
        if is_for_other and os.fstat(here).st_uid != owner:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=here)
        stack.callback(os.close, file)
        if stat.S_ISREG(os.fstat(file).st_mode):
            _give(file, 0o600 | shared << 1 | shared, owner, about.st_gid)


def _give(fd: int, mode: int, owner: int, group: int) -> None:
    """Give what is our own a mode, unless it has all of it by now."""
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or (owner == -1 and status.st_mode & mode == mode):
        return
    with contextlib.suppress(OSError):  # a group that one is not in
        os.fchown(fd, owner, group)
    os.fchmod(fd, mode)


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
