"""Put the finished archive where it belongs."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from pybak.backup.assemble import Assembly
from pybak.storage.local import Destination, publish
from pybak.volumes.model import Volume
from tasks._settings import PLAIN


@task(task_run_name="upload", **PLAIN)
def upload(assembly: Assembly, destination: Destination) -> tuple[Path, Volume]:
    """Give the archive its name in a local folder; it appears there complete or not at all."""
    return publish(assembly, destination)
