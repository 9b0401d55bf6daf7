"""A lock that is wanted, by the names that file and server know it by, and who holds it."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from datetime import datetime

from pybak.display import printable
from pybak.errors import LockedError


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
        where = f" on {printable(self.host)}" if self.host and self.host != this_host() else ""
        since = f", since {self.since.astimezone():%Y-%m-%d %H:%M:%S}" if self.since else ""
        return who + where + since


@dataclass(frozen=True)
class Wanted:
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
        """Give the name of the file that is locked."""
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
        """Give the error for a lock that `holder` has and keeps."""
        # Whoever only reads has no such option.
        advice = "" if self.shared or waited else ", or wait with --wait"
        return LockedError(f"{self.trouble} ({holder}); try again when it has ended{advice}")


def this_host() -> str:
    """Give the name that holders on this machine write down."""
    return socket.gethostname()


def is_alive(pid: int | None) -> bool:
    """Whether a process of this machine lives."""
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
