"""Mails that wait to be sent, in `PYBAK_HOME/outbox`: a file each, for the owner's eyes only.

A mail is put here before it is sent and taken away once a server has it, so that neither a server
that is down nor a kill loses it. Whoever sends one holds a lock on its file, so that runs side by
side do not send it twice. One that a server refused for good is set aside for a day. What is old,
or too much, goes: the newest say what matters.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pybak.notify.letter import Letter

MOST_LETTERS: Final = 100
MOST_AGE: Final = timedelta(days=7)
MOST_BYTES: Final = 4_000_000
"""Larger ones are not kept, and larger files here are none of ours."""
ASIDE: Final = timedelta(days=1)
"""How long a letter that was refused for good is not tried again."""

_SUFFIX: Final = ".letter"
_UNFINISHED: Final = ".new"
_REFUSED: Final = ".refused"


class Outbox:
    """The mails of one folder, which is made when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, letter: Letter, now: datetime) -> Path:
        """Keep a letter. Raises OSError if the folder can't be written, or it is too large."""
        data = letter.to_json()
        if len(data) > MOST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{int(now.timestamp() * 1000):015d}-{letter.id}"
        path, unfinished = self._folder / (name + _SUFFIX), self._folder / (name + _UNFINISHED)
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        return path

    def waiting(self, block: str | None = None) -> list[Path]:
        """Give the letters that wait, the oldest first: those that a block may send now, or all."""
        if block is None:
            return self._files(_SUFFIX, _REFUSED)
        return [
            path
            for path in self._files(_SUFFIX)
            if (letter := _read(path)) and letter.block == block
        ]

    def is_due(self, block: str, now: datetime, pause: timedelta) -> bool:
        """Whether letters wait that nobody has tried to send for a while."""
        return any(_is_left_alone(path, now, pause) for path in self.waiting(block))

    def trying(self, block: str) -> None:
        """Remember that the letters of a block are tried now, whatever comes of it."""
        for path in self.waiting(block):
            with contextlib.suppress(OSError):
                os.utime(path)

    def set_aside(self, path: Path) -> None:
        """Have a letter wait for a day: what refused it will refuse it again."""
        with contextlib.suppress(OSError):
            path.rename(path.with_suffix(_REFUSED))

    @contextmanager
    def claimed(self, path: Path) -> Iterator[Letter | None]:
        """Hold a letter while it is sent; None if it is gone, or another run holds it."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            yield None
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # Without locks on this file system a mail that arrives twice is better than none.
                if isinstance(error, BlockingIOError):
                    yield None
                    return
            if not os.fstat(descriptor).st_nlink:  # sent between listing and locking
                yield None
                return
            yield _read(path)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Take away a letter that is sent."""
        with contextlib.suppress(OSError):
            path.unlink()

    def tidy(self, now: datetime) -> int:
        """Drop letters that are too old, or too many, and what kills left; give how many.

        Those whose day aside is over wait again: somebody may have corrected the block.
        """
        oldest = (now - MOST_AGE).timestamp()
        found = self.waiting()
        late = [path for path in found if _written(path) < oldest]
        rest = [path for path in found if path not in set(late)]
        dropped = late + rest[: max(len(rest) - MOST_LETTERS, 0)]
        for path in dropped:
            self.remove(path)
        for path in self._files(_REFUSED):
            if _is_left_alone(path, now, ASIDE):
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(_SUFFIX))
        for path in self._files(_UNFINISHED):
            if _written(path) < (now - timedelta(hours=1)).timestamp():
                self.remove(path)
        return len(dropped)

    def _files(self, *suffixes: str) -> list[Path]:
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(suffixes))
        except OSError:
            return []
        return [self._folder / name for name in names]


def _written(path: Path) -> float:
    """Give when a letter was written, by its name; what has another name counts as new."""
    digits = path.name.partition("-")[0]
    return int(digits) / 1000 if digits.isascii() and digits.isdigit() else time.time()


def _is_left_alone(path: Path, now: datetime, pause: timedelta) -> bool:
    """Whether a letter was not tried for so long; one that is gone is no matter."""
    try:
        return not 0 <= now.timestamp() - path.stat().st_mtime <= pause.total_seconds()
    except OSError:
        return False


def _read(path: Path) -> Letter | None:
    """Read a letter; what is none is left alone until it is old."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        return Letter.from_json(path.read_bytes())
    except (OSError, ValueError):
        return None
