"""Copy or move one archive."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.progress import WorkerProgress
from pybak.report.transfer import TransferredArchive
from pybak.stages import stage
from pybak.transfer.find import Source
from pybak.transfer.run import TransferRun
from tasks._settings import PLAIN


@task(task_run_name="transfer-{number}", **PLAIN)
@stage("transfer")
def transfer_archive(run: TransferRun, source: Source, number: int) -> TransferredArchive:
    """Send the files of an archive, check what arrived, and tell the catalog."""
    with WorkerProgress(run.staging / "progress" / f"{number:06d}") as progress:
        done = run.transfer(source, number, progress.advance)
    for problem in done.problems():
        get_run_logger().warning("%s", problem.message)
    if done.code is None:
        get_run_logger().info("%s %s", done.status, done.to)
    return done
