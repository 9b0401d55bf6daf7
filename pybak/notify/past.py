"""How the runs of a job ended before: what decides whether there is news.

A small file for each kind of run and job, in `PYBAK_HOME/notices`. It is there for runs that the
catalog knows nothing of, too: those that failed before they reached it, or because of it. Where it
can't be written, which may be the very problem, one in the folder for temporary files stands in
for it: without a memory each run would be news.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class Past:
    """How the last run ended: `problem` is what was wrong, None if nothing.

    After a mail it is the problem that this one told of, at `told_at`. `since` is when the trouble
    began and `times` how often it came since. Times are aware, in ISO format.
    """

    problem: str | None = None
    since: str | None = None
    told_at: str | None = None
    times: int = 0

    def told_seconds_ago(self, now: datetime) -> float | None:
        """Give how long ago a mail told of it; None if none did."""
        try:
            told = datetime.fromisoformat(self.told_at) if self.told_at else None
            return (now - told).total_seconds() if told else None
        except (ValueError, TypeError):  # no time, or one without a zone
            return None


class PastFile:
    """Where the past of one kind of run of one job is kept."""

    def __init__(self, folder: Path, kind: str, what: str) -> None:
        key = f"{kind}\0{what}".encode("utf-8", "surrogateescape")
        self._path = folder / f"{kind}-{hashlib.sha256(key).hexdigest()[:32]}.json"
        there = hashlib.sha256(os.fsencode(self._path)).hexdigest()[:32]
        self._other = _temporary() / f"{there}.json"

    def read(self) -> Past:
        """Give what is known; where nothing is, or nothing that can be read, all was well."""
        return _read(self._other if self._is_elsewhere() else self._path)

    def write(self, past: Past) -> None:
        """Keep it, for the owner alone. Raises OSError."""
        try:
            _write(self._path, past)
        except OSError:
            self._other.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_ours(self._other.parent):
                raise
            _write(self._other, past)
            return
        if self._is_elsewhere():
            with contextlib.suppress(OSError):
                self._other.unlink()

    def _is_elsewhere(self) -> bool:
        return _is_ours(self._other.parent) and self._other.exists()


def _temporary() -> Path:
    return Path(os.environ.get("TMPDIR") or "/tmp", f"pybak-{os.getuid()}")  # noqa: S108 - _is_ours


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder that nobody else can write."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    is_mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return is_mine and not found.st_mode & 0o022


def _read(path: Path) -> Past:
    try:
        found = json.loads(path.read_bytes())
        past = Past(**{name: found.get(name) for name in ("problem", "since", "told_at")})
        times = found.get("times")
    except (OSError, ValueError, AttributeError):
        return Past()
    is_text = all(isinstance(v, str | None) for v in (past.problem, past.since, past.told_at))
    if not is_text or not isinstance(times, int):
        return Past()
    return Past(past.problem, past.since, past.told_at, times)


def _write(path: Path, past: Past) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(past), file)
        unfinished.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
