"""Hand work to the cluster and gather it again, one future at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from prefect import Task, get_run_logger
from prefect.context import SettingsContext, get_settings_context

from flows.support.cluster import ClusterError, choose
from flows.support.screen import Screen
from pybak.clusters import DIRECT, HELPERS
from pybak.errors import Interrupted, PyBakError
from pybak.stages import stage
from pybak.workers.pool import COMPRESSING, HelpersUnavailableError, current_pool, helping

_Result = TypeVar("_Result")
_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 3.0
_LOST = "scheduler-connection-lost"  # Dask's word


class WorkerError(PyBakError):
    """A worker failed in a way that is no answer of ours: it died, or hit a bug."""


def fan_out(
    task: Task[..., _Result],
    calls: Sequence[dict[str, Any]],
    *,
    cluster: str,
    workers: int,
    on_failure: Callable[[], None],
    is_stopping: Callable[[], bool],
    screen: Screen,
    on_result: Callable[[int, _Result], None] = lambda _number, _result: None,
    helper_module: str = COMPRESSING,
) -> list[_Result]:
    """Run `task` once for each of `calls` (keyword arguments), side by side.

    With `cluster` "direct" the task is called here, one after the other; with "helpers" there
    are helper processes meanwhile, which import `helper_module` and which a task that knows them
    finds. `on_failure` is called at
    the first failure, to stop what still runs; the first failure is raised when all are done.
    Once `is_stopping` says so, tasks get a few seconds to end by themselves; those that don't
    (they wait for a worker, or it is gone) are cancelled. `on_result` is called for each call, by
    its number and in that order. All of it is a stage of the run, called as its task runs are.
    """
    with stage(str(task.task_run_name).removesuffix("-{name}")) as span:
        before = screen.worked() or 0.0
        try:
            if cluster == DIRECT:
                return [
                    _direct(task, call, on_failure, partial(on_result, number))
                    for number, call in enumerate(calls)
                ]
            with _helpers(cluster, workers, screen, module=helper_module):
                return _by_cluster(
                    task, calls, cluster=cluster, workers=workers, on_failure=on_failure,
                    is_stopping=is_stopping, screen=screen, on_result=on_result,
                )  # fmt: skip
        finally:
            worked = screen.worked()
            span.shared(None if worked is None else max(worked - before, 0.0))


@contextmanager
def _helpers(
    cluster: str, workers: int, screen: Screen, *, module: str = COMPRESSING
) -> Iterator[None]:
    """Have helper processes if they are wanted; where there can't be any, warn and go without."""
    if cluster != HELPERS or current_pool() is not None:
        yield
        return
    try:
        pool = helping(workers, module=module)
    except HelpersUnavailableError as error:
        message = f"{error}; using threads"
        get_run_logger().warning(message)
        screen.warn(message)
        yield
        return
    with pool:
        yield


def _by_cluster(
    task: Task[..., _Result],
    calls: Sequence[dict[str, Any]],
    *,
    cluster: str,
    workers: int,
    on_failure: Callable[[], None],
    is_stopping: Callable[[], bool],
    screen: Screen,
    on_result: Callable[[int, _Result], None],
) -> list[_Result]:
    choose(cluster, workers)
    try:
        with _settings_as_they_are():
            futures = [task.submit(**call) for call in calls]
    except ClusterError as error:
        message = f"{error}; doing the work in this process"
        get_run_logger().warning(message)
        screen.warn(message)
        return [
            _direct(task, call, on_failure, partial(on_result, number))
            for number, call in enumerate(calls)
        ]
    results: list[_Result] = []
    failure: BaseException | None = None
    for number, future in enumerate(futures):
        try:
            _wait(future, is_stopping)
            results.append(future.result())
            on_result(number, results[-1])
        except Exception as error:
            if failure is None or (isinstance(failure, Interrupted) and _is_ours(error)):
                failure = error
            on_failure()
    if failure is None:
        return results
    if _is_ours(failure):
        raise failure
    if getattr(failure, "reason", None) == _LOST:  # a cancelled future's
        raise WorkerError(
            f"{cluster}: the connection to the Dask scheduler was lost; see that it runs and can "
            "be reached, and run again"
        ) from failure
    raise WorkerError(f"a worker failed: {_first_line(failure)}") from failure


def _wait(future: Any, is_stopping: Callable[[], bool]) -> None:
    """Wait until a Dask future is done. Raises Interrupted, and cancels it, if it is stuck.

    Its own `wait` would fetch the result, and if it gives up in the middle of that, Dask has
    nobody else get it.
    """
    patience = _PATIENCE_SECONDS
    is_done = threading.Event()
    future.wrapped_future.add_done_callback(lambda _: is_done.set())
    while not (is_done.wait(_POLL_SECONDS) or future.wrapped_future.done()):
        if is_stopping():
            patience -= _POLL_SECONDS
        if patience < 0:
            future.wrapped_future.cancel()
            raise Interrupted("stopped on request")


class _WholeSettings(SettingsContext):
    """Hands Prefect's settings to workers as one object.

    Prefect takes them apart value by value for every task and puts them together from all their
    sources again in the worker: 110 ms a task, most of its cost, under the interpreter lock.
    """

    def serialize(self, include_secrets: bool = True) -> dict[str, Any]:  # noqa: ARG002
        """Give what `SettingsContext` is made of."""
        return {"profile": self.profile, "settings": self.settings}


def _settings_as_they_are() -> _WholeSettings:
    current = get_settings_context()
    return _WholeSettings(profile=current.profile, settings=current.settings)


def _direct(
    task: Task[..., _Result],
    call: dict[str, Any],
    on_failure: Callable[[], None],
    on_result: Callable[[_Result], None],
) -> _Result:
    try:
        result: _Result = task(**call)
        on_result(result)
        return result
    except BaseException:
        on_failure()
        raise


def _is_ours(error: BaseException) -> bool:
    return isinstance(error, PyBakError)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
