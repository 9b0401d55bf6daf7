"""The Prefect server and the worker of a soak, as processes that can be killed and weighed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.measure import REPOSITORY
from flows.support.server import is_healthy

_HEALTHY_SECONDS = 180


def free_port() -> int:
    """Give a port of the loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Service:
    """One long-lived process in a group of its own, with a log that outlives its restarts."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        """Take the words after `python`; nothing is started yet."""
        self._words = words
        self._environ = environ
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again if need be."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._words], env=self._environ, cwd=REPOSITORY,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """End it and all it started as a power cut would."""
        self._end(signal.SIGKILL, 10)

    def stop(self) -> None:
        """Ask it to end, and make it."""
        self._end(signal.SIGTERM, 60)
        self.kill()

    def _end(self, how: signal.Signals, patience: float) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)

    def weigh(self) -> tuple[int, int]:
        """Give the proportional set size in bytes of the process, and of those it started."""
        own = others = 0
        with contextlib.suppress(psutil.Error, AttributeError):
            parent = psutil.Process(self._process.pid)  # type: ignore[union-attr]
            own = parent.memory_full_info().pss
            for child in parent.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    others += child.memory_full_info().pss
        return own, others


def wait_until_healthy(url: str) -> None:
    """Return when the server at this API address answers. Raises TimeoutError."""
    deadline = time.monotonic() + _HEALTHY_SECONDS
    while not is_healthy(url):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url}: no server answers")
        time.sleep(0.5)
