"""Find what has changed, and cut that into batches."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.backup.filter import Filtered
from pybak.backup.plan import BackupPlan
from pybak.backup.run import BackupRun
from pybak.stages import stage
from pybak.units import format_count, format_size
from tasks._settings import PLAIN


@task(name="plan", task_run_name="plan", **PLAIN)
@stage("plan")
def plan_batches(run: BackupRun, kept: Filtered) -> BackupPlan:
    """Compare with the run's base; plan the batches, who takes them, and where."""
    plan = run.plan(kept)
    get_run_logger().info(
        "%s: %s, %s in %s for %s (%s)",
        run.chosen.mode, format_count(plan.files, "file"), format_size(plan.bytes),
        format_count(plan.batches, "batch", "batches"), format_count(plan.workers, "worker"),
        plan.cluster,
    )  # fmt: skip
    return plan
