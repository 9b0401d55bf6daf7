"""Loaded by every Dask worker process of a local cluster before its first task."""

from __future__ import annotations

import signal


def dask_setup(worker: object) -> None:  # noqa: ARG001 - Dask's name and signature
    """Leave Ctrl-C to the flow: the terminal sends it to the whole process group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from prefect._internal.plugins import collections

    if collections._collections is None:
        collections._collections = {}
