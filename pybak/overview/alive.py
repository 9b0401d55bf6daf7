"""Whether a run that the catalog holds for running is.

A process that was killed, or whose machine went down, leaves its row as it was. Such a run is told
as `died` where that is known:

- somebody who knows says so (`asked`): Prefect, or the lock that the run would hold;
- a later run of the same job and kind has begun: their lock lets only one in at a time;
- it began more than `LONGEST` ago.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import Connection

from pybak.catalog.models import escaped
from pybak.catalog.runs import RUNNING
from pybak.overview.facts import DIED, JOB_KINDS, RunSummary
from pybak.overview.sql import row

LONGEST: Final = timedelta(days=7)

Asked = Callable[[RunSummary], bool | None]
"""Tells whether a run is at work, or None where it does not know."""


class Liveness:
    """Tells runs at work from dead ones."""

    def __init__(self, asked: Asked | None = None) -> None:
        self._asked = asked

    def judged(self, connection: Connection, run: RunSummary, now: datetime) -> RunSummary:
        """Give a run with the status `died` if it did; `now` is aware."""
        if run.status != RUNNING or self._is_alive(connection, run, now):
            return run
        return msgspec.structs.replace(run, status=DIED)

    def _is_alive(self, connection: Connection, run: RunSummary, now: datetime) -> bool:
        known = self._asked(run) if self._asked is not None else None
        if known is not None:
            return known
        if now - run.started_at > LONGEST:
            return False
        return run.kind not in JOB_KINDS or not _is_followed(connection, run)


def _is_followed(connection: Connection, run: RunSummary) -> bool:
    statement = "SELECT 1 FROM run WHERE kind = ? AND job = ? AND seq > ? LIMIT 1"
    return row(connection, statement, (run.kind, escaped(run.job), run.seq)) is not None


def asking_locks(*, is_only_here: bool, folder: Path | None = None) -> Asked:
    """Give what asks the lock of a run's job, on this machine.

    `is_only_here` says that all who write this catalog share these locks, so that a lock that
    somebody else or nobody holds tells of the run's end. `folder` is as for `job_lock`.
    """
    from pybak.catalog.locks import noted

    def asked(run: RunSummary) -> bool | None:
        if run.kind not in JOB_KINDS:
            return None
        note = noted(run.job, folder=folder)
        if note is None:
            return None
        if note.run_id == run.run_id:
            return note.is_alive
        return False if is_only_here else None

    return asked
