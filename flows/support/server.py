"""One Prefect server for a command: found if one runs, else started and stopped again.

How one is found is in `pybak.prefect_server`. Nothing here imports Prefect, so that the server
starts while Prefect is being imported.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from pybak.home import CATALOG_VARIABLE, can_write
from pybak.password import PASSWORD_VARIABLE
from pybak.prefect_server import (
    DEFAULT_URL,
    SERVER_AUTH_VARIABLE,
    PasswordError,
    ServerError,
    find_server,
    is_healthy,
    is_own_listener,
    prefect_home,
    standing_server,
)

__all__ = [
    "DEFAULT_URL",
    "PasswordError",
    "ServerError",
    "TemporaryServer",
    "find_server",
    "is_healthy",
    "is_own_listener",
    "standing_server",
]

_START_SECONDS = 120.0  # migrations of a first database on a slow disk
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.03
_SECRETS: Final = (PASSWORD_VARIABLE, CATALOG_VARIABLE)

# What makes a server that lives for minutes start quickly. The names with two underscores are
# Prefect's own private ones, which its built-in temporary server gets too.
_SERVER_SETTINGS: Final = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
    "PREFECT_SERVER_UI_ENABLED": "0",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "0",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}

# What the environment may say otherwise.
_WISHES: Final = {"PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P3D"}


def _without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Give the environment without passwords, which are no business of a server."""
    return {name: value for name, value in environ.items() if name not in _SECRETS}


def _take_turn(environ: Mapping[str, str]) -> int | None:
    """Hold the lock under which servers of one Prefect home start; None where there is none."""
    home = prefect_home(environ)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(home / "pybak-start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        os.close(lock)
        return None
    return lock


class TemporaryServer:
    """A server process of our own; a context manager that stops it."""

    def __init__(self, log: Path, *, auth: str | None = None) -> None:
        """Start it at once, on a free port of the loopback address; it logs to `log`.

        With `auth`, user:password, it answers nobody else: whoever is on this machine reaches the
        port, and by it blocks and deployments. Waits while another one starts: both would make the
        tables of a first database.
        """
        self.auth = auth
        environ = _WISHES | _without_secrets(os.environ) | _SERVER_SETTINGS
        if auth is not None:
            environ[SERVER_AUTH_VARIABLE] = auth
        self._start_lock = _take_turn(os.environ)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            listener.set_inheritable(True)
            self._log = log
            with self._open_log() as output:
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    [sys.executable, "-m", "flows.support.serve_api", str(listener.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environ,
                    umask=0o077,  # its database may have blocks with credentials
                    pass_fds=[listener.fileno()],
                    start_new_session=True,
                )

    def _open_log(self) -> BinaryIO:
        try:
            self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return self._log.open("wb")
        except OSError as error:
            self._end_turn()
            raise ServerError(
                f"{self._log.parent}: {(error.strerror or str(error)).lower()}; "
                "set PYBAK_HOME to a folder you can write"
            ) from error

    def wait(self) -> None:
        """Return when it answers. Raises ServerError if it does not."""
        deadline = time.monotonic() + _START_SECONDS
        while not is_healthy(self.url):
            if self._process.poll() is not None:
                if not can_write(place := prefect_home(os.environ)):
                    what = "can't be written; set PREFECT_HOME to a folder you can write"
                    raise ServerError(f"{place}: {what}")
                raise ServerError(f"Prefect's server did not start; see {self._log}")
            if time.monotonic() > deadline:
                raise ServerError(
                    f"Prefect's server did not answer in {_START_SECONDS:.0f} s; see {self._log}"
                )
            time.sleep(_POLL_SECONDS)
        self._end_turn()

    def _end_turn(self) -> None:
        if self._start_lock is not None:
            os.close(self._start_lock)
            self._start_lock = None

    def stop(self) -> None:
        """Let it finish what it was sent, then end it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._end_turn()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
