"""Decide what a prune keeps of one job."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.retention.run import Prepared, PruneRun
from pybak.stages import stage
from tasks._settings import PLAIN


@task(task_run_name="plan-prune", **PLAIN)
@stage("plan-prune")
def plan_prune(run: PruneRun, job: str) -> Prepared:
    """Judge the snapshots, and see that the archives that are to go can be deleted."""
    prepared = run.plan(job)
    get_run_logger().info("%s: %s", job, prepared.plan.summary())
    return prepared
