"""Check the structure of an archive."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task

from pybak.verify.check import VerifyPlan
from pybak.verify.run import VerifyRun
from tasks._settings import PLAIN


@task(task_run_name="plan-verify", **PLAIN)
def plan_verify(run: VerifyRun, archive: Path, number: int) -> VerifyPlan:
    """Compare directory and manifest; plan the batches to read."""
    plan = run.plan(archive, number)
    get_run_logger().info("%s", plan.summary())
    return plan
