"""Locks of a job that die with their holder, and who holds them.

A job has two. `job` lets one run at a time change its history: backup, prune. `archives` lets any
number read its archives, or one delete some. Whoever needs both takes `job` first.

Each is an flock on a file in `PYBAK_HOME/locks`, and for a catalog on PostgreSQL a session advisory
lock besides, for several machines write there. The kernel and the server let go of them when the
process ends, however it ends; so there is nothing stale to take over, and no time after which a
lock counts as dead. The files stay: removing one would let two processes lock two files of one
name. What a file says about the holder is for messages only.

Where a lock can't be had at all, for the file system of PYBAK_HOME has none or it can't be
written, the run goes on and `Lock.problem` says so; whoever deletes things asks `is_safe` first.
A catalog that can't be reached leaves the flock alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pybak.display import printable
from pybak.errors import Interrupted, LockedError
from pybak.home import home
from pybak.units import parse_duration

if TYPE_CHECKING:
    from sqlalchemy import Connection

FOREVER: Final = math.inf

_FOLDER: Final = "locks"
_PAUSE_SECONDS: Final = 0.1
_MOST_PAUSE_SECONDS: Final = 0.5
_TAKEN: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
"""What `flock` fails with where somebody else has the lock."""
_NOTE_BYTES: Final = 1024
_JOB_CHARACTERS: Final = 100
_SQLITE: Final = "sqlite"
_CONNECT_SECONDS: Final = 10
_NAME_BYTES: Final = 63
"""What a server keeps of an application's name."""


@dataclass(frozen=True)
class Holder:
    """Who has a lock, as far as known. `since` is aware."""

    pid: int | None = None
    host: str | None = None
    since: datetime | None = None
    run_id: str | None = None

    def __str__(self) -> str:
        """Say it in a message: `process 4711 on nas, since 2026-11-21 10:15:00`."""
        who = f"process {self.pid}" if self.pid is not None else "another run"
        where = f" on {printable(self.host)}" if self.host and self.host != _host() else ""
        since = f", since {self.since.astimezone():%Y-%m-%d %H:%M:%S}" if self.since else ""
        return who + where + since


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
        _Wanted("job", job, shared=False, run_id=run_id), wait, catalog_url, cancelled, on_wait,
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
        _Wanted("archives", job, shared=shared, run_id=run_id), wait, catalog_url, cancelled,
        on_wait, folder,
    )  # fmt: skip


def is_locked(job: str, *, catalog_url: str | None = None, folder: Path | None = None) -> bool:
    """Whether a run is changing the history of `job`, as far as holders wrote themselves down.

    It takes no lock, not for a moment: a run that begins just then would be refused.
    """
    wanted = _Wanted("job", job, shared=False, run_id=None)
    path = (folder or home() / _FOLDER) / wanted.file_name()
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if _noted(fd) != Holder():
                return True
        finally:
            os.close(fd)
    server = _ServerLock(wanted, catalog_url)
    try:
        return server.holder() != Holder()
    finally:
        server.release()


@dataclass(frozen=True)
class Note:
    """What the file of a job's lock says of who took it last.

    `run_id` is None after that one let go; `is_alive` is None for one on another machine.
    """

    run_id: str | None = None
    is_alive: bool | None = None


def noted(job: str, *, folder: Path | None = None) -> Note | None:
    """Read who took the lock of a job last; None where none was ever taken. Takes no lock.

    `folder` is as for `job_lock`.
    """
    wanted = _Wanted("job", job, shared=False, run_id=None)
    try:
        data = ((folder or home() / _FOLDER) / wanted.file_name()).read_bytes()
    except OSError:
        return None
    try:
        about = json.loads(data)
        run_id, host, pid = about["run_id"], str(about["host"]), int(about["pid"])
    except (ValueError, KeyError, TypeError):
        return Note()
    return Note(run_id, _is_alive(pid) if host == _host() else None)


def waiting_seconds(*, wait: bool, limit: str | None) -> float | None:
    """Give how long to wait for a lock, None for not at all; `limit` is a duration.

    A limit alone means to wait that long.
    """
    if limit is not None:
        return float(parse_duration(limit).total_seconds)
    return FOREVER if wait else None


@dataclass(frozen=True)
class _Wanted:
    """A lock to take."""

    kind: str
    job: str
    shared: bool
    run_id: str | None

    @property
    def digest(self) -> bytes:
        """What stands for kind and job in the file's name and the server's key."""
        data = f"{self.kind}\0{self.job}".encode("utf-8", "surrogateescape")
        return hashlib.sha256(data).digest()

    def file_name(self) -> str:
        return f"{self.kind}-{self.digest[:16].hex()}"

    def key(self) -> int:
        """Give the number of the advisory lock: 64 bits with a sign."""
        return int.from_bytes(self.digest[:8], "big", signed=True)

    @property
    def trouble(self) -> str:
        """What keeps from taking it."""
        what = (
            "another run of this job is at work" if self.kind == "job"
            else "its archives are being deleted" if self.shared
            else "its archives are being read"
        )  # fmt: skip
        return f"{printable(self.job)}: {what}"

    def refusal(self, holder: Holder, *, waited: bool) -> LockedError:
        # Whoever only reads has no such option.
        advice = "" if self.shared or waited else ", or wait with --wait"
        return LockedError(f"{self.trouble} ({holder}); try again when it has ended{advice}")


