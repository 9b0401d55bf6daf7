"""Settle what a killed round left, and find the files of this one."""

from __future__ import annotations

from prefect import get_run_logger, task

from pybak.catalog.engine import Database
from pybak.display import escape
from pybak.inbox.run import InboxRun
from pybak.inbox.scan import Told
from pybak.stages import stage
from tasks._settings import PLAIN


@task(task_run_name="scan-inbox", **PLAIN)
@stage("scan-inbox")
def scan_inbox(run: InboxRun, database: Database, told: Told) -> int:
    """Give how many files there are to take."""
    if left := run.start(database):
        get_run_logger().warning("settled %d files of a round that was killed", left)
    found = run.scan(told)
    for problem in run.tally.skipped:
        get_run_logger().info("%s: %s", escape(problem.path), escape(problem.message))
    return found
