"""Pack the files of a parcel."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from pybak.inbox.pack import pack_parcel
from pybak.progress import WorkerProgress
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="pack-{name}", **PLAIN)
def pack_files(staging: Path, name: str, number: int, password_block: str | None = None) -> int:
    """Pack the files of parcel `number` into the staging folder; give how many."""
    with WorkerProgress(staging / "progress" / name) as progress:
        return pack_parcel(
            staging, number, password=password_for(password_block), advance=progress.advance
        )
