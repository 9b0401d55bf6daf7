"""Write the files of an archive that is encrypted as a whole, each into a ZIP of its own."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from pybak.backup.hands import Hand
from pybak.progress import WorkerProgress
from pybak.volumes.write import write_volumes
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="encrypt-{name}", **PLAIN)
def encrypt(
    staging: Path, target: Path, name: str, start: int, stop: int, step: int, kinds: list[str],
    threads: int, password_block: str | None = None,
) -> int:  # fmt: skip
    """Encrypt the volumes `range(start, stop, step)` with AES-256; give how many.

    Running it again does only what is missing.
    """
    hand = Hand(start, stop, step)
    password = password_for(password_block)
    with WorkerProgress(staging / "volumes" / "progress" / name) as progress:
        return write_volumes(
            staging, hand.batches(), target=target, password=password, kinds=kinds,
            threads=threads, advance=progress.advance,
        )  # fmt: skip
