"""Read batches of members and check them."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from pybak.progress import following
from pybak.staging import is_cancelled
from pybak.verify.check import Checked, verify_batch
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="check-{name}", **PLAIN)
def check(
    staging: Path, folder: Path, name: str, batch: Path, password_block: str | None
) -> Checked:
    """Read every member of one batch: headers, sizes, checksums, SHA-256.

    Looks in `staging` for the mark to stop, and tells in the archive's `folder` how far it is.
    """
    with following(folder / "progress" / name) as progress:
        return verify_batch(
            batch, password=password_for(password_block),
            should_stop=lambda: is_cancelled(staging), progress=progress,
        )  # fmt: skip
