"""Tell people how a run ended."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from pybak.report import Report
from tasks._settings import PLAIN


@task(task_run_name="email-report", **PLAIN)
def email_report(key: str, report: Report) -> None:
    """Leave the summary as an artifact of the flow run and in its log."""
    get_run_logger().info("%s", report.to_text().splitlines()[0])
    try:
        create_markdown_artifact(report.to_markdown(), key=key, description="What the run did.")
    except (
        Exception
    ) as error:  # the run is over and recorded; telling must not turn it into a failure
        get_run_logger().warning("the report could not be left as an artifact: %s", error)
