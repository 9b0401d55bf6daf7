"""A PostgreSQL server of the tests' own, from the machine's packages.

`running_server()` makes one that listens on 127.0.0.1 and asks for a password. PostgreSQL refuses
to run as root, so there it runs as the user `postgres` that its package makes.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

USER = "pybak"
PASSWORD = "se:cr/et@1"
_AT_ONCE = signal.SIGQUIT  # which shuts it down without tidying up
_PACKAGED = Path("/usr/lib/postgresql")
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    # Times must not depend on the server's zone.
    "timezone": "Pacific/Auckland",
}


def binaries() -> Path | None:
    """Give the folder of `initdb` and `postgres`: the newest of Debian's, or that on PATH."""
    found = [path.parent for path in _PACKAGED.glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))])
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@dataclass(frozen=True)
class Server:
    """A server that runs; each test gets a database of its own."""

    port: int
    folder: Path

    def url(self, database: str = "postgres", password: str | None = PASSWORD) -> str:
        """Give the URL of a database as a person would write it."""
        from urllib.parse import quote

        secret = f":{quote(password, safe='')}" if password is not None else ""
        return f"postgresql://{USER}{secret}@127.0.0.1:{self.port}/{database}"

    def new_database(self, name: str) -> str:
        """Make an empty database; give its URL."""
        self.run(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever still uses it."""
        self.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement outside of a transaction; give its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextmanager
def running_server(*, durable: bool = False) -> Iterator[Server]:
    """Run a new server until the end of the block; one that is `durable` syncs what it writes."""
    programs = binaries()
    assert programs is not None, "there is no PostgreSQL; run .ci/install-components"
    # Its user must reach the folder, and a socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="pybak-pg-", dir="/tmp"))
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        for path in (folder, secret):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    data = folder / "data"
    settings = _SETTINGS if durable else _SETTINGS | _NOT_DURABLE
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", "--pwfile", secret,
             "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"],
            cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=120,
            **_account(),
        )  # fmt: skip
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, "-p", str(port), "-k", folder, *options],
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=_end_with_parent, **_account(),
            )  # fmt: skip
        server = Server(port, folder)
        try:
            _wait(process, server)
            yield server
        finally:
            process.send_signal(_AT_ONCE)
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> dict[str, Any]:
    """Give whose process it is, for Popen."""
    if os.geteuid() != 0:
        return {}
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


def _end_with_parent() -> None:
    """Let the server go when the tests are killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, _AT_ONCE)  # PR_SET_PDEATHSIG


def _wait(process: subprocess.Popen[bytes], server: Server) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            server.run("SELECT 1")
            return
        except psycopg.OperationalError:
            ended = process.poll() is not None or time.monotonic() > deadline
            assert not ended, (server.folder / "log").read_text()
            time.sleep(0.02)
