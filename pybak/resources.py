"""How much of the machine a run may use: processors and memory."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pybak.errors import PlanError
from pybak.units import format_size

MAX_WORKERS_VARIABLE: Final = "PYBAK_MAX_WORKERS"
_MOST_WORKERS = 8
_ALL_UP_TO = 3
_MOST_FILES = 10_240  # more macOS gives no process

# Proportional set size, as `benchmarks/backup.py` weighs it (Python 3.11).
FLOW_BYTES: Final = 210 << 20
"""What a flow process takes: Prefect, a Dask scheduler, the catalog's libraries."""
PROCESS_BYTES: Final = 170 << 20
"""What a worker process takes on top, before it reads a byte."""
HELPER_BYTES: Final = 24 << 20
"""What a helper process (`pybak.workers`) takes on top."""
WORKER_BUFFER_BYTES: Final = 56 << 20
"""What one worker holds while it compresses: input, output, and the member's pieces."""


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the processors this process may use: affinity and cgroup quota (v1 and v2)."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        cpus = os.cpu_count() or 1
    quota = _cgroup_quota(cgroup)
    return max(1, min(cpus, math.ceil(quota)) if quota else cpus)


def allow_open_files() -> None:
    """Let this process have as many files open as it may; most systems begin with 1024 or 256."""
    try:
        import resource
    except ImportError:  # pragma: no cover - other systems
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_open_files() -> int | None:
    """Give how many files this process may have open; None where there is no limit."""
    try:
        import resource
    except ImportError:  # pragma: no cover - other systems
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _cgroup_quota(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if limit == "max" or int(limit) <= 0:
        return None
    return int(limit) / int(period)


def default_workers(cpus: int, environ: Mapping[str, str] = os.environ) -> int:
    """All processors up to three, one less from four on, at most eight or `PYBAK_MAX_WORKERS`.

    Raises PlanError if the variable is no positive number.
    """
    workers = cpus if cpus <= _ALL_UP_TO else cpus - 1
    most = environ.get(MAX_WORKERS_VARIABLE, str(_MOST_WORKERS))
    if not most.isdecimal() or int(most) < 1:
        raise PlanError(
            f"{MAX_WORKERS_VARIABLE}={most}: not a number from 1 on; correct or unset it"
        )
    return min(workers, int(most))


@dataclass(frozen=True)
class Share:
    """What a run gets: how many workers, and whether there is memory for them as processes.

    `processes_fit` is about a cluster's, `helpers_fit` about helper processes.
    """

    workers: int
    processes_fit: bool
    helpers_fit: bool


def share_memory(workers: int, limit_bytes: int | None, *, more_bytes: int = 0) -> Share:
    """Fit `workers` into `limit_bytes` for flow and workers together.

    `more_bytes` is what each worker's compressor takes besides the usual buffers. Fewer workers
    rather than more memory; threads rather than processes.
    Raises PlanError if not even one thread fits.
    """
    if limit_bytes is None:
        return Share(workers, processes_fit=True, helpers_fit=True)
    for_workers = limit_bytes - FLOW_BYTES
    for_one = WORKER_BUFFER_BYTES + more_bytes
    fitting = for_workers // for_one
    if fitting < 1:
        least = format_size(FLOW_BYTES + for_one)
        raise PlanError(
            f"--memory-limit {format_size(limit_bytes)}: too little to run; give {least} or more"
        )
    workers = min(workers, fitting)
    return Share(
        workers,
        processes_fit=for_workers >= workers * (PROCESS_BYTES + for_one),
        helpers_fit=for_workers >= workers * (HELPER_BYTES + for_one),
    )
