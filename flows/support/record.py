"""See to it that a run's row never stays open, however the run ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prefect import get_run_logger

from flows.support.screen import Screen
from flows.support.states import ended_as
from pybak.catalog.recorder import RunRecorder
from pybak.display import printable
from tasks.record_metadata import record_metadata


@contextmanager
def failure_recorded(recorder: RunRecorder, screen: Screen) -> Iterator[None]:
    """Record the failure of what is done inside; say when the catalog can't be used.

    The log begins with which run of which job this is.
    """
    get_run_logger().info("run %s of job %s", recorder.run_id, printable(recorder.job))
    if recorder.problem:
        screen.warn(f"{recorder.problem}; this run is not in the history")
    try:
        yield
    except BaseException as error:
        lines = str(error).splitlines() or [type(error).__name__]
        record_metadata(
            recorder, status=ended_as(error), counts={}, now=datetime.now(UTC), message=lines[0]
        )
        raise
