"""Compare what a drill restored with what was recorded."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.catalog.facts import Version
from pybak.drill.run import DrillRun
from pybak.problems import Problem
from pybak.report import RestoreReport
from pybak.stages import stage
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="compare-restored", **PLAIN)
@stage("compare-restored")
def compare_restored(run: DrillRun, restored: RestoreReport) -> list[tuple[Version, Problem]]:
    """Read every file back from the disk; log each that is not as it was saved."""
    failed = run.compare(restored, password_for(run.options.password_block))
    for _, problem in failed:
        get_run_logger().error("%s: %s", problem.path, problem.message)
    return failed
