"""Each tar format, and encrypted ZIP, beside the program that people would use instead.

    python -m benchmarks.formats /usr
    python -m benchmarks.formats /usr --only tar.zst tar.gz --runs 3
    python -m benchmarks.formats ~/some/large/files --only aes

Whole processes on a cache warmed before each, with a Prefect server that runs already; ours and the
peer take turns. Each run has a catalog of its own: the peers keep no history that would grow. Peers
that are not installed are left out.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.backup import BACKUP
from benchmarks.measure import Measured, prefect_server, ratio, run, size_of


@dataclass(frozen=True)
class Duel:
    """Options of ours, and a shell command that writes the peer's archive to {archive}."""

    name: str
    options: Sequence[str]
    suffix: str
    peer: str
    needs: str


_TAR = "tar -C {above} -cf - {name} 2>/dev/null | "
DUELS = (
    Duel("tar.zst", (), "tar.zst", _TAR + "zstd -T0 -3 -q -o {archive}", "zstd"),
    Duel("tar.gz -6", ("-l", "6"), "tar.gz", _TAR + "pigz -6 > {archive}", "pigz"),
    Duel("tar.gz", (), "tar.gz", _TAR + "pigz -6 > {archive}", "pigz"),
    Duel("tar.bz2", (), "tar.bz2", _TAR + "pbzip2 > {archive}", "pbzip2"),
    Duel("tar", (), "tar", "tar -C {above} -cf {archive} {name}", "tar"),
    Duel("aes", ("-p", "correct horse battery"), "zip",
         "{seven} a -tzip -mem=AES256 -mx=5 -snl -pcorrect -bso0 {archive} {tree}", "7zz"),
)  # fmt: skip


def main() -> None:
    """Measure the chosen formats on one tree."""
    parser = argparse.ArgumentParser(description="Tar formats and encrypted ZIP beside others.")
    parser.add_argument("tree", type=Path)
    parser.add_argument("--only", nargs="+", default=[duel.name for duel in DUELS])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    tree = chosen.tree.resolve()
    with tempfile.TemporaryDirectory(prefix="pybak-bench-", dir=chosen.scratch) as name:
        scratch = Path(name)
        with prefect_server(scratch / "prefect") as server:
            env = {**server, "PYBAK_HOME": str(scratch / "home")}
            for duel in DUELS:
                if duel.name in chosen.only and _tool(duel.needs):
                    _fight(duel, tree, scratch, env, chosen.runs)


def _tool(name: str) -> str | None:
    return shutil.which("7zz") or shutil.which("7z") if name == "7zz" else shutil.which(name)


def _fight(duel: Duel, tree: Path, scratch: Path, env: dict[str, str], runs: int) -> None:
    ours, theirs = Measured(f"pybak {duel.name}"), Measured(duel.needs)
    archive = scratch / f"archive.{duel.suffix}"
    peer = duel.peer.format(
        above=shlex.quote(str(tree.parent)), name=shlex.quote(tree.name),
        tree=shlex.quote(str(tree)), archive=shlex.quote(str(archive)), seven=_tool("7zz"),
    )  # fmt: skip
    for _ in range(runs):
        shutil.rmtree(env["PYBAK_HOME"], ignore_errors=True)
        command = [sys.executable, BACKUP, str(tree), "-o", str(archive), *duel.options, "--quiet"]
        run(ours, command, env=env, reads=tree, weigh=True)
        ours.stored += _taken(archive)
        run(theirs, ["/bin/sh", "-c", peer], reads=tree, weigh=True)
        theirs.stored += _taken(archive)
    ours.stored //= runs
    theirs.stored //= runs
    print(ours.row())
    print(theirs.row())
    print(ratio(ours, theirs), f" size {ours.stored / theirs.stored:.3f}", flush=True)


def _taken(archive: Path) -> int:
    """Give the size of an archive under its own name or a wrapper's, and remove it."""
    found = archive if archive.exists() else archive.with_name(archive.name + ".zip")
    size = size_of(found)
    found.unlink()
    return size


if __name__ == "__main__":
    main()
