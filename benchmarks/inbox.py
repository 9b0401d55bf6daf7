"""A round of an inbox beside pigz over the same files, and an idle round beside a hello-world flow.

    python -m benchmarks.inbox
    python -m benchmarks.inbox --files 1000 --size 100000 --runs 5

Whole processes on a warm cache, with a Prefect server that runs already. pigz works in place and
syncs nothing. Prints wall times, processor times, and how far each is from its bound: 1.5 times
pigz and 3 s, and the hello-world flow and 1.5 s of processor time.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import REPOSITORY, Measured, prefect_server, run, size_of

INBOX = str(REPOSITORY / "flows" / "inbox.py")
HELLO = str(REPOSITORY / "benchmarks" / "hello.py")
_PIGZ_FACTOR = 1.5
_PIGZ_SECONDS = 3.0
_IDLE_SECONDS = 1.5


def main() -> None:
    """Measure full and idle rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pybak-bench-", dir=chosen.scratch) as name:
        _measure(chosen, Path(name))


def _measure(chosen: argparse.Namespace, scratch: Path) -> None:
    names = ("round", "round, encrypted", "idle round", "hello", "pigz")
    found = {name: Measured(name) for name in names}
    source, target = scratch / "in", scratch / "out"
    empty = scratch / "empty"
    empty.mkdir()
    with prefect_server(scratch / "prefect") as server:
        env = {**server, "PYBAK_HOME": str(scratch / "home")}
        run(Measured("warm-up"), [sys.executable, HELLO], env=env)
        command = [sys.executable, INBOX, str(source), str(target), "--settle", "0s", "--quiet"]
        idle = [sys.executable, INBOX, str(empty), str(scratch / "none"), "--quiet"]
        run(Measured("warm-up"), idle, env=env)
        for number in range(chosen.runs):
            for name in ("pigz", "round", "round, encrypted"):
                # Other files in each round: none is a duplicate.
                fill(source, chosen.files, chosen.size, seed=f"{number} {name}")
                if name == "pigz":
                    run(found[name], ["pigz", "-r", str(source)])
                    found[name].stored = size_of(source)
                else:
                    secret = {"PYBAK_PASSWORD": "a password to measure with"}
                    more = secret if name != "round" else {}
                    run(found[name], command, env={**env, **more}, weigh=True)
                    found[name].stored = size_of(target)
                    shutil.rmtree(target)
                shutil.rmtree(source)
            run(found["idle round"], idle, env=env)
            run(found["hello"], [sys.executable, HELLO], env=env)
    for one in found.values():
        print(one.row())
    print()
    bound = _PIGZ_FACTOR * found["pigz"].median + _PIGZ_SECONDS
    for name in ("round", "round, encrypted"):
        print(f"{name} / (1.5 pigz + 3 s): {found[name].median / bound:.2f}")
    more = _cpu(found["idle round"]) - _cpu(found["hello"])
    print(f"idle round - hello, processor time: {more:+.2f} s (bound {_IDLE_SECONDS:+.2f} s)")


def _cpu(of: Measured) -> float:
    return statistics.median(of.cpu_seconds)


def fill(folder: Path, files: int, size: int, *, seed: str) -> None:
    """Make files of lines of numbers and words, as logs and tables are."""
    chance = random.Random(seed)
    words = ["alpha", "beta", "gamma", "delta", "error", "done", "10.0.0.1", "GET /index.html"]
    for number in range(files):
        path = folder / f"{number % 10}" / f"report-{number:05d}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines: list[str] = []
        made = 0
        while made < size:
            line = f"{chance.random():.6f},{chance.choice(words)},{chance.randrange(10**6)}\n"
            lines.append(line)
            made += len(line)
        path.write_text("".join(lines)[:size])


if __name__ == "__main__":
    main()
