"""A command on a terminal of its own: what it asks, what shows, what someone types."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

# Only the leader of a session can take a terminal as its own.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


class Terminal:
    """Runs a program on a new terminal; a context manager that ends it.

    `shown` is all that appeared so far, an echo of what was typed included.
    """

    def __init__(self, words: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x18\x00\x50\x00\x00\x00\x00\x00")  # 24 by 80
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *map(str, words)],
            stdin=theirs, stdout=theirs, stderr=theirs, env=dict(env), cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self._raw = b""

    @property
    def shown(self) -> str:
        """What the terminal has shown."""
        return self._raw.decode("utf-8", "replace")

    def wait_for(self, text: str, *, count: int = 1, seconds: float = 60) -> None:
        """Return when `text` has appeared `count` times; fail after a while."""
        deadline = time.monotonic() + seconds
        while self.shown.count(text) < count:
            assert self._read(deadline), f"{text!r} did not appear in:\n{self.shown}"

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._ours, line.encode() + b"\n")

    def press(self, key: bytes) -> None:
        """Press a key, such as Ctrl-C, which is \\x03."""
        os.write(self._ours, key)

    def finish(self, seconds: float = 120) -> int:
        """Read to the end and give the exit code."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(timeout=5)

    def _read(self, deadline: float) -> bool:
        """Take what comes next; False at the end and when time is up."""
        left = max(deadline - time.monotonic(), 0)
        # Not `select`, which knows no descriptor above 1023.
        ready = select.poll()
        ready.register(self._ours, select.POLLIN)
        if not ready.poll(left * 1000):
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # EIO: nobody holds the other side any more
            return False
        self._raw += data
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
