"""Find archives and read their manifests."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.rebuild.order import Step
from pybak.rebuild.run import RebuildRun
from pybak.stages import stage
from pybak.units import format_count
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="read-manifests", **PLAIN)
@stage("read-manifests")
def read_manifests(run: RebuildRun) -> list[Step]:
    """Give what archives there are, in the order of their runs."""
    steps = run.read(password_for(run.options.password_block))
    get_run_logger().info("%s found", format_count(len(steps), "archive"))
    return steps
