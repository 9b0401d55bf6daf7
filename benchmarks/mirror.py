"""Mirrors beside `cp -a` and `rsync -a` of the same tree, as ratios in one run.

    python -m benchmarks.mirror /usr
    python -m benchmarks.mirror /usr/share --runs 5 --scratch /mnt/disk

Whole processes in turn, on a cache warmed before each, a Prefect server running already. The first
copies go to folders that are not there, and nothing is removed before the end, so there must be
room for two copies a run: ext4 without a journal passes over each inode that was freed in the last
minutes for every file that it makes, and takes up to seven times as long. Then nothing changes, and
the second run of each is measured, and that of the engine alone, without Prefect. Where others use
the machine, too, only the processor times tell anything; they hold those of the helper processes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import REPOSITORY, Measured, prefect_server, ratio, run

MIRROR = str(REPOSITORY / "flows" / "mirror.py")
_REST_SECONDS = 2
_HELLO = str(REPOSITORY / "benchmarks" / "hello.py")
_ENGINE = """
import sys, time
from pybak.mirror.run import MirrorRun
from pybak.options.mirror import MirrorOptions
with MirrorRun(sys.argv[1], sys.argv[2], MirrorOptions()) as run:
    plan = run.compare()
    assert plan.is_nothing, run.report(plan, [])
"""


def main() -> None:
    """Measure one tree."""
    parser = argparse.ArgumentParser(description="Mirrors beside cp and rsync.")
    parser.add_argument("tree", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--verify", action="store_true", help="measure --verify, too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pybak-bench-", dir=chosen.scratch) as name:
        scratch = Path(name)
        with prefect_server(scratch / "prefect") as server:
            env = {**server, "PYBAK_HOME": str(scratch / "home")}
            _measure(str(chosen.tree.resolve()), scratch, chosen.runs, env, verify=chosen.verify)


def _measure(tree: str, scratch: Path, runs: int, env: dict[str, str], *, verify: bool) -> None:
    first, second, verified = Measured("mirror"), Measured("mirror again"), Measured("--verify")
    copy, again = Measured("cp -a"), Measured("rsync -a again")
    engine, hello = Measured("the engine alone, again"), Measured("hello-world flow")
    command = [sys.executable, MIRROR, tree]
    source = Path(tree)
    for number in range(runs):
        ours, other = scratch / f"ours-{number}", scratch / f"theirs-{number}"
        _rest()
        run(copy, ["cp", "-a", tree, str(other)], reads=source)
        _rest()
        run(first, [*command, str(ours), "--quiet"], env=env, reads=source, weigh=True)
        time.sleep(2.5)  # what is younger than two seconds is looked at more closely
        run(again, ["rsync", "-a", f"{tree}/", f"{other}/"], reads=source)
        run(second, [*command, str(ours), "--quiet"], env=env, reads=source)
        run(engine, [sys.executable, "-c", _ENGINE, tree, str(ours)], cwd=REPOSITORY, env=env)
        run(hello, [sys.executable, _HELLO], env=env)
        if verify:
            _rest()
            checked = str(scratch / f"verified-{number}")
            verifying = [*command, checked, "--quiet", "--verify"]
            run(verified, verifying, env=env, reads=source)
    measured = [first, copy, second, again, engine, hello]
    for one in measured:
        print(one.row())
    print(ratio(first, copy), ratio(second, again), ratio(engine, again), sep="\n")
    if verify:
        print(verified.row(), ratio(verified, first), sep="\n")


def _rest() -> None:
    """Have the disk write what came before, which is not to be waited for by what comes next."""
    subprocess.run(["sync"], check=True)
    time.sleep(_REST_SECONDS)


if __name__ == "__main__":
    main()
