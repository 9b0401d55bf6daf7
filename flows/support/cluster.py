"""The Dask cluster of a run: chosen when the plan is known, started at the first submit.

`dask_runner` makes a `DaskTaskRunner` that calls `start_cluster`. Prefect calls it
without arguments, so the plan's choice is left in `choose` before. Where processes can't be
started threads are used, and where threads can't, the flow calls its tasks itself.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

from prefect.task_runners import TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from pybak.clusters import HELPERS, PROCESSES, THREADS
from pybak.errors import PyBakError

_PRELOAD = (
    "distributed",
    "prefect.events.worker",
    "prefect.logging.handlers",
    "prefect.task_engine",
    "prefect_dask",
    "tasks.compress",
)
_DASK_SETTINGS = {
    "distributed.worker.multiprocessing-method": "forkserver",
    # What watches the event loop and samples stacks a hundred times a second takes the
    # interpreter lock from threads that work; nobody looks at its results here.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "60s",
    "distributed.admin.system-monitor.interval": "10s",
}
_GREETING_SECONDS = 5
_WORKERS_SECONDS = 10
_log = logging.getLogger("pybak.cluster")


class ClusterError(PyBakError):
    """No cluster could be started or reached."""


class Choice(NamedTuple):
    """`kind` is `threads`, `helpers`, `processes` or the address of a scheduler.

    With helpers the cluster itself has threads, one a helper (`flows.support.fan_out`).
    """

    kind: str
    workers: int


_choice: ContextVar[Choice] = ContextVar("cluster choice")


def choose(kind: str, workers: int) -> None:
    """Say what `start_cluster` is to start."""
    _choice.set(Choice(kind, workers))


def dask_runner() -> TaskRunner[Any]:
    """Give the task runner of a flow; it starts nothing before the first submit."""
    # The declared type wants one of Dask's own cluster classes; what is called need only give a
    # context manager that a Dask client can connect to.
    runner: Any = DaskTaskRunner(cluster_class=cast("Any", start_cluster))
    return cast("TaskRunner[Any]", runner)


def start_cluster() -> AbstractContextManager[Any]:
    """Start or reach the chosen cluster. Raises ClusterError if none can be had."""
    choice = _choice.get(Choice(THREADS, 1))
    if choice.kind not in (THREADS, HELPERS, PROCESSES):
        return _ExistingCluster(choice.kind)
    if choice.kind == PROCESSES:
        try:
            return _local_cluster(processes=True, workers=choice.workers)
        except (OSError, RuntimeError, TimeoutError) as error:
            _log.warning("worker processes can't be started (%s); using threads", error)
    try:
        return _local_cluster(processes=False, workers=choice.workers)
    except (OSError, RuntimeError, TimeoutError) as error:
        raise ClusterError(f"no cluster can be started: {error}") from error


def _local_cluster(*, processes: bool, workers: int) -> AbstractContextManager[Any]:
    import dask
    import distributed
    from prefect._internal.plugins import collections

    # Prefect imports every installed collection at the first task of a process, some of them
    # seconds long; no task here needs one that it does not import itself.
    if collections._collections is None:
        collections._collections = {}
    if processes:
        _preload()
    shape: dict[str, Any] = (
        # Without certificates any user of the machine could run code in the workers.
        {"n_workers": workers, "threads_per_worker": 1, "host": "127.0.0.1", "security": True}
        if processes
        else {"n_workers": 1, "threads_per_worker": workers}  # no network: inproc://
    )
    dask.config.set(_DASK_SETTINGS)
    preload = ["flows.support.worker_process"] if processes else []
    with dask.config.set({"distributed.worker.preload": preload}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster: AbstractContextManager[Any] = distributed.LocalCluster(
            processes=processes,
            memory_limit=0,  # workers bound what they hold; at its own limit Dask kills them
            # None would still open it, on every address of the machine.
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            **shape,
        )
        return cluster


def _preload() -> None:
    """Have workers forked from a process that has imported what they need."""
    import multiprocessing

    from distributed.utils import get_mp_context

    get_mp_context()  # sets Dask's own preload list, which ours replaces
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_PRELOAD))


class _ExistingCluster:
    """A scheduler that others run; gives its address, by which a Dask client finds it."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> str:
        import distributed

        try:
            _greet(self._address)
            with distributed.Client(self._address, timeout=5, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=_WORKERS_SECONDS)
        except TimeoutError as error:
            raise ClusterError(
                f"{self._address}: the scheduler has no workers; start some with `dask worker`"
            ) from error
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"{self._address}: no Dask scheduler answers; start it, or leave --cluster away"
            ) from error
        return self._address

    def __exit__(self, *_: object) -> None:
        pass


def _greet(address: str) -> None:
    """See that a scheduler answers; its client would wait for ever for one that is silent.

    Raises OSError and ValueError.
    """
    from distributed.comm.core import connect
    from distributed.security import Security

    async def greet() -> None:
        secrets = Security().get_connection_args("client")
        async with asyncio.timeout(_GREETING_SECONDS):
            comm = await connect(address, **secrets)
        comm.abort()

    with ThreadPoolExecutor(1) as pool:  # whoever runs the flow may have a loop in this thread
        try:
            pool.submit(lambda: asyncio.run(greet())).result()
        except TimeoutError as error:
            raise OSError("no answer") from error
