"""Make links, and give folders their modes and times."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from pybak.restore.finish import finish
from pybak.restore.outcome import Outcome
from pybak.restore.plan import RestorePlan
from pybak.stages import stage
from pybak.staging import is_cancelled
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="finish-restore", **PLAIN)
@stage("finish-restore")
def finish_restore(staging: Path, plan: RestorePlan, password_block: str | None) -> Outcome:
    """Do what must come after all files: links, then the folders from the deepest up."""
    return finish(
        plan, password=password_for(password_block), should_stop=lambda: is_cancelled(staging)
    )
