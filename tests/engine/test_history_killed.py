"""A kill at any moment of a backup or a prune costs that run and nothing else (cases 93, 94)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Self

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


class _Starter:
    """Starts work in processes that can be killed; a context manager.

    A process with all imports done forks for each, so that a kill meets the work itself.
    """

    def __init__(self, place: Path) -> None:
        self._place = place

    def __enter__(self) -> Self:
        context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_fork_often, args=(theirs, self._place, os.environ["PYBAK_HOME"])
        )
        self._process.start()
        theirs.close()
        return self

    def run(self, what: str, *, kill_after: float | None = None) -> int:
        """Do a piece of work, killed after so many seconds unless it is None; give the status."""
        self._pipe.send(what)
        pid: int = self._pipe.recv()
        if not self._pipe.poll(kill_after):
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(pid, signal.SIGKILL)
        status: int = self._pipe.recv()
        return status

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()


def _fork_often(pipe: Connection, place: Path, home: str) -> None:
    with contextlib.suppress(EOFError):
        # The first time imports what is only imported where it is needed.
        other = place / "other"
        for what in ("full", "incremental", "prune"):
            _work(other, home, what)
        while what := pipe.recv():
            pid = os.fork()
            if pid:
                pipe.send(pid)
                pipe.send(os.waitpid(pid, 0)[1])
                continue
            try:
                _work(place, home, what)
                os._exit(0)
            finally:
                os._exit(1)


def _kill_often(place: Path, kills: int, seed: int) -> int:
    """Start runs and prunes, kill most of them; give how many were killed while at work."""
    dice = random.Random(seed)
    job = Job(place)
    states: dict[str, Tree] = {}
    done = 0
    seconds = {"run": 0.1, "prune": 0.05}
    step = 0
    with _Starter(place) as starter:
        while done < kills:
            step += 1
            _edit(job, step)
            what = dice.choice(["full", "incremental", "incremental", "differential", "prune"])
            kind = "prune" if what == "prune" else "run"
            before = {one.run_id for one in job.snapshots}
            state = seen(job.source)
            if step % 4 == 0 or not before:
                started = time.monotonic()
                assert starter.run(what) == 0
                seconds[kind] = time.monotonic() - started
            else:
                status = starter.run(what, kill_after=dice.uniform(0.0, seconds[kind] * 1.1))
                assert os.WIFSIGNALED(status) or status == 0
                done += os.WIFSIGNALED(status)
            after = {one.run_id for one in job.snapshots}
            for run_id in after - before:
                states[run_id] = state
            assert after >= before or what == "prune"
            states = {run_id: state for run_id, state in states.items() if run_id in after}
            assert states.keys() == after
            if step % 8 == 0:
                _check(job, states)
    # A last run and a last prune in peace bring everything in order.
    home = os.environ["PYBAK_HOME"]
    _work(place, home, "full")
    states[job.snapshots[-1].run_id] = seen(job.source)
    _work(place, home, "prune")
    kept = {one.run_id for one in job.snapshots}
    _check(job, {run_id: state for run_id, state in states.items() if run_id in kept})
    # A work folder whose run was killed before it had its lock counts as alive for a day.
    remove_leftovers(job.store, now=time.time() + 2 * 86_400)
    with job.history() as history:
        known = {archive.name for archive in history.archives_of_job(job.name)}
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
    assert _kill_often(tmp_path, 60, seed=7) >= 60


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_what_was_saved_before_hundreds_of_kills_stays(tmp_path: Path) -> None:
    assert _kill_often(tmp_path, 300, seed=time.time_ns()) >= 300
