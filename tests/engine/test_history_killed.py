"""A kill at any moment of a backup or a prune costs that run and nothing else (cases 93, 94)."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from backing_up import prose
from jobs import Job, Tree, seen

from pybak.staging import remove_leftovers

_FILES = 40


def _work(place: Path, home: str, what: str) -> None:
    os.environ["PYBAK_HOME"] = home
    job = Job(place)
    if what == "prune":
        job.prune(keep_last=2)
    else:
        job.run(what, format="tar.zst", workers=1)


def _edit(job: Job, step: int) -> None:
    for number in range(step % 3, _FILES, 3):
        path = job.source / f"folder {number % 4}" / f"file {number}"
        path.parent.mkdir(exist_ok=True)
        if (number + step) % 7 == 0:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(prose(20_000, seed=number * 1000 + step))


def _kill_often(place: Path, kills: int, seed: int) -> int:
    """Start runs and prunes, kill most of them; give how many were killed while at work."""
    dice = random.Random(seed)
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jobs", "pybak.backup.run", "pybak.retention.run"])
    job = Job(place)
    states: dict[str, Tree] = {}
    home = os.environ["PYBAK_HOME"]
    done = 0
    seconds = {"run": 0.5, "prune": 0.3}
    step = 0
    while done < kills:
        step += 1
        _edit(job, step)
        what = dice.choice(["full", "incremental", "incremental", "differential", "prune"])
        kind = "prune" if what == "prune" else "run"
        before = {one.run_id for one in job.snapshots}
        state = seen(job.source)
        process = context.Process(target=_work, args=(place, home, what))
        started = time.monotonic()
        process.start()
        if step % 4 == 0 or not before:
            process.join()
            seconds[kind] = time.monotonic() - started
            assert process.exitcode == 0
        else:
            process.join(dice.uniform(0.0, seconds[kind] * 1.1))
            if process.is_alive():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                done += 1
            process.join()
        after = {one.run_id for one in job.snapshots}
        for run_id in after - before:
            states[run_id] = state
        assert after >= before or what == "prune"
        states = {run_id: state for run_id, state in states.items() if run_id in after}
        assert states.keys() == after
        if step % 5 == 0:
            _check(job, states)
    # A last run and a last prune in peace bring everything in order.
    _work(place, home, "full")
    states[job.snapshots[-1].run_id] = seen(job.source)
    _work(place, home, "prune")
    kept = {one.run_id for one in job.snapshots}
    _check(job, {run_id: state for run_id, state in states.items() if run_id in kept})
    remove_leftovers(job.store)
    known = {archive.name for archive in job.history.archives_of_job(job.name)}
    assert {os.fspath(path) for path in job.archives} >= known
    assert not [path for path in job.archives if path.name.startswith(".")]
    return done


def _check(job: Job, states: dict[str, Tree]) -> None:
    for run_id, state in states.items():
        report, folder = job.restore(run_id)
        assert report.status == "success", report.errors
        assert seen(folder) == state
        shutil.rmtree(folder.parent)


@pytest.mark.timeout(280)
def test_what_was_saved_before_a_kill_stays(tmp_path: Path) -> None:
    assert _kill_often(tmp_path, 30, seed=7) >= 30


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_what_was_saved_before_hundreds_of_kills_stays(tmp_path: Path) -> None:
    assert _kill_often(tmp_path, 300, seed=time.time_ns()) >= 300
