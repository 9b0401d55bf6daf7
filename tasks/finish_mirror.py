"""Complete a mirror: hard links, deletions, and the folders' modes and times."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task

from pybak.mirror.account import Outcome
from pybak.mirror.plan import MirrorPlan
from pybak.mirror.run import MirrorRun
from pybak.stages import stage
from tasks._settings import PLAIN


@task(task_run_name="finish-mirror", **PLAIN)
@stage("finish-mirror")
def finish_mirror(run: MirrorRun, plan: MirrorPlan, outcomes: Sequence[Outcome]) -> Outcome:
    """Do what must come after all files are copied."""
    return run.finish(plan, outcomes)
