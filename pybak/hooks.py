"""Shell commands before and after a run: `--before`, `--after`.

A command runs in a process group of its own, with nothing to read, by /bin/sh. What it says goes to
the log while it runs. After its time, or once the run is cancelled, the whole group is ended: first
asked, then killed. What a shell that ends by itself leaves in the background is not waited for.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from pybak.display import escape
from pybak.errors import Interrupted, PyBakError
from pybak.units import format_count, format_duration

MOST_LINES: Final = 200
"""How many lines of a command's output go to the log."""
LINE_CHARACTERS: Final = 500
GRACE_SECONDS: Final = 3.0
"""How long a process group that is asked to end has for it."""
KILLED_SECONDS: Final = 1.0
"""How long one that is killed is waited for; what can't be killed runs on."""

_SHELL: Final = "/bin/sh"
_STILL_RUNS: Final = "could not be ended and still runs"
_PAUSE_SECONDS: Final = 0.1
_AFTER_EXIT_SECONDS: Final = 0.2  # what is still in the pipe comes at once
_READ_BYTES: Final = 65536

_SECRET: Final = re.compile(
    "PYBAK_(PASSWORD|CATALOG_URL|DB_PASSWORD|BLOCK_.*)"
    "|PREFECT_.*(AUTH|HEADERS|KEY|PASSWORD|SECRET|TOKEN|URL).*",
    re.DOTALL,
)


class HookError(PyBakError):
    """A command of --before or --after failed, or took too long."""


def environment(environ: Mapping[str, str], **told: str | None) -> dict[str, str]:
    """Give the environment of a command: what is there, without PyBak's and Prefect's secrets.

    `told` becomes PYBAK_STATUS and so on; None and nothing leave the variable out, and take away
    what a run that started this one may have put there.
    """
    kept = {name: value for name, value in environ.items() if not _SECRET.fullmatch(name)}
    for name, value in told.items():
        variable = f"PYBAK_{name.upper()}"
        kept.pop(variable, None)
        if value:
            kept[variable] = value.replace("\0", "")
    return kept


def run_hook(
    command: str,
    *,
    option: str,
    environ: Mapping[str, str],
    seconds: float,
    log: Callable[[str], object],
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Run `command` and wait for it, at most so many seconds; `log` gets what it says, by lines.

    `option` is what messages call it. Raises HookError, with the last line that it said, if it
    fails or takes too long, and Interrupted once `cancelled` says so.
    """
    said = _Said(log)
    is_gone = True
    try:
        # The shell is what people write the command for.
        process = subprocess.Popen(  # noqa: S603
            [_SHELL, "-c", command], env=dict(environ), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise HookError(f"{option}: can't be started: {error}") from error
    assert process.stdout is not None
    with process.stdout as output:
        os.set_blocking(output.fileno(), False)
        try:
            why = _follow(process, output, said, time.monotonic() + seconds, cancelled)
        except BaseException:
            _end(process, output, said)
            raise
        if why is not None:
            is_gone = _end(process, output, said)
    said.close()
    if why == "cancelled":
        how = "it was stopped" if is_gone else _STILL_RUNS
        raise Interrupted(f"interrupted while {option} ran; {how}")
    last = f": {said.last}" if said.last else ""
    if why is not None:
        raise HookError(
            f"{option}: {'stopped' if is_gone else _STILL_RUNS} after "
            f"{format_duration(seconds)}{last}; make it quicker, or give it longer "
            "with --hook-timeout"
        )
    if process.returncode:
        raise HookError(f"{option}: {_ending(process.returncode)}{last}")


def _follow(
    process: subprocess.Popen[bytes],
    output: IO[bytes],
    said: _Said,
    deadline: float,
    cancelled: Callable[[], bool],
) -> str | None:
    """Read until the shell is gone; give why it must be ended, None if it ended by itself."""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        is_open = True
        until: float | None = None
        while True:
            if is_open:
                if selector.select(_PAUSE_SECONDS):
                    is_open = _take(output, said)
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_PAUSE_SECONDS)
            now = time.monotonic()
            if process.poll() is not None:
                # Its children may hold the other end open for as long as they like.
                until = until or now + _AFTER_EXIT_SECONDS
                if not is_open or now >= until:
                    return None
            elif cancelled():
                return "cancelled"
            elif now >= deadline:
                return "too long"


def _take(output: IO[bytes], said: _Said) -> bool:
    """Take what there is to read; give whether more may come."""
    try:
        data = os.read(output.fileno(), _READ_BYTES)
    except BlockingIOError:
        return True
    said.add(data)
    return bool(data)


def _end(process: subprocess.Popen[bytes], output: IO[bytes], said: _Said) -> bool:
    """End the whole group: ask, then kill; take what it still said. Give whether all are gone.

    Those of another user can't be ended, nor those that wait for a dead disk.
    """
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, KILLED_SECONDS)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            is_gone = not _lives(process)
            _take(output, said)
            if is_gone:
                return True
            time.sleep(_PAUSE_SECONDS / 2)
    return False


def _lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether anything of the group runs; the shell may be gone before what it started."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    states = list(_states(process.pid))
    return not states or any(state not in "ZX" for state in states)


def _states(group: int) -> Iterator[str]:
    """Yield the state of each process of a group: dead ones that nobody asks about stay in it."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group, *_ = stat.read_bytes().rpartition(b")")[2].split()
            if int(its_group) == group:
                yield state.decode()


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"


class _Said:
    """The lines of an output, safe to show; the first ones are logged, all are counted."""

    def __init__(self, log: Callable[[str], object]) -> None:
        self.last = ""
        self._log = log
        self._count = 0
        self._line = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

    def add(self, data: bytes) -> None:
        """Take more of the output."""
        *whole, rest = (self._line + self._decode(data)).split("\n")
        for line in whole:
            self._tell(line)
        # Of a line without an end only what is shown is kept.
        self._line = rest[: 2 * LINE_CHARACTERS]

    def close(self) -> None:
        """Tell the rest."""
        if self._line:
            self._tell(self._line)
            self._line = ""
        if self._count > MOST_LINES:
            self._log(f"and {format_count(self._count - MOST_LINES, 'more line', 'more lines')}")

    def _tell(self, line: str) -> None:
        shown = escape(line.rstrip()[:LINE_CHARACTERS])
        if not shown:
            return
        self.last = shown
        self._count += 1
        if self._count <= MOST_LINES:
            self._log(shown)
