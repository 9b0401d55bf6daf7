"""Walk the sources."""

from __future__ import annotations

from collections.abc import Callable

from prefect import task

from pybak.backup.discover import Discovery
from pybak.backup.run import BackupRun
from pybak.stages import stage
from tasks._settings import PLAIN


@task(task_run_name="discover", **PLAIN)
@stage("discover")
def discover(run: BackupRun, on_progress: Callable[[int, int], None] | None = None) -> Discovery:
    """List every file, folder and link of the run's sources."""
    return run.discover(on_progress)
