"""Have a task done for several things at the same time in this process."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from prefect import Task

_Result = TypeVar("_Result")


def side_by_side(task: Task[..., _Result], calls: Sequence[dict[str, Any]]) -> list[_Result]:
    """Call `task` once for each of `calls` (keyword arguments), in a thread each.

    For what mostly waits, and can't be handed to another process. Gives the results in order when
    all are done; raises what the first of them raised.
    """
    if len(calls) < 2:
        return [task(**call) for call in calls]
    with ThreadPoolExecutor(len(calls), thread_name_prefix="task") as pool:
        # A context can't be entered twice, so each thread gets its own.
        futures = [pool.submit(copy_context().run, partial(task, **call)) for call in calls]
        return [future.result() for future in futures]
