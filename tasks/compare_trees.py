"""Compare source and destination of a mirror."""

from __future__ import annotations

from collections.abc import Callable

from prefect import task

from pybak.mirror.plan import MirrorPlan
from pybak.mirror.run import MirrorRun
from pybak.stages import stage
from tasks._settings import PLAIN


@task(task_run_name="compare-trees", **PLAIN)
@stage("compare-trees")
def compare_trees(
    run: MirrorRun, on_progress: Callable[[int, int], None] = lambda _files, _size: None
) -> MirrorPlan:
    """Find what differs and decide what is to be done; nothing is changed."""
    return run.compare(on_progress)
