"""Tell people how a run ended."""

from __future__ import annotations

from collections.abc import Callable

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from pybak.notify.ending import Ending
from pybak.notify.wanted import Notices
from pybak.report import Report
from pybak.stages import stage
from tasks._settings import PLAIN
from tasks._telling import tell


@task(task_run_name="email-report", **PLAIN)
@stage("email-report")
def email_report(
    key: str | None,
    report: Report,
    notices: Notices | None = None,
    ending: Ending | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[str, ...]:
    """Leave the summary as an artifact of the flow run, and send the notices.

    Without a `key` only notices are sent. Gives what went wrong with them; that changes nothing
    about the run, which is over and recorded.
    """
    logger = get_run_logger()
    if key is not None:
        try:
            create_markdown_artifact(report.to_markdown(), key=key, description="What the run did.")
        except Exception as error:
            logger.warning("the report could not be left as an artifact: %s", error)
    if not notices or ending is None:
        return ()
    problems = tell(notices, ending, stopped)
    for problem in problems:
        logger.warning("%s", problem)
    return problems
