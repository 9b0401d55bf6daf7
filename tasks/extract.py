"""Unpack batches of members."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from pybak.restore.helping import extract_hand
from pybak.restore.outcome import Outcome
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="extract-{name}", **PLAIN)
def extract(staging: Path, name: str, batch: Path, password_block: str | None) -> Outcome:
    """Unpack the members of one batch, each checked before it gets its name.

    Where the run has helper processes, one of them does it.
    """
    return extract_hand(staging, name, batch, password=password_for(password_block))
