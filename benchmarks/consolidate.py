"""What `prune --consolidate` costs on a chain of small runs: processor time and memory.

    python -m benchmarks.consolidate --files 20000 --runs 30 --formats tar.zst zip

The chain is made by commands; the prune is the engine alone, in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.history import change, make_tree
from benchmarks.measure import REPOSITORY, Measured, prefect_server, run, size_of

_BACKUP = str(REPOSITORY / "flows" / "backup.py")
_JOB = "chain"
_EVERY = 100


def main() -> None:
    """Measure each format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--formats", nargs="+", default=["tar.zst", "zip"])
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--prune", metavar="CATALOG", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.prune:
        _prune(chosen.prune)
        return
    for form in chosen.formats:
        with tempfile.TemporaryDirectory(prefix="pybak-bench-", dir=chosen.scratch) as name:
            _measure(Path(name), form, chosen.files, chosen.runs)


def _measure(scratch: Path, form: str, files: int, runs: int) -> None:
    tree, store = scratch / "tree", scratch / "store"
    make_tree(tree, files)
    url = f"sqlite:///{scratch / 'catalog.db'}"
    home = {"PYBAK_HOME": str(scratch / "home"), "PYBAK_CATALOG_URL": url}
    made = Measured(form)
    with prefect_server(scratch / "prefect") as server:
        for number in range(runs):
            if number:
                change(tree, _EVERY, f"run {number}")
            words = [str(tree), "--to", str(store), "--job", _JOB, "--format", form, "--quiet"]
            command = [sys.executable, _BACKUP, *words, "--mode", "incremental"]
            run(made, command, env={**server, **home})
    before = size_of(store)
    command = [sys.executable, "-m", "benchmarks.consolidate", "--prune", url]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    print(f"{form}, {runs} runs: {before} to {size_of(store)} bytes; {told.stdout.strip()}")


def _prune(url: str) -> None:
    from pybak.options import PruneOptions
    from pybak.retention.run import PruneRun

    start = time.perf_counter()
    with PruneRun(PruneOptions(keep_last=1, consolidate=True), catalog_url=url) as prune:
        done = prune.prune(prune.plan(_JOB))
    seconds = time.perf_counter() - start
    assert done.consolidated is not None, done.errors
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{used.ru_utime + used.ru_stime:.2f} s of processor time with imports, "
        f"{seconds:.2f} s, {used.ru_maxrss / 1024:.0f} MB"
    )


if __name__ == "__main__":
    main()
