"""Write a new catalog and put it in the old one's place."""

from __future__ import annotations

from collections.abc import Callable

from prefect import task

from pybak.rebuild.order import Step
from pybak.rebuild.run import RebuildRun
from pybak.stages import stage
from pybak.volumes.model import Volume
from tasks._settings import PLAIN


@task(task_run_name="write-catalog", **PLAIN)
@stage("write-catalog")
def write_catalog(
    run: RebuildRun,
    steps: list[Step],
    volumes: dict[bytes, Volume],
    on_wait: Callable[[str], object],
) -> None:
    """Record all archives; the old catalog stays until the new one is whole."""
    run.write(steps, volumes, on_wait)
