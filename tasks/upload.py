"""Put the finished archive where it belongs."""

from __future__ import annotations

from prefect import task

from pybak.backup.assemble import Assembly
from pybak.backup.run import BackupRun
from pybak.storage.local import Published
from tasks._settings import PLAIN


@task(task_run_name="upload", **PLAIN)
def upload(run: BackupRun, assembly: Assembly, volumes: int) -> Published:
    """Give an archive's files their names in a local folder; they appear complete or not at all."""
    return run.publish(assembly, volumes)
