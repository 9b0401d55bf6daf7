"""Read the files of archives for their digests."""

from __future__ import annotations

from prefect import task

from pybak.progress import WorkerProgress
from pybak.rebuild.order import Step
from pybak.rebuild.run import RebuildRun
from pybak.stages import stage
from pybak.volumes.model import Volume
from tasks._settings import PLAIN


@task(task_run_name="hash-volumes", **PLAIN)
@stage("hash-volumes")
def hash_volumes(run: RebuildRun, steps: list[Step]) -> dict[bytes, Volume]:
    """Give place, size and SHA-256 of every file, read side by side."""
    with WorkerProgress(run.staging / "progress" / "hash") as progress:
        return run.describe(steps, progress.advance)
