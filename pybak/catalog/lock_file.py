"""The flock of a lock, on a file that says who took it.

Where it can't be had, for the file system has none or can't be written, `problem` says so. The
files stay: removing one would let two processes lock two files of one name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pybak.catalog.lock_wanted import Holder, Wanted, is_alive, this_host
from pybak.display import printable

_TAKEN: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
"""What `flock` fails with where somebody else has the lock."""
_NOTE_BYTES: Final = 1024
_JOB_CHARACTERS: Final = 100


class FileLock:
    """The flock on this machine, or where PYBAK_HOME is shared and its file system can, on all."""

    def __init__(self, wanted: Wanted, folder: Path) -> None:
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

    def note(self, run_id: str | None = None) -> None:
        """Write down who holds it: the run that wanted it, or the one that turned out to be."""
        if not self.is_held:
            return
        about = {
            "pid": os.getpid(),
            "host": this_host(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "run_id": run_id or self._wanted.run_id,
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
    return found if found.host != this_host() or is_alive(found.pid) else Holder()


def holder_at(path: Path) -> Holder:
    """Tell who has the lock on the file `path`, as `FileLock.holder` does; takes no lock."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return Holder()
    try:
        return _noted(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Note:
    """What the file of a job's lock says of who took it last.

    `run_id` is None after that one let go; `is_alive` is None for one on another machine.
    """

    run_id: str | None = None
    is_alive: bool | None = None


def note_at(path: Path) -> Note | None:
    """Read what the file `path` says; None where there is none."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    try:
        about = json.loads(data)
        run_id, host, pid = about["run_id"], str(about["host"]), int(about["pid"])
    except (ValueError, KeyError, TypeError):
        return Note()
    return Note(run_id, is_alive(pid) if host == this_host() else None)
