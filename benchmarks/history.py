"""Incremental runs beside restic and borg, on a tree of many small files made for it.

    python -m benchmarks.history --files 300000
    python -m benchmarks.history --files 10000 100000 1000000 --no-chain

First full runs, each into a catalog and a repository of its own, a run that finds nothing new, one
after 1 % of the files changed, and one file out of a chain of runs. Whole processes with a Prefect
server that runs already, on a cache warmed before each. Peers that are not installed are left out.
With several counts the growth can be read off.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import REPOSITORY, Measured, prefect_server, ratio, run, size_of

BACKUP = str(REPOSITORY / "flows" / "backup.py")
RESTORE = str(REPOSITORY / "flows" / "restore.py")
HELLO = str(REPOSITORY / "benchmarks" / "hello.py")
_FOLDER_FILES = 100
_MEAN_BYTES = 2700
_SEED = 20261121


def main() -> None:
    """Measure each count of files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, nargs="+", default=[300_000])
    parser.add_argument("--first", type=int, default=1, help="first runs")
    parser.add_argument("--runs", type=int, default=3, help="runs that find nothing new")
    parser.add_argument("--chain", type=int, default=30, help="runs before one file is restored")
    parser.add_argument("--no-chain", action="store_true")
    parser.add_argument("--peers", nargs="*", default=["restic", "borg"])
    parser.add_argument("--format", default="zip")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    for files in chosen.files:
        with tempfile.TemporaryDirectory(prefix="pybak-bench-", dir=chosen.scratch) as name:
            _measure(chosen, files, Path(name))


def make_tree(tree: Path, files: int) -> None:
    """Make a tree of small text-like files, the same for the same count."""
    dice = random.Random(_SEED)
    words = [dice.randbytes(dice.randint(3, 9)).hex() for _ in range(500)]
    for number in range(files):
        folder = tree / f"{number // (_FOLDER_FILES * 100):03d}" / f"{number // _FOLDER_FILES:06d}"
        if number % _FOLDER_FILES == 0:
            folder.mkdir(parents=True)
        size = int(dice.expovariate(1 / _MEAN_BYTES))
        text = " ".join(dice.choices(words, k=size // 13 + 1)).encode()[:size]
        (folder / f"file-{number:07d}.txt").write_bytes(text)


def change(tree: Path, every: int, mark: str) -> None:
    """Add a line to every so many-th file."""
    for number, path in enumerate(sorted(tree.rglob("*.txt"))):
        if number % every == 0:
            with path.open("a") as file:
                file.write(f"{mark}\n")


class _Peers:
    """Repositories of other programs."""

    def __init__(self, scratch: Path, tree: Path, *, wanted: Sequence[str]) -> None:
        self._tree = tree
        scratch.mkdir()
        self._env: dict[str, dict[str, str]] = {}
        if "restic" in wanted and shutil.which("restic"):
            repository = scratch / "restic"
            self._env["restic"] = {
                "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(repository),
                "RESTIC_CACHE_DIR": str(scratch / "restic-cache"),
            }  # fmt: skip
            run(Measured("init"), ["restic", "init", "-q"], env=self._env["restic"])
        if "borg" in wanted and shutil.which("borg"):
            self._env["borg"] = {
                "BORG_PASSPHRASE": "x", "BORG_REPO": str(scratch / "borg"),
                "BORG_BASE_DIR": str(scratch / "borg-base"),
                "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            }  # fmt: skip
            run(Measured("init"), ["borg", "init", "-e", "repokey-blake2"], env=self._env["borg"])

    def back_up(self, what: str, found: dict[str, Measured]) -> None:
        """Let each make one backup."""
        for name, env in self._env.items():
            one = found.setdefault(f"{name} {what}", Measured(f"{name} {what}"))
            command = (
                ["restic", "backup", "-q", str(self._tree)]
                if name == "restic"
                else [
                    "borg",
                    "create",
                    "-C",
                    "zstd,3",
                    f"::{what.replace(' ', '-')}-{len(one.seconds)}",
                    str(self._tree),
                ]
            )
            run(one, command, env=env, reads=self._tree, weigh=True)


def _measure(chosen: argparse.Namespace, files: int, scratch: Path) -> None:
    tree, stored, home = scratch / "tree", scratch / "stored", scratch / "home"
    make_tree(tree, files)
    print(f"{files} files, {size_of(tree) / 1e6:.0f} MB", flush=True)
    found: dict[str, Measured] = {}
    with prefect_server(scratch / "prefect") as server:
        env = {**server, "PYBAK_HOME": str(home)}
        run(Measured("warm-up"), [sys.executable, HELLO], env=env)
        command = [
            sys.executable, BACKUP, str(tree), "--to", str(stored), "--job", "bench",
            "--mode", "incremental", "-f", chosen.format, "--quiet",
        ]  # fmt: skip

        def ours(what: str) -> None:
            one = found.setdefault(f"pybak {what}", Measured(f"pybak {what}"))
            run(one, command, env=env, reads=tree, weigh=True)

        hello = found.setdefault("hello", Measured("hello"))
        run(hello, [sys.executable, HELLO], env=env)
        for _ in range(chosen.first):
            shutil.rmtree(home, ignore_errors=True)
            shutil.rmtree(stored, ignore_errors=True)
            ours("first")
            shutil.rmtree(scratch / "peers", ignore_errors=True)
            peers = _Peers(scratch / "peers", tree, wanted=chosen.peers)
            peers.back_up("first", found)
        for _ in range(chosen.runs):
            run(hello, [sys.executable, HELLO], env=env)
            ours("no change")
            peers.back_up("no change", found)
        change(tree, 100, "first change")
        ours("1 %")
        peers.back_up("1 %", found)
        if not chosen.no_chain:
            _restore_one(chosen, tree, command, env, found)
    _print(found)


def _restore_one(
    chosen: argparse.Namespace, tree: Path, backup: list[str], env: Mapping[str, str],
    found: dict[str, Measured],
) -> None:  # fmt: skip
    """Make a chain of runs and take one file out of it, from the first archive and a late one."""
    for number in range(chosen.chain - 2):
        change(tree, 1000, f"change {number}")
        run(Measured("chain"), backup, env=env)
    paths = sorted(tree.rglob("*.txt"))
    for what, path in (("old file", paths[1]), ("new file", paths[0])):
        member = os.path.relpath(path, tree.parent)
        target = tree.parent / f"restored {what}"
        one = found.setdefault(f"restore {what}", Measured(f"restore {what}"))
        command = [
            sys.executable, RESTORE, "latest", "--job", "bench", "--to", str(target),
            "--include", f"/{member}", "--quiet",
        ]  # fmt: skip
        for _ in range(3):
            shutil.rmtree(target, ignore_errors=True)
            run(one, command, env=env, weigh=True)
        if (target / member).read_bytes() != path.read_bytes():
            raise SystemExit(f"{member}: was restored with other content")


def _print(found: dict[str, Measured]) -> None:
    for one in found.values():
        print(one.row())
    hello = found["hello"]
    for what in ("first", "no change", "1 %"):
        mine = found[f"pybak {what}"]
        for peer in ("restic", "borg"):
            if theirs := found.get(f"{peer} {what}"):
                without = (mine.median - hello.median) / theirs.median
                print(f"{ratio(mine, theirs)}  without hello {without:.2f}")
    for what in ("old file", "new file"):
        if one := found.get(f"restore {what}"):
            print(f"restore {what} - hello: {one.median - hello.median:.2f} s")
    print(flush=True)


if __name__ == "__main__":
    main()
