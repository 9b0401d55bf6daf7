"""Mirrors beside `cp -a` and `rsync -a` of the same tree, as ratios in one run.

    python -m benchmarks.mirror /usr
    python -m benchmarks.mirror /usr/share --runs 5 --scratch /mnt/disk

Whole processes in turn, warm cache, a Prefect server running already. The first copies go to
folders that are not there; copies of earlier runs are removed before, and nothing is measured for
some seconds after, for ext4 does not use what was just freed. Then nothing changes, and the second
run of each is measured, and that of the engine alone, without Prefect. Where others use the
machine, too, only the processor times tell anything; they hold those of the helper processes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import REPOSITORY, Measured, prefect_server, ratio, run

MIRROR = str(REPOSITORY / "flows" / "mirror.py")
_REST_SECONDS = 6
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
    ours, other = scratch / "ours", scratch / "theirs"
    command = [sys.executable, MIRROR, tree, str(ours), "--quiet"]
    run(Measured("warm"), ["/bin/sh", "-c", f"tar -C {tree} -cf - . | cat >/dev/null"])
    for _ in range(runs):
        _clear(ours, other)
        run(copy, ["cp", "-a", tree, str(other)])
        run(first, command, env=env, weigh=True)
        time.sleep(2.5)  # what is younger than two seconds is looked at more closely
        run(again, ["rsync", "-a", f"{tree}/", f"{other}/"])
        run(second, command, env=env)
        run(engine, [sys.executable, "-c", _ENGINE, tree, str(ours)], cwd=REPOSITORY, env=env)
        run(hello, [sys.executable, _HELLO], env=env)
        if verify:
            _clear(ours)
            run(verified, [*command, "--verify"], env=env)
    measured = [first, copy, second, again, engine, hello]
    for one in measured:
        print(one.row())
    print(ratio(first, copy), ratio(second, again), ratio(engine, again), sep="\n")
    if verify:
        print(verified.row(), ratio(verified, first), sep="\n")


def _clear(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["sync"], check=True)
    time.sleep(_REST_SECONDS)


if __name__ == "__main__":
    main()
