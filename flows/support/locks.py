"""A run's lock on its job: one run at a time changes the history."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from flows.support.interrupt import stop_on_signal
from flows.support.screen import Screen
from pybak.catalog.locks import Lock, job_lock, waiting_seconds
from pybak.home import catalog_url
from pybak.options import BackupOptions
from pybak.options.inbox import InboxOptions


@contextmanager
def job_locked(
    job: str, options: BackupOptions | InboxOptions, screen: Screen, *, run_id: str | None = None
) -> Iterator[Lock]:
    """Hold the job's lock for the run `run_id`; Ctrl-C and the like end the waiting for it.

    A run that is not known yet is noted later. Raises LockedError if another run has it for too
    long, Interrupted.
    """
    asked = threading.Event()
    with ExitStack() as stack:
        with stop_on_signal(asked.set):
            lock = stack.enter_context(
                job_lock(
                    job,
                    wait=waiting_seconds(wait=options.wait, limit=options.wait_limit),
                    catalog_url=catalog_url(),
                    run_id=run_id,
                    cancelled=asked.is_set,
                    on_wait=screen.waiting,
                )
            )
        if lock.problem:
            screen.warn(lock.problem)
        yield lock
