"""Copy a hand of files from the source of a mirror to its destination."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from pybak.mirror.account import Outcome
from pybak.mirror.helping import mirror_hand
from tasks._settings import PLAIN


@task(task_run_name="mirror-{name}", **PLAIN)
def mirror_files(staging: Path, name: str, hand: Path) -> Outcome:
    """Copy the files of one hand, each whole before it has its name.

    Where the run has helper processes, one of them does it.
    """
    return mirror_hand(staging, name, hand)
