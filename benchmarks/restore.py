"""Restore and verify beside unzip and 7-Zip on the same archives, as ratios in one run.

    python -m benchmarks.restore /usr
    python -m benchmarks.restore /usr --only tar.zst

Makes the archives first. Whole processes, the archive in the page cache, a Prefect server running
already. Every restore goes to a new folder, and nothing is removed before the end: ext4 takes its
time over inodes that were freed shortly before. Then a single file of the middle of each archive is
restored, and the bytes are counted that were read of the archive for it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.backup import BACKUP
from benchmarks.measure import REPOSITORY, Measured, prefect_server, ratio, run

FORMATS = ("zip", "tar.zst", "tar.gz")
RESTORE, VERIFY = (str(REPOSITORY / "flows" / f"{name}.py") for name in ("restore", "verify"))


def main() -> None:
    """Measure one tree."""
    parser = argparse.ArgumentParser(description="Restore and verify beside unzip and 7-Zip.")
    parser.add_argument("tree", type=Path)
    parser.add_argument("--only", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pybak-bench-", dir=chosen.scratch) as name:
        scratch = Path(name)
        with prefect_server(scratch / "prefect") as server:
            env = {**server, "PYBAK_HOME": str(scratch / "home")}
            for archive_format in chosen.only:
                archive = scratch / f"a.{archive_format}"
                tree = str(chosen.tree.resolve())
                command = [sys.executable, BACKUP, tree, "-o", str(archive), "--quiet"]
                run(Measured("backup"), command, env=env)
                _measure(archive, archive_format, scratch / "restored", chosen.runs, env)
                _count_bytes(archive)
                archive.unlink()


def _peers(archive: Path, archive_format: str, target: Path) -> dict[str, str]:
    """Give the shell commands that unpack the archive into `target`, and those that test it.

    7-Zip ends with 2 where it refuses a link that leads outside.
    """
    seven = shutil.which("7zz") or shutil.which("7z") or "7z"
    here, there = shlex.quote(str(archive)), shlex.quote(str(target))
    if archive_format == "zip":
        return {
            "unzip": f"unzip -qq {here} -d {there}",
            "7-Zip x": f"{seven} x -y -snld -bso0 -o{there} {here} || [ $? -le 2 ]",
            "unzip -t": f"unzip -tqq {here}",
        }
    pipe = f"{seven} x -so -bd {here} | {seven} x -y -snld -bso0 -bd -si -ttar -o{there}"
    return {
        "tar x": f"mkdir -p {there} && tar -C {there} -xf {here}",
        "7-Zip x": pipe + " || [ $? -le 2 ]",
        "7-Zip t": f"{seven} t -bso0 {here}",
    }


def _measure(
    archive: Path, archive_format: str, target: Path, runs: int, env: dict[str, str]
) -> None:
    restore, verify = Measured(f"restore {archive_format}"), Measured(f"verify {archive_format}")
    peers = {name: Measured(name) for name in _peers(archive, archive_format, target)}
    target.mkdir(exist_ok=True)
    for number in range(runs):
        ours = target / f"{archive_format} {number}"
        command = [sys.executable, RESTORE, str(archive), "--to", str(ours), "--quiet"]
        run(restore, command, env=env, reads=archive, weigh=True)
        command = [sys.executable, VERIFY, str(archive), "--quiet"]
        run(verify, command, env=env, reads=archive, weigh=True)
        for at, (name, one) in enumerate(peers.items()):
            theirs = target / f"{archive_format} {number} {at}"
            command = ["/bin/sh", "-c", _peers(archive, archive_format, theirs)[name]]
            run(one, command, reads=archive)
    for one in (restore, verify, *peers.values()):
        print(one.row())
    for name, peer in peers.items():
        print(ratio(verify if name.endswith("t") else restore, peer))
    print(flush=True)


def _count_bytes(archive: Path) -> None:
    """Restore one file to nowhere, and print how much of the archive was read for it."""
    from pybak.formats.archive import Limits
    from pybak.formats.listing import Listed
    from pybak.formats.opening import open_archive

    with open_archive([os.fsencode(archive)]) as opened:
        files = [found for found in opened.listing(Limits()).members if found.kind == "f"]
    one: Listed = files[len(files) // 2]
    before = _bytes_read()
    with open_archive([os.fsencode(archive)]) as opened:
        opened.listing(Limits())
    listed = _bytes_read()
    with open_archive([os.fsencode(archive)]) as opened:
        opened.listing(Limits())
        size = sum(map(len, opened.chunks(one.locator, one.limit)))
    total = _bytes_read() - listed
    print(
        f"one file of {size} bytes: {total / 1e6:.2f} MB read of {archive.stat().st_size / 1e6:.0f}"
        f" MB, {(listed - before) / 1e6:.2f} MB of these for the list\n",
        flush=True,
    )


def _bytes_read() -> int:
    """Give the bytes that this process has read (Linux)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


if __name__ == "__main__":
    main()
