"""Write how a run ended into the catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from prefect import get_run_logger, task

from pybak.catalog.recorder import RunRecorder
from pybak.stages import stage
from tasks._settings import PLAIN


@task(task_run_name="record-metadata", **PLAIN)
@stage("record-metadata")
def record_metadata(
    recorder: RunRecorder,
    *,
    status: str,
    counts: Mapping[str, Any],
    now: datetime,
    archive: str | None = None,
    message: str | None = None,
    write: Callable[..., object] | None = None,
) -> None:
    """Complete the run's row; a catalog that can't be written is a warning, no more.

    `write` puts the snapshot that the run made into an open transaction.
    """
    problem = recorder.finish(
        status=status, counts=counts, now=now, archive=archive, message=message, write=write
    )
    if problem:
        get_run_logger().warning("%s", problem)
