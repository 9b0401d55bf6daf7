"""What of a report belongs into the log: the archive, and each file that failed."""

from __future__ import annotations

from typing import Final

from prefect import get_run_logger

from pybak.display import escape, printable
from pybak.report import Report
from pybak.units import format_count

MOST_LINES: Final = 1000
"""Failed files that are logged one by one; the catalog and `--json` have all."""
_LOGGED_BY_TASKS: Final = ("drill", "prune", "transfer")


def log_details(kind: str, report: Report) -> None:
    """Log the archive that a run of the flow `kind` made, and each problem of its report."""
    if kind in _LOGGED_BY_TASKS:
        return
    logger = get_run_logger()
    about = report.to_json()
    archive = about.get("archive")
    if isinstance(archive, str):
        logger.info("archive %s", printable(archive))
    problems = about.get("errors") or []
    for problem in problems[:MOST_LINES]:
        where = f"{printable(problem['path'])}: " if problem.get("path") else ""
        logger.warning("%s%s", where, escape(str(problem["message"])))
    if len(problems) > MOST_LINES:
        rest = format_count(len(problems) - MOST_LINES, "more problem")
        logger.warning("and %s, not logged one by one", rest)
