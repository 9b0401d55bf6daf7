"""Compress batches into segments."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from pybak.backup.compress import compress_batches
from pybak.backup.plan import Hand
from pybak.progress import WorkerProgress
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="compress-{name}", **PLAIN)
def compress(
    staging: Path, name: str, start: int, stop: int, step: int, password_block: str | None = None
) -> int:
    """Compress the batches `range(start, stop, step)`; give how many.

    Running it again does only what is missing.
    """
    hand = Hand(start, stop, step)
    password = password_for(password_block)
    with WorkerProgress(staging / "progress" / name) as progress:
        return compress_batches(
            staging, hand.batches(), password=password, advance=progress.advance
        )
