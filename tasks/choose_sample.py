"""Choose what a drill restores."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.drill.run import DrillRun
from pybak.stages import stage
from pybak.units import format_count, format_size
from tasks._settings import PLAIN


@task(task_run_name="choose-sample", **PLAIN)
@stage("choose-sample")
def choose_sample(run: DrillRun) -> None:
    """Choose by chance, at least one file from each archive that the snapshot needs."""
    run.choose()
    get_run_logger().info(
        "run %s: %s, %s; seed %s", run.snapshot.run_id,
        format_count(len(run.sample), "member"), format_size(run.size), run.seed,
    )  # fmt: skip
