"""Time whole processes and weigh their trees; shared by the benchmarks."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_SAMPLE_SECONDS = 0.2
_WARM_PASSES = 2
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass
class Measured:
    """What the runs of one command took. `peak_pss` is of the whole tree, in bytes."""

    name: str
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_pss: int = 0
    stored: int = 0

    @property
    def median(self) -> float:
        """The middle of the wall times."""
        return statistics.median(self.seconds)

    def row(self) -> str:
        """Give the figures as one line."""
        low, high = min(self.seconds), max(self.seconds)
        memory = f"{self.peak_pss / 1e6:6.0f} MB" if self.peak_pss else "         "
        stored = f"{self.stored / 1e6:8.1f} MB stored" if self.stored else ""
        cpu = statistics.median(self.cpu_seconds)
        return (
            f"{self.name:28} {self.median:7.2f} s  ({low:.2f} to {high:.2f})  cpu {cpu:6.1f} s  "
            f"{memory}  {stored}"
        )


def run(
    into: Measured,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    reads: Path | None = None,
    weigh: bool = False,
    leave_out: str = "serve_api",
) -> None:
    """Run a command once and add what it took to `into`.

    What is below `reads` is brought into the page cache before that, and this Python's modules.
    With `weigh` the proportional set size of its tree is sampled in the first of its runs (it takes
    time), without processes whose command line holds `leave_out` (Prefect's server). Raises
    CalledProcessError if it fails.
    """
    if reads is not None:
        warm(reads)
        warm(Path(sys.prefix))
    weigh = weigh and not into.seconds
    before = os.times()
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **(env or {})}, cwd=cwd,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    done = threading.Event()
    sampler = threading.Thread(target=_weigh, args=(process.pid, into, done, leave_out))
    if weigh:
        sampler.start()
    _, errors = process.communicate()
    into.seconds.append(time.perf_counter() - start)
    done.set()
    if weigh:
        sampler.join()
    after = os.times()
    into.cpu_seconds.append(
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    if process.returncode not in (0, 3):
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)


def _weigh(pid: int, into: Measured, done: threading.Event, leave_out: str) -> None:
    while not done.wait(_SAMPLE_SECONDS):
        total = 0
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid)
            for process in [parent, *parent.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    if leave_out not in " ".join(process.cmdline()):
                        total += process.memory_full_info().pss
        into.peak_pss = max(into.peak_pss, total)


def warm(path: Path) -> None:
    """Bring a file, or all files below a folder, into the page cache.

    Once is not enough: some virtual machines give memory back to their host after half a minute
    without a use, and the first passes over what they then take anew are slow.
    """
    reading = 'find "$0" -type f -print0 | xargs -0 -P 2 -n 200 cat >/dev/null 2>&1'
    for _ in range(_WARM_PASSES):
        subprocess.run(["/bin/sh", "-c", reading, os.fspath(path)], check=False)


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[dict[str, str]]:
    """Run a Prefect server; yields the environment that makes commands use it."""
    from flows.support.server import TemporaryServer

    os.environ["PREFECT_HOME"] = str(home)
    with TemporaryServer(home / "server.log") as server:
        server.wait()
        yield {"PREFECT_API_URL": server.url, "PREFECT_HOME": str(home)}


def size_of(path: Path) -> int:
    """Give the bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def ratio(of: Measured, to: Measured) -> str:
    """Give the ratio of two medians, and of each pair of runs."""
    pairs = [a / b for a, b in zip(of.seconds, to.seconds, strict=False)]
    return (
        f"{of.name} / {to.name}: {of.median / to.median:.2f}"
        f"  (pairs {min(pairs):.2f} to {max(pairs):.2f})"
    )
