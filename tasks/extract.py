"""Unpack batches of members."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from pybak.progress import following
from pybak.restore.extract import extract_batch
from pybak.restore.outcome import Outcome
from pybak.staging import is_cancelled
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="extract-{name}", **PLAIN)
def extract(staging: Path, name: str, batch: Path, password_block: str | None) -> Outcome:
    """Unpack the members of one batch, each checked before it gets its name."""
    with following(staging / "progress" / name) as progress:
        return extract_batch(
            batch, password=password_for(password_block),
            should_stop=lambda: is_cancelled(staging), progress=progress,
        )  # fmt: skip
