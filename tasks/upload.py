"""Put the finished archive where it belongs."""

from __future__ import annotations

from prefect import task

from pybak.backup.assemble import Assembly
from pybak.backup.run import BackupRun
from pybak.stages import stage
from pybak.storage import local, remote
from tasks._settings import PLAIN


@task(task_run_name="upload", **PLAIN)
@stage("upload")
def upload(run: BackupRun, assembly: Assembly, volumes: int) -> local.Published | remote.Published:
    """Give an archive's files their names; they appear complete or not at all."""
    return run.publish(assembly, volumes)
