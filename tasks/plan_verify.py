"""Check the structure of an archive."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.stages import stage
from pybak.verify.check import VerifyPlan
from pybak.verify.run import VerifyRun
from pybak.volumes.find import VolumeSet
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="plan-verify", **PLAIN)
@stage("plan-verify")
def plan_verify(
    run: VerifyRun, archive: VolumeSet, number: int, run_id: str | None = None
) -> VerifyPlan:
    """Compare the archive's records with its manifest; plan the batches to read."""
    password = password_for(run.options.password_block)
    plan = run.plan(archive, number, password, run_id=run_id)
    get_run_logger().info("%s", plan.summary())
    return plan
