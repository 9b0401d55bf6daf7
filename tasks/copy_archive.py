"""Copy the finished archive to a further place."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.backup.run import BackupRun
from pybak.display import escape, printable
from pybak.progress import WorkerProgress
from pybak.report import BackupReport
from pybak.report.copies import CopyOutcome
from pybak.stages import stage
from tasks._settings import PLAIN


@task(task_run_name="copy-{number}", **PLAIN)
@stage("copy")
def copy_archive(run: BackupRun, report: BackupReport, number: int) -> CopyOutcome:
    """Copy what was published to the place of this number; tell what became of it."""
    with WorkerProgress(run.copying / "progress" / f"{number:03d}") as progress:
        copy = run.copy(report, number, progress.advance)
    if copy.is_made:
        get_run_logger().info("copied to %s", printable(copy.archive))
    else:
        get_run_logger().warning("%s", escape(copy.message or ""))
    return copy
