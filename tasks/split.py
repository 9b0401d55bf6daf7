"""Write the volumes of an archive that is cut."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from pybak.backup.hands import Hand
from pybak.progress import WorkerProgress
from pybak.volumes.write import write_volumes
from tasks._settings import PLAIN


@task(task_run_name="split-{name}", **PLAIN)
def split(
    staging: Path, target: Path, name: str, start: int, stop: int, step: int, kinds: list[str],
    threads: int,
) -> int:  # fmt: skip
    """Write the volumes `range(start, stop, step)`; give how many.

    Running it again does only what is missing.
    """
    hand = Hand(start, stop, step)
    with WorkerProgress(staging / "volumes" / "progress" / name) as progress:
        return write_volumes(
            staging, hand.batches(), target=target, kinds=kinds, threads=threads,
            advance=progress.advance,
        )  # fmt: skip
