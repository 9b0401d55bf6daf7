"""Servers that tests start: on 127.0.0.1, each in a process group of its own, stopped for sure."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

_SECONDS = 60


def free_port() -> int:
    """Give a port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; what it says goes to `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=log.parent, stdin=subprocess.DEVNULL,
            stdout=out, stderr=out, env=None if env is None else {**os.environ, **env},
            start_new_session=True, preexec_fn=_end_with_parent,
        )  # fmt: skip
    try:
        yield process
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, how)
                process.wait(5)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        process.wait(5)


@contextmanager
def all_running(
    commands: Mapping[str, Sequence[str | Path]], folder: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run several servers, each named by what its log is called."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(running(command, folder / f"{name}.log"))
            for name, command in commands.items()
        ]


def wait_until(
    ready: Callable[[], object], processes: Sequence[subprocess.Popen[bytes]], folder: Path
) -> None:
    """Wait until `ready` raises nothing; fail with the logs when a server ends before that."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            ready()
            return
        except Exception as error:
            if time.monotonic() > deadline or any(p.poll() is not None for p in processes):
                logs = "\n".join(f"{p.name}: {p.read_text()}" for p in folder.glob("*.log"))
                raise AssertionError(f"no server: {error}\n{logs}") from error
            time.sleep(0.05)


def _end_with_parent() -> None:
    """Let the server go when the tests are killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
