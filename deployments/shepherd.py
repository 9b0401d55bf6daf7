"""Runs a Prefect worker in a container; told to stop, it ends the worker's runs before the worker.

    python -m deployments.shepherd [--patience SECONDS] python deployments/start.py worker

A worker that gets SIGTERM goes at once and leaves its runs to themselves, which in a container ends
them by SIGKILL: they would stay Running for ten minutes more. Here they get SIGTERM, come to their
own end as Cancelled, and then the worker gets it. What has lost its parent is collected, and ended
as well. What is still there after 50 s is killed, so that the container ends and can start again.
Ends with the code of the command, 128 + N if a signal N ended it. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

_TO_STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WATCHED: Final = (*_TO_STOP, signal.SIGCHLD)
_TICK_SECONDS: Final = 0.2
_PATIENCE_SECONDS: Final = 50.0
"""Less than what container engines are told to wait before they kill all of it."""
_LAST_SECONDS: Final = 5.0
"""After SIGKILL, which what hangs in the system does not follow either."""
_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)


def main(words: Sequence[str]) -> int:
    """Run the command and see to its end; give the exit code."""
    patience = _PATIENCE_SECONDS
    if words[:1] == ["--patience"] and len(words) > 1:
        patience, words = float(words[1]), words[2:]
    if not words:
        print("name the command to run", file=sys.stderr)  # noqa: T201
        return 2
    # Children that lose their parent become ours, also where we are not the first process.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        worker = os.posix_spawnp(words[0], list(words), os.environ, setsigmask=())
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127
    return _attend(worker, patience)


def _attend(worker: int, patience: float) -> int:
    code: int | None = None
    asked = 0
    told: set[int] = set()
    ends_at = float("inf")
    while True:
        for pid, status in _ended():
            told.discard(pid)
            if pid == worker:
                code = status
        children = _children(os.getpid())
        if code is not None and not children:
            return code
        if asked or code is not None:
            now = time.monotonic()
            ends_at = min(ends_at, now + patience)
            runs = _children(worker) if code is None else set()
            # A second signal is for those who don't want to wait.
            last = {worker} if code is None and (not runs or asked > 1) else set()
            due = runs | (children - {worker}) | last
            _send(signal.SIGTERM, due - told)
            told |= due
            if now > ends_at:
                _send(signal.SIGKILL, runs | children)
            if now > ends_at + _LAST_SECONDS:
                return code or 128 + signal.SIGKILL
        heard = signal.sigtimedwait(_WATCHED, _TICK_SECONDS if asked or code is not None else 3600)
        if heard is not None and heard.si_signo in _TO_STOP:
            asked += 1


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _ended() -> list[tuple[int, int]]:
    """Collect the children that have ended, with their exit codes as a shell tells them."""
    found: list[tuple[int, int]] = []
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(ended[1])
            found.append((ended[0], code if code >= 0 else 128 - code))
    return found


def _children(parent: int) -> set[int]:
    """Give the processes that are alive and have this parent."""
    return {pid for pid, (state, of) in _processes().items() if of == parent and state not in "ZX"}


def _processes() -> Mapping[int, tuple[str, int]]:
    """Give state and parent of each process (proc(5), /proc/PID/stat)."""
    found: dict[int, tuple[str, int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                # The second field, the name, may hold blanks and brackets.
                after = (folder / "stat").read_bytes().rpartition(b")")[2].split()
                found[int(folder.name)] = (after[0].decode(), int(after[1]))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
