"""Consolidations that are killed or stopped: every snapshot that is listed is whole. (case 94)"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from consolidating import four_runs, verified
from dying import CONSOLIDATION_CHANGES, CONSOLIDATION_WRITERS, die_at

from pybak.errors import Interrupted
from pybak.options import PruneOptions
from pybak.retention.run import PruneRun

PASSWORD = b"correct horse"
KINDS: dict[str, dict[str, Any]] = {
    "zip": {},
    "tar.zst": {"format": "tar.zst"},
    "wrapped volumes": {"format": "tar.gz", "password": PASSWORD, "split": "64KiB"},
}


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        *(("zip", step) for step in range(12)),
        *(("tar.zst", step) for step in range(0, 12, 3)),
        *(("wrapped volumes", step) for step in range(1, 12, 3)),
    ],
)
def test_a_kill_at_any_step_leaves_every_listed_snapshot_whole(
    tmp_path: Path, kind: str, step: int
) -> None:
    chain = four_runs(tmp_path, **KINDS[kind])
    child = os.fork()
    if not child:
        die_at(
            step,
            lambda: chain.prune(keep_last=1),
            changes=CONSOLIDATION_CHANGES,
            writers=CONSOLIDATION_WRITERS,
        )
    status = os.waitpid(child, 0)[1]
    assert status == signal.SIGKILL, step
    chain.check()
    done = chain.prune(keep_last=1)
    assert done.status == "success", done.errors
    assert len(chain.volumes) == 1
    assert not list(chain.job.store.glob(".*"))
    verified(chain.volumes[0], chain.password)
    chain.check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_on_request_leaves_all_as_it_was(tmp_path: Path, kind: str) -> None:
    """(case 95)"""
    chain = four_runs(tmp_path, **KINDS[kind])
    before = chain.job.archives
    options = PruneOptions(keep_last=1, consolidate=True)
    with PruneRun(options, catalog_url=chain.job.url, password=chain.password) as run:
        prepared = run.plan(chain.job.name)
        run.request_cancel()
        with pytest.raises(Interrupted):
            run.prune(prepared)
    assert chain.job.archives == before
    assert not list(chain.job.store.glob(".*"))
    chain.check()