@contextmanager
def _lock(
    wanted: _Wanted,
    wait: float | None,
    catalog_url: str | None,
    cancelled: Callable[[], bool],
    on_wait: Callable[[str], object],
    folder: Path | None,
) -> Iterator[Lock]:
    patience = _Patience(wanted, wait or 0.0, cancelled, on_wait)
    with contextlib.ExitStack() as stack:
        file = _FileLock(wanted, folder or home() / _FOLDER)
        stack.callback(file.release)
        patience.acquire(file.try_once, file.holder)
        server = _ServerLock(wanted, catalog_url)
        stack.callback(server.release)
        patience.acquire(server.try_once, server.holder)
        file.note()
        yield Lock(is_safe=file.is_held or server.is_held, problem=file.problem)


class _Patience:
    """Tries until it works, the time is over or someone cancels; one deadline for all it tries."""

    def __init__(
        self,
        wanted: _Wanted,
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


class _FileLock:
    """The flock on this machine, or where PYBAK_HOME is shared and its file system can, on all."""

    def __init__(self, wanted: _Wanted, folder: Path) -> None:
        self._wanted = wanted
        self._path = folder / wanted.file_name()
        self._fd = -1
        self.is_held = False
        self.problem: str | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            self._give_up(error)

    def try_once(self) -> bool:
        """Take the lock if it is free; also True where there can't be one."""
        if self._fd < 0:
            return True
        mode = fcntl.LOCK_SH if self._wanted.shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._fd, mode | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            self._give_up(error)
        else:
            self.is_held = True
        return True

    def _give_up(self, error: OSError) -> None:
        self.problem = (
            f"{printable(str(self._path.parent))}: can't hold locks "
            f"({(error.strerror or str(error)).lower()}), so nothing keeps two runs of a job "
            "apart; put PYBAK_HOME on a local disk that can be written"
        )
        self.release()

    def note(self) -> None:
        """Write down who holds it."""
        if not self.is_held:
            return
        about = {
            "pid": os.getpid(),
            "host": _host(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "run_id": self._wanted.run_id,
            "job": self._wanted.job[:_JOB_CHARACTERS],
        }
        data = json.dumps(about).encode("ascii").ljust(_NOTE_BYTES - 1) + b"\n"
        with contextlib.suppress(OSError):  # a full disk; the lock itself will do
            os.pwrite(self._fd, data, 0)

    def holder(self) -> Holder:
        """Tell who wrote itself down last, unless that one is dead."""
        return _noted(self._fd)

    def release(self) -> None:
        """Let go; does nothing the second time."""
        if self.is_held and self.holder().pid == os.getpid():
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
        fd, self._fd, self.is_held = self._fd, -1, False
        if fd >= 0:
            # Also for children that were forked meanwhile and have the file open.
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


def _noted(fd: int) -> Holder:
    """Give who wrote itself into a lock's file last, unless that one is dead."""
    try:
        about = json.loads(os.pread(fd, 2 * _NOTE_BYTES, 0))
        found = Holder(
            pid=int(about["pid"]),
            host=str(about["host"]),
            since=datetime.fromisoformat(about["since"]),
            run_id=about["run_id"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Holder()
    return found if found.host != _host() or _is_alive(found.pid) else Holder()


class _ServerLock:
    """The session advisory lock on a connection of its own; none without PostgreSQL."""

    def __init__(self, wanted: _Wanted, catalog_url: str | None) -> None:
        self._wanted = wanted
        self.is_held = False
        self._connection: Connection | None = None
        if catalog_url is not None and not catalog_url.startswith(_SQLITE):
            self._connection = _connected(catalog_url)

    def try_once(self) -> bool:
        """Take the lock if it is free; also True without a server to ask."""
        kind = "_shared" if self._wanted.shared else ""
        row = self._ask(f"SELECT pg_try_advisory_lock{kind}(%s)", (self._wanted.key(),))
        self.is_held = row is not None and bool(row[0])
        return row is None or self.is_held

    def holder(self) -> Holder:
        """Tell whose connection has it."""
        key = self._wanted.key() % (1 << 64)
        row = self._ask(
            # A key of 64 bits stands there in two halves: the manual's page on pg_locks.
            "SELECT application_name, backend_start FROM pg_locks "
            "JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid::bigint = %s "
            "AND objid::bigint = %s AND pid <> pg_backend_pid() LIMIT 1",
            (key >> 32, key & 0xFFFF_FFFF),
        )
        if row is None:
            return Holder()
        program, _, rest = str(row[0]).partition(" ")
        pid, _, host = rest.partition(" ")
        if program != "pybak" or not pid.isdecimal():
            return Holder(since=row[1])
        return Holder(pid=int(pid), host=host, since=row[1])

    def _ask(self, statement: str, values: tuple[Any, ...]) -> Any:
        """Give the first row; None without a server, and from when it is lost."""
        if self._connection is None:
            return None
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return self._connection.exec_driver_sql(statement, values).first()
        except SQLAlchemyError:
            self.release()
            return None

    def release(self) -> None:
        """Let go by ending the connection; does nothing the second time."""
        connection, self._connection, self.is_held = self._connection, None, False
        if connection is not None:
            with contextlib.suppress(Exception):  # the server is gone, and the lock with it
                connection.invalidate()
            connection.close()
            connection.engine.dispose()


def _connected(catalog_url: str) -> Connection | None:
    """Open a connection that says in the server's list who we are; None if there is no server."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    from pybak.catalog.address import is_sqlite, parse
    from pybak.catalog.failures import CatalogError, translated

    name = f"pybak {os.getpid()} {_host()}"[:_NAME_BYTES]
    arguments = {"application_name": name, "connect_timeout": _CONNECT_SECONDS}
    try:
        url = parse(catalog_url)
        if is_sqlite(url):
            return None
        with translated(catalog_url, opening=True):
            engine = create_engine(
                url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=arguments
            )
            return engine.connect()
    except CatalogError:
        return None  # the flock alone counts then


def _host() -> str:
    return socket.gethostname()


def _is_alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
