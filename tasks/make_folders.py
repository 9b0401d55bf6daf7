"""Make the folders that a restore writes into."""

from __future__ import annotations

from prefect import task

from pybak.restore import finish
from pybak.restore.finish import FoldersMade
from pybak.restore.plan import RestorePlan
from pybak.stages import stage
from tasks._settings import PLAIN


@task(task_run_name="make-folders", **PLAIN)
@stage("make-folders")
def make_folders(plan: RestorePlan) -> FoldersMade:
    """Make the target and its folders, writable until the last file is in."""
    return finish.make_folders(plan)
