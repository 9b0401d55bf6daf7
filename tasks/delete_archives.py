"""Delete what a prune does not keep."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.report import JobPrune
from pybak.retention.run import Prepared, PruneRun
from pybak.stages import stage
from tasks._settings import PLAIN


@task(task_run_name="delete-archives", **PLAIN)
@stage("delete-archives")
def delete_archives(run: PruneRun, prepared: Prepared) -> JobPrune:
    """Take snapshots out of the catalog and delete the archives that nothing needs any more."""
    done = run.prune(prepared)
    for name in done.deleted:
        get_run_logger().info("deleted %s", name)
    for problem in done.errors:
        get_run_logger().warning("%s", problem.message)
    return done
