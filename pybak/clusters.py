"""Where the batches of a run are worked on: in the run itself, by threads, helpers or processes."""

from __future__ import annotations

from typing import Final

_DIRECT_SECONDS = 0.8
"""Work of less than this is done in the flow: starting a cluster takes longer."""
_PROCESSES_START_SECONDS = 3.5
_HELPERS_START_SECONDS = 0.3
_WAITING = 0.8
"""What two threads lose by waiting for the lock, as a share of the time it is held."""

DIRECT: Final = "direct"
THREADS: Final = "threads"
HELPERS: Final = "helpers"
"""Threads that hand their batches to helper processes (`pybak.workers`)."""
PROCESSES: Final = "processes"


def choose_cluster(
    wanted: str,
    *,
    seconds: float,
    locked_seconds: float,
    workers: int,
    processes_fit: bool,
    helpers_fit: bool = False,
) -> str:
    """Give where the work is done: `direct`, `threads`, `helpers`, `processes`, or `wanted`.

    `wanted` is `auto`, one of these or an address. `seconds` is the work of one core,
    `locked_seconds` its share under the interpreter lock. Threads start at once but share the
    lock; a cluster's processes cost seconds to start. Helpers can only do what they were made for.
    """
    if wanted != "auto":
        return wanted
    if seconds < _DIRECT_SECONDS:
        return DIRECT
    if workers == 1:
        return THREADS
    if helpers_fit:
        return HELPERS if locked_seconds * _WAITING > _HELPERS_START_SECONDS else THREADS
    by_threads = max(seconds / workers, locked_seconds * 1.3)
    by_processes = _PROCESSES_START_SECONDS + seconds / workers
    return THREADS if by_threads <= by_processes or not processes_fit else PROCESSES
