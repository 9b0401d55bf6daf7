"""Decide what a restore writes where."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.restore.plan import RestorePlan
from pybak.restore.run import RestoreRun
from pybak.stages import stage
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="plan-restore", **PLAIN)
@stage("plan-restore")
def plan_restore(run: RestoreRun) -> RestorePlan:
    """List what the archives hold; plan the batches; check wrapped volumes for tampering."""
    plan = run.plan(password_for(run.options.password_block))
    get_run_logger().info("%s", plan.summary())
    return plan
