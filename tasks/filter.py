"""Decide what is kept."""

from __future__ import annotations

from prefect import task

from pybak.backup.discover import Discovery
from pybak.backup.filter import Filtered
from pybak.backup.run import BackupRun
from pybak.stages import stage
from tasks._settings import PLAIN


@task(name="filter", task_run_name="filter", **PLAIN)
@stage("filter")
def filter_files(run: BackupRun, found: Discovery) -> Filtered:
    """Keep what the rules keep and the format can hold."""
    return run.filter(found)
