"""Find what has changed, and cut that into batches."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.backup.filter import Filtered
from pybak.backup.plan import BackupPlan
from pybak.backup.run import BackupRun
from tasks._settings import PLAIN


@task(name="plan", task_run_name="plan", **PLAIN)
def plan_batches(run: BackupRun, kept: Filtered) -> BackupPlan:
    """Compare with the run's base; plan the batches, who takes them, and where."""
    plan = run.plan(kept)
    get_run_logger().info(
        "%s: %d files, %d bytes in %d batches for %d workers (%s)",
        run.chosen.mode, plan.files, plan.bytes, plan.batches, plan.workers, plan.cluster,
    )  # fmt: skip
    return plan
