"""Whole backups beside restic, cp -a, zip and 7-Zip, as ratios in one run.

    python -m benchmarks.backup /usr
    python -m benchmarks.backup ~/some/venv --runs 5 --slow-peers

Everything is a whole process on a cache warmed before each. "with server" uses a Prefect server
that runs already, "ad hoc" lets the command start its own. The empty folder and the hello-world
flow give the fixed cost. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import REPOSITORY, Measured, prefect_server, ratio, run, size_of

BACKUP = str(REPOSITORY / "flows" / "backup.py")
HELLO = str(REPOSITORY / "benchmarks" / "hello.py")


def main() -> None:
    """Measure one tree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tree", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--slow-peers", action="store_true", help="also zip -6 and 7-Zip")
    parser.add_argument("--level", default="2")
    parser.add_argument("--no-ad-hoc", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pybak-bench-", dir=chosen.scratch) as name:
        _measure(chosen, Path(name))


def _measure(chosen: argparse.Namespace, scratch: Path) -> None:
    tree, empty = str(chosen.tree.resolve()), scratch / "empty"
    empty.mkdir()
    home = {"PYBAK_HOME": str(scratch / "home")}
    names = ("pybak with server", "pybak ad hoc", "empty with server", "empty ad hoc",
             "hello with server", "hello ad hoc", "restic", "cp -a", "zip -6", "7-Zip")  # fmt: skip
    found = {name: Measured(name) for name in names}
    archive, copy = scratch / "a.zip", scratch / "copy"
    seven = shutil.which("7zz") or shutil.which("7z")
    options = ["-l", chosen.level, "--quiet"]
    with prefect_server(scratch / "prefect") as server:
        ad_hoc = {"PREFECT_HOME": str(scratch / "prefect-ad-hoc"), "PREFECT_API_URL": ""}
        run(Measured("warm-up"), [sys.executable, HELLO], env=server)
        run(Measured("warm-up"), [sys.executable, HELLO], env=ad_hoc)
        for _ in range(chosen.runs):
            for kind, env in (("with server", server), ("ad hoc", ad_hoc)):
                if kind == "ad hoc" and chosen.no_ad_hoc:
                    continue
                env = {**env, **home}
                run(found[f"hello {kind}"], [sys.executable, HELLO], env=env, reads=empty)
                command = [sys.executable, BACKUP, str(empty), "-o", str(archive), "--quiet"]
                run(found[f"empty {kind}"], command, env=env, reads=empty)
                archive.unlink()
                measured = found[f"pybak {kind}"]
                command = [sys.executable, BACKUP, tree, "-o", str(archive), *options]
                run(measured, command, env=env, reads=chosen.tree, weigh=True)
                measured.stored = size_of(archive)
                archive.unlink()
            if shutil.which("restic"):
                repository = scratch / "restic"
                env = {"RESTIC_PASSWORD": "x", "RESTIC_CACHE_DIR": str(scratch / "cache")}
                run(Measured("init"), ["restic", "init", "-q", "-r", str(repository)], env=env)
                command = ["restic", "backup", "-q", "-r", str(repository), tree]
                run(found["restic"], command, env=env, reads=chosen.tree, weigh=True)
                found["restic"].stored = size_of(repository)
                shutil.rmtree(repository)
            run(found["cp -a"], ["cp", "-a", tree, str(copy)], reads=chosen.tree)
            shutil.rmtree(copy)
            if chosen.slow_peers:
                command = ["zip", "-6", "-qry", str(archive), tree]
                run(found["zip -6"], command, reads=chosen.tree)
                found["zip -6"].stored = size_of(archive)
                archive.unlink()
                if seven:
                    command = [seven, "a", "-tzip", "-mx=5", "-snl", str(archive), tree]
                    run(found["7-Zip"], command, reads=chosen.tree)
                    found["7-Zip"].stored = size_of(archive)
                    archive.unlink()
    _print(found)


def _print(found: dict[str, Measured]) -> None:
    measured = {name: one for name, one in found.items() if one.seconds}
    for one in measured.values():
        print(one.row())
    print()
    for kind in ("with server", "ad hoc"):
        ours, hello = measured.get(f"pybak {kind}"), measured.get(f"hello {kind}")
        if ours is None or hello is None:
            continue
        print(ratio(measured[f"empty {kind}"], hello))
        for peer in ("restic", "cp -a", "zip -6", "7-Zip"):
            if peer in measured:
                print(ratio(ours, measured[peer]))
                without = (ours.median - hello.median) / measured[peer].median
                print(f"    the same without the hello-world flow: {without:.2f}")
    zipped = measured.get("zip -6")
    if zipped:
        print(f"size / zip -6: {measured['pybak with server'].stored / zipped.stored:.3f}")


if __name__ == "__main__":
    main()
