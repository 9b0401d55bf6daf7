"""Restore and verify beside unzip and 7-Zip on the same archive, as ratios in one run.

    python -m benchmarks.restore /usr

Makes the archive first. Whole processes, warm cache, a Prefect server running already.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import REPOSITORY, Measured, prefect_server, ratio, run


def main() -> None:
    """Measure one tree."""
    parser = argparse.ArgumentParser(description="Restore and verify beside unzip and 7-Zip.")
    parser.add_argument("tree", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pybak-bench-", dir=chosen.scratch) as name:
        _measure(chosen.tree.resolve(), chosen.runs, Path(name))


def _measure(tree: Path, runs: int, scratch: Path) -> None:
    flows = REPOSITORY / "flows"
    archive, target = str(scratch / "a.zip"), scratch / "restored"
    seven = shutil.which("7zz") or shutil.which("7z")
    restore, unzip = Measured("pybak restore"), Measured("unzip")
    verify, test, seven_x = Measured("pybak verify"), Measured("unzip -t"), Measured("7-Zip x")
    with prefect_server(scratch / "prefect") as server:
        env = {**server, "PYBAK_HOME": str(scratch / "home")}
        python = sys.executable
        run(
            Measured("backup"),
            [python, str(flows / "backup.py"), str(tree), "-o", archive, "--quiet"],
            env=env,
        )
        for _ in range(runs):
            command = [python, str(flows / "restore.py"), archive, "--to", str(target), "--quiet"]
            run(restore, command, env=env, weigh=True)
            shutil.rmtree(target)
            target.mkdir()
            run(unzip, ["unzip", "-qq", archive, "-d", str(target)])
            shutil.rmtree(target)
            if seven:
                run(seven_x, [seven, "x", "-y", "-bso0", f"-o{target}", archive])
                shutil.rmtree(target)
            command = [python, str(flows / "verify.py"), archive, "--quiet"]
            run(verify, command, env=env, weigh=True)
            run(test, ["unzip", "-tqq", archive])
    for one in (restore, unzip, seven_x, verify, test):
        if one.seconds:
            print(one.row())
    print()
    print(ratio(restore, unzip))
    if seven_x.seconds:
        print(ratio(restore, seven_x))
    print(ratio(verify, test))


if __name__ == "__main__":
    main()
