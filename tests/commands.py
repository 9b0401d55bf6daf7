"""Runs `python flows/NAME.py …` the way a person does: in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fork_server import ForkServer, early

PROJECT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 120.0

# What tests start from that a process must have from its start; `tests/conftest.py` sets it.
SETTLED: dict[str, str] = {}

# Root without the two rights that let it read what its mode bits forbid.
_WITHOUT_OVERRIDE = "-dac_override,-dac_read_search"

Word = str | bytes | os.PathLike[str] | os.PathLike[bytes]


@dataclass(frozen=True)
class Finished:
    """What a command left behind: exit code and both outputs as text."""

    command: tuple[Word, ...]
    rc: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object that `--json` puts on stdout; fails if there is anything else."""
        try:
            value = json.loads(self.stdout)
        except ValueError as error:
            raise AssertionError(f"stdout is not one JSON object ({error})\n{self}") from None
        assert isinstance(value, dict), self
        return value

    def __str__(self) -> str:
        """Everything a failed assertion should show."""
        words = " ".join(str(word) for word in self.command)
        return f"$ {words}\nexit code {self.rc}\n{self.stdout}\n--- stderr\n{self.stderr}"


class Commands:
    """Runs commands with the environment of one test.

    Call it: `run("backup", source, "--to", folder, "--json").json["status"]`. Words may be text,
    bytes or paths. Every way takes

    - `env`: variables on top of the test's (a value of None removes one);
    - `cwd`: where it runs, by default the test's `tmp_path`;
    - `server=False`: leave PREFECT_API_URL out, so that the command brings its own server;
    - `powerless=True`: as root, give up the right to read what mode bits forbid; else nothing.
    """

    def __init__(self, cwd: Path, server_url: Callable[[], str]) -> None:
        """Run in `cwd` by default; `server_url` starts the session's server when first called."""
        self._cwd = cwd
        self._server_url = server_url

    def __call__(
        self,
        name: str,
        *words: Word,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        server: bool = True,
        powerless: bool = False,
        timeout: float = TIMEOUT_SECONDS,
        traceback: bool = False,
        stdin: str | None = None,
        whole: bool = False,
    ) -> Finished:
        """Run to the end. No traceback may show on stderr, unless `traceback` allows it.

        `stdin` is what it reads; nothing without it. Unless it is to be started as a `whole`, or
        its start differs from that of other tests' commands, it is forked from a process that
        has done the imports (`fork_server`).
        """
        started = time.monotonic()
        command: Sequence[Word] = [sys.executable, str(PROJECT / "flows" / f"{name}.py"), *words]
        forked = None
        if not whole and server and not powerless and stdin is None and "--debug" not in words:
            forked = self._forked(command[1:], env, cwd or self._cwd, timeout)
        if forked is None:
            with self.running(
                name, *words, env=env, cwd=cwd, server=server, powerless=powerless, stdin=stdin
            ) as process:
                stdout, stderr = process.communicate(stdin, timeout=timeout)
            code = process.returncode
        else:
            code, stdout, stderr = forked
        finished = Finished(tuple(command), code, stdout, stderr, time.monotonic() - started)
        assert traceback or "Traceback" not in stderr, finished
        return finished

    def _forked(
        self,
        command: Sequence[Word],
        more: Mapping[str, str | None] | None,
        cwd: Path,
        timeout: float,
    ) -> tuple[int, str, str] | None:
        """Run a command in a fork; None where it needs a process started for it alone."""
        environ = self.environment(more)
        url = self._server_url()
        if early(environ) != SETTLED | {"PREFECT_API_URL": url}:
            return None
        return _fork_server(url).run([os.fsdecode(word) for word in command], environ, cwd, timeout)

    @contextmanager
    def running(
        self,
        name: str,
        *words: Word,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        server: bool = True,
        powerless: bool = False,
        stdin: str | None = None,
    ) -> Iterator[subprocess.Popen[str]]:
        """Start it in a process group of its own, for tests that send signals or look at it.

        Both outputs are pipes: read them with `communicate`. Whatever of its group is left at
        the end of the block is killed.
        """
        command = [*_prefix(powerless), sys.executable, str(PROJECT / "flows" / f"{name}.py")]
        with subprocess.Popen(
            [*command, *words],
            cwd=cwd or self._cwd,
            env=self.environment(env, server=server),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)

    def environment(
        self, more: Mapping[str, str | None] | None = None, *, server: bool = True
    ) -> dict[str, str]:
        """Give the environment that a command gets."""
        environ: dict[str, str | None] = dict(os.environ)
        if server:
            environ["PREFECT_API_URL"] = self._server_url()
        environ.update(more or {})
        return {name: value for name, value in environ.items() if value is not None}


@functools.cache
def _fork_server(url: str) -> ForkServer:
    """Give the fork server of the commands that use a Prefect server; it ends with the tests."""
    return ForkServer(os.environ | {"PREFECT_API_URL": url})


def _prefix(powerless: bool) -> list[str]:
    if not powerless or os.geteuid() != 0:
        return []
    return [
        "setpriv", f"--bounding-set={_WITHOUT_OVERRIDE}", f"--inh-caps={_WITHOUT_OVERRIDE}", "--",
    ]  # fmt: skip


def find_tool(name: str) -> str | None:
    """Give the path of a program; `a|b` is the first of the two that is there."""
    return next((path for one in name.split("|") if (path := shutil.which(one))), None)


def tool(name: str) -> str:
    """Give the path of a program that the test's `needs_tool` marker names."""
    path = find_tool(name)
    assert path is not None, f"{name} is not installed"
    return path
