"""Random histories of a flat folder, whose own row keeps no archive: all outlives its catalog."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from jobs import Job, Tree, seen
from rebuilding import rebuild

NAMES = [f"f{number}" for number in range(7)]


def edit(folder: Path, chance: random.Random) -> None:
    """Change, swap, move or delete a file, or its mode; leave the folder's time as it is."""
    before = folder.stat()
    there = sorted(folder.iterdir())
    what = chance.choice(["write", "write", "swap", "swap", "mode", "move", "delete"])
    if what == "write" or len(there) < 3:
        (folder / chance.choice(NAMES)).write_text(f"{chance.random()}")
    elif what == "swap":
        one, other = chance.sample(there, 2)
        kept = folder / "kept"
        for old, new in ((one, kept), (other, one), (kept, other)):
            os.rename(old, new)
    elif what == "mode":
        chance.choice(there).chmod(chance.choice([0o600, 0o640, 0o644]))
    elif what == "move":
        os.rename(chance.choice(there), folder / chance.choice(NAMES))
    else:
        chance.choice(there).unlink()
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def check(job: Job, states: dict[str, Tree]) -> None:
    for run_id, state in states.items():
        report, folder = job.restore(run_id)
        assert report.status == "success", report.errors
        assert seen(folder) == state
        shutil.rmtree(folder.parent)


def live(place: Path, seed: int, steps: int) -> None:
    chance = random.Random(seed)
    job = Job(place)
    states: dict[str, Tree] = {}
    for name in NAMES[:5]:
        (job.source / name).write_text(name)
    for step in range(steps):
        for _ in range(chance.choice([1, 1, 2])):
            edit(job.source, chance)
        modes = ["full", *["incremental"] * 6, *["differential"] * 6]
        made = job.run(chance.choice(modes), dedupe=chance.random() < 0.6)
        if made.report.archive is not None:
            states[made.report.run_id or ""] = seen(job.source)
        if chance.random() < 0.35:
            report = job.prune(
                keep_last=chance.choice([1, 2, 2, 3]), consolidate=chance.random() < 0.6
            )
            assert report.status == "success", report
            listed = {one.run_id for one in job.snapshots}
            states = {run: state for run, state in states.items() if run in listed}
            before = job.url
            job.url = f"sqlite:///{place}/{step}.db"
            rebuild(job.url, job.store)
            check(job, states)
            if chance.random() < 0.7:
                job.url = before
    check(job, states)


@pytest.mark.parametrize("seed", [4, 8, 10, 12])
def test_what_is_kept_is_told_by_the_archives_alone(tmp_path: Path, seed: int) -> None:
    live(tmp_path, seed, steps=14)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_what_is_kept_is_told_by_the_archives_alone_for_long(tmp_path: Path) -> None:
    for seed in range(100, 220):
        live(tmp_path / str(seed), seed, steps=20)
        shutil.rmtree(tmp_path / str(seed))
