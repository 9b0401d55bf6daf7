"""Compress batches into segments."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from pybak.backup.hands import Hand
from pybak.workers.compress import compress_hand
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="compress-{name}", **PLAIN)
def compress(
    staging: Path, name: str, start: int, stop: int, step: int, password_block: str | None = None
) -> int:
    """Compress the batches `range(start, stop, step)`; give how many.

    Where the run has helper processes, one of them does it. Running it again does only what is
    missing.
    """
    return compress_hand(
        staging, Hand(start, stop, step), staging / "progress" / name,
        password=password_for(password_block),
    )  # fmt: skip
