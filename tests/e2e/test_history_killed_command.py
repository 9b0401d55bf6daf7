"""Backup commands that are killed outright leave every earlier snapshot as it was (case 93)."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest
from backing_up import prose
from commands import Commands
from jobs import Job, Tree, seen

from pybak.staging import remove_leftovers

_KILLS = 5
# The command takes over a second to import what it needs; a kill before that tests nothing.
_STARTING_SECONDS = 1.0


@pytest.mark.timeout(240)
def test_killed_commands_cost_themselves_and_nothing_else(
    tmp_path: Path, run_command: Commands
) -> None:
    home = Path(os.environ["PYBAK_HOME"])
    job = Job(tmp_path, catalog_url=f"sqlite:///{home / 'catalog.db'}")
    words = (job.source, "--to", job.store, "--job", job.name, "--mode", "incremental", "--quiet")
    states: dict[str, Tree] = {}
    dice = random.Random(11)

    def edit(step: int) -> None:
        for number in range(step % 2, 30, 2):
            (job.source / f"file {number}").write_bytes(prose(30_000, seed=step * 100 + number))

    def remember() -> None:
        for snapshot in job.snapshots:
            states.setdefault(snapshot.run_id, seen(job.source))

    edit(0)
    done = run_command("backup", *words, whole=True)
    assert done.rc == 0, done
    seconds = done.seconds
    remember()
    for kill in range(1, _KILLS + 1):
        edit(kill)
        with run_command.running("backup", *words) as process:
            time.sleep(dice.uniform(_STARTING_SECONDS, max(seconds, 2 * _STARTING_SECONDS)))
            process.kill()
            process.communicate()
        remember()
    edit(_KILLS + 1)
    assert run_command("backup", *words).rc == 0
    remember()
    assert {one.run_id for one in job.snapshots} == states.keys()
    for run_id, state in states.items():
        report, folder = job.restore(run_id)
        assert report.status == "success", report.errors
        assert seen(folder) == state
        shutil.rmtree(folder.parent)
    # A work folder whose run was killed before it had its lock counts as alive for a day.
    remove_leftovers(job.store, now=time.time() + 2 * 86_400)
    assert not list(job.store.glob(".pybak-work-*"))
