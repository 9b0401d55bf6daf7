"""Runs commands in processes forked from one that has imported Prefect and the flows already.

The imports are nine tenths of what a small command computes. A forked command has everything else
of its own: process group, environment, folder, arguments, outputs. What happens before and during
the imports is tried by commands that are started whole (`Commands.running`).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parent.parent
_FLOWS = ("backup", "restore", "verify", "prune", "drill", "rebuild", "transfer", "inbox", "mirror")
# What the flows import when they run.
_LATER = (
    "distributed.http.scheduler", "distributed.http.worker", "fastapi.encoders", "prefect.engine",
    "prefect.flow_engine", "prefect.task_engine", "prefect.utilities.visualization",
    "tornado.platform.asyncio",
)  # fmt: skip
# Read while Python starts or while modules are imported.
_EARLY = ("PREFECT_", "DASK_", "PYTHON", "LC_", "LANG", "LD_")
_START_SECONDS = 120.0


def early(environ: Mapping[str, str]) -> dict[str, str]:
    """Give the variables that a process must have had from its start."""
    return {name: value for name, value in environ.items() if name.startswith(_EARLY)}


class ForkServer:
    """A process that forks commands, one at a time. It ends with the process that made it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Start it with an environment that names the Prefect server to use."""
        self.early = early(environ)
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=dict(environ), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._socket.settimeout(_START_SECONDS)
        assert self._socket.recv(1) == b"+", "the flows cannot be imported"
        self._free = threading.Lock()

    def run(
        self, command: Sequence[str], environ: Mapping[str, str], cwd: Path, timeout: float
    ) -> tuple[int, str, str] | None:
        """Run a script of `flows/` to its end; give exit code and both outputs.

        Gives None if a command is at work already. What is left of its process group at the end
        is killed. Raises TimeoutExpired.
        """
        if not self._free.acquire(blocking=False):
            return None
        with contextlib.ExitStack() as undo:
            undo.callback(self._free.release)
            ends = [os.pipe(), os.pipe()]
            for fd, _ in ends:
                undo.callback(os.close, fd)
            request = json.dumps([list(command), dict(environ), str(cwd)]).encode()
            socket.send_fds(
                self._socket, [len(request).to_bytes(4, "little")], [end for _, end in ends]
            )
            for _, end in ends:
                os.close(end)
            self._socket.sendall(request)
            self._socket.settimeout(timeout)
            pid = self._number()
            try:
                texts = _read([fd for fd, _ in ends], time.monotonic() + timeout)
                code = self._number()
            except TimeoutError:
                _kill_group(pid)
                self._socket.settimeout(None)
                self._number()
                raise subprocess.TimeoutExpired(list(command), timeout) from None
            _kill_group(pid)
            return code, texts[0], texts[1]

    def _number(self) -> int:
        return int.from_bytes(_exactly(self._socket, 8), "little", signed=True)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _read(fds: Sequence[int], deadline: float) -> list[str]:
    """Read several pipes to their ends. Raises TimeoutError."""
    texts = {fd: bytearray() for fd in fds}
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                if piece := os.read(key.fd, 65536):
                    texts[key.fd] += piece
                else:
                    selector.unregister(key.fd)
    return [texts[fd].decode(errors="surrogateescape") for fd in fds]


def _exactly(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = connection.recv(size - len(got))
        assert piece, "the fork server has ended"
        got += piece
    return got


def _serve(connection: socket.socket) -> None:
    """Fork for each request until the other side goes."""
    import importlib

    from flows.support import environment

    environment.prepare(os.environ, os.environ["PREFECT_API_URL"], debug=False)
    for name in (*(f"flows.{name}" for name in _FLOWS), "flows.support.commands", *_LATER):
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()  # threads do not survive a fork
    gc.collect()
    gc.freeze()
    connection.sendall(b"+")
    while True:
        size, outputs, _, _ = socket.recv_fds(connection, 4, 2)
        if not size:
            return
        command, environ, cwd = json.loads(_exactly(connection, int.from_bytes(size, "little")))
        pid = os.fork()
        if pid == 0:
            connection.close()
            _become(command, environ, cwd, outputs)
        for fd in outputs:
            os.close(fd)
        connection.sendall(pid.to_bytes(8, "little"))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(code.to_bytes(8, "little", signed=True))


def _become(command: list[str], environ: dict[str, str], cwd: str, outputs: list[int]) -> None:
    """Be the command: never returns."""
    code: Any = 1
    try:
        os.setsid()
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        for fd in outputs:
            os.close(fd)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environ)
        time.tzset()
        sys.argv = command
        sys.path[0] = os.path.dirname(command[0])
        runpy.run_path(command[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    sys.path[0] = str(_PROJECT)
    with socket.socket(fileno=int(sys.argv[1])) as served:
        _serve(served)
