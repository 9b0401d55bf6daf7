"""Whether a file is still being written: by its name, by its times, by who has it open.

- Names that programs give to what is not finished are left (`is_unfinished`).
- A file is left until nothing about it changed for some seconds. That is judged by ctime, which
  every write and every rename moves and which nobody can set back, as `cp -p` does with mtime.
- On Linux a read lease is asked for, which the kernel refuses while anybody has the file open for
  writing (fcntl(2), F_SETLEASE). Only a file's owner and root get one, and not on every file
  system; where one is refused, a file must have been left alone for UNLEASED_SECONDS. Where there
  are none at all, the other two must do.
"""

from __future__ import annotations

import errno
import fcntl
import re
import signal
from typing import Any, Final, Self

UNFINISHED_NAMES: Final = (
    "*.part", "*.partial", "*.filepart", "*.crdownload", "*.download", "*.opdownload", "*.tmp",
    "*.temp", "*.swp", "*.swo", "*.swx", "*~", ".~lock.*#", ".nfs*", ".fuse_hidden*", ".*.??????",
)  # fmt: skip
"""Names of what is not finished, for people; the last are those of rsync."""

_UNFINISHED: Final = re.compile(
    rb".+\.(?:part|partial|filepart|crdownload|download|opdownload|tmp|temp|sw[opx])"
    rb"|.*~|\.~lock\..*#|\.nfs[0-9a-f]+|\.fuse_hidden.*|\..+\.[A-Za-z0-9]{6}",
    re.DOTALL | re.IGNORECASE,
)
UNLEASED_SECONDS: Final = 60.0
"""How long nothing must have changed where no lease is to be had: uploads pause."""
_AHEAD_SECONDS: Final = 60.0
"""Clocks of file servers differ by so much."""
_NS: Final = 1_000_000_000
_EVER: Final = 1 << 63
# Missing where there are no leases.
_SET_LEASE: Final = getattr(fcntl, "F_SETLEASE", None)
_GET_LEASE: Final = getattr(fcntl, "F_GETLEASE", None)
_SET_SIGNAL: Final = 10
"""F_SETSIG of Linux, which Python names only from 3.13 on."""


def is_unfinished(name: bytes) -> bool:
    """Whether a file's name, without its folder, is one of UNFINISHED_NAMES."""
    return _UNFINISHED.fullmatch(name) is not None


def is_young(mtime_ns: int, ctime_ns: int, *, now_ns: int, settle_seconds: float) -> bool:
    """Whether a file changed less than `settle_seconds` ago, or in what this clock calls later.

    A file whose mtime lies ahead is not young: people set that.
    """
    if settle_seconds <= 0:
        return False
    newest = max(ctime_ns, mtime_ns if mtime_ns <= now_ns else 0)
    return newest > now_ns - settle_seconds * _NS


def is_ahead(ctime_ns: int, *, now_ns: int, settle_seconds: float) -> bool:
    """Whether a file changed at a time that this clock has yet to come to, so that it would wait.

    A clock that was set back does that, or one of a file server.
    """
    return settle_seconds > 0 and ctime_ns > now_ns + _AHEAD_SECONDS * _NS


def quiet_since(now_ns: int, settle_seconds: float) -> int:
    """Give since when a file must be as it is where no lease is to be had, in ns.

    Without a time to settle that is never asked for.
    """
    if settle_seconds <= 0:
        return _EVER
    return now_ns - int(max(settle_seconds, UNLEASED_SECONDS) * _NS)


class BusyError(Exception):
    """Somebody has the file open for writing."""


class Lease:
    """A read lease on an open file: whoever wants to write it waits, and this one is told.

    Hold it for moments only: writers wait for it. `is_held` is False where none can be had, and
    `is_refused` is True if there are leases, but not for us or not on this file system.
    """

    def __init__(self, fd: int) -> None:
        """Take it on a descriptor that is open for reading only; raises BusyError."""
        self._fd = fd
        self.is_held = self.is_refused = False
        if _SET_LEASE is None:
            return
        try:
            # The signal that tells of a writer would end the process, were it the usual one.
            fcntl.fcntl(fd, _SET_SIGNAL, signal.SIGURG)
            fcntl.fcntl(fd, _SET_LEASE, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EBUSY):
                raise BusyError from error
            self.is_refused = True
        else:
            self.is_held = True

    @property
    def is_whole(self) -> bool:
        """Whether nobody has wanted to write since it was taken; True where there is none."""
        if not self.is_held or _GET_LEASE is None:
            return True
        held: int = fcntl.fcntl(self._fd, _GET_LEASE)
        return held == fcntl.F_RDLCK

    def release(self) -> None:
        """Let writers go on; does nothing the second time."""
        if self.is_held and _SET_LEASE is not None:
            self.is_held = False
            fcntl.fcntl(self._fd, _SET_LEASE, fcntl.F_UNLCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()


def check_writers(fd: int) -> bool:
    """Raise BusyError if somebody has the open file open for writing.

    False if that can't be told because a lease was refused.
    """
    lease = Lease(fd)
    lease.release()
    return not lease.is_refused
