"""Write where copies of the archive lie into the catalog."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.backup import record
from pybak.catalog.failures import CatalogError
from pybak.home import catalog_url
from pybak.report import BackupReport
from pybak.stages import stage
from tasks._settings import PLAIN


@task(task_run_name="record-copies", **PLAIN)
@stage("record-copies")
def record_copies(report: BackupReport) -> None:
    """Add the copies to the run's archive; a catalog that can't be written is a warning."""
    try:
        record.record_copies(catalog_url(), report)
    except CatalogError as error:
        get_run_logger().warning("%s", error)
