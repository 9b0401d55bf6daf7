"""The ending that all flows share: people are told how it went, and Prefect gets a state.

    before → the work → after → log, artifact → ping, webhook, mail

A run that is unchanged costs no task run: it leaves a line in the log and no artifact. A dry run
runs no commands and tells nobody. Nothing that goes wrong with telling changes how the run ends.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from msgspec.structs import replace
from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import TagsContext
from prefect.runtime import flow_run

from flows.support.hooked import Hooks, hooks_of
from flows.support.interrupt import stop_on_signal
from flows.support.log_file import log_file
from flows.support.log_report import log_details
from flows.support.screen import Screen
from flows.support.states import error_state, final_state
from pybak.catalog.failures import CatalogError
from pybak.catalog.stages import write_stages
from pybak.display import escape
from pybak.errors import PyBakError, StorageError
from pybak.hooks import HookError
from pybak.notify.ending import Ending, is_busy, report_of
from pybak.notify.wanted import Notices
from pybak.options.notices import NoticeOptions
from pybak.report import UNCHANGED, Report
from pybak.stages import EMAIL_REPORT, Stages, measuring, stage
from tasks._telling import Started, check_blocks, start, tell
from tasks.email_report import email_report

TELLING: Final = "sending the report"


def concluded(
    kind: str, key: str, options: NoticeOptions, what: str, make: Callable[[], Report]
) -> State[Any]:
    """Have `make` do the work of a flow run, tell how it ended, and give the run's final state.

    `kind` is the flow's name, `key` that of its artifact; `what` names the job or the sources. A
    PyBakError out of `make` becomes the state of a run that failed; others are told and raised.
    """
    with (
        Screen.current() as screen,
        screen.shared(),
        measuring() as stages,
        TagsContext(current_tags=set()),  # those of the run; each task with one asks the server
    ):
        conclusion = _Conclusion(kind, key, options, what, screen, stages)
        with (
            stop_on_signal(conclusion.stopping.set),
            log_file(None if conclusion.is_dry else options.log_file),
        ):
            try:
                return conclusion.of(make)
            finally:
                keep(stages)


class _Conclusion:
    """One run's ending in the making."""

    def __init__(
        self, kind: str, key: str, options: NoticeOptions, what: str, screen: Screen,
        stages: Stages,
    ) -> None:  # fmt: skip
        self.kind, self.key, self.what, self.screen = kind, key, what, screen
        self.stages = stages
        self.is_dry = bool(getattr(options, "dry_run", False))
        self.hooks: Hooks = hooks_of(kind, what, options)
        self.notices = (
            Notices()
            if self.is_dry
            else Notices(options.mail, options.mail_when, options.webhook, options.ping)
        )
        self.started_at = datetime.now(UTC)
        self.notes: list[str] = []
        self.stopping = threading.Event()

    def of(self, make: Callable[[], Report]) -> State[Any]:
        try:
            self._check()
        except PyBakError as error:
            get_run_logger().error("%s", error)
            return error_state(error)
        started = start(self.notices.ping, f"{self.kind} of {escape(self.what)}")
        try:
            with self.hooks.alone(self.screen, self.stopping.is_set):
                report = self._made(make)
        except PyBakError as error:
            get_run_logger().error("%s", error)
            self._tell(report_of(self.kind, error), started, error=error)
            return error_state(error)
        except Exception as error:  # a fault of the program; Prefect keeps its traceback
            self._tell(report_of(self.kind, error), started, error=error)
            raise
        self._tell(report, started)
        return final_state(self._measured(report))

    def _measured(self, report: Report) -> Report:
        """Give a report with the stages so far."""
        return replace(report, stages=self.stages.all())

    def _check(self) -> None:
        """Have whoever sits there know at once of a block that does not exist.

        Nobody sits before a schedule: there a backup without a mail is better than none. Raises
        PlanError.
        """
        if not self.notices or not (self.screen.is_shown and _is_terminal()):
            return
        try:
            check_blocks(self.notices, self.stopping.is_set)
        except StorageError as error:  # Prefect's server is away; the blocks may be there
            self._warn(str(error))

    def _made(self, make: Callable[[], Report]) -> Report:
        """Do the work between the two commands; the second one runs however the work ended."""
        try:
            self.hooks.run_before(self.screen, self.stopping.is_set)
            report = make()
        except BaseException as error:
            ended = report_of(self.kind, error)
            self._after({"status": ended.status, "message": str(error)})
            raise
        self._after(
            {
                "status": report.status,
                "run_id": self._ending(report).run_id,
                "archive": self._ending(report).archive,
                "message": report.to_text().splitlines()[0],
            }
        )
        return report

    def _after(self, told: Mapping[str, str | None]) -> None:
        try:
            self.hooks.run_after(self.screen, self.stopping.is_set, told)
        except PyBakError as error:  # the work is done; this is noted
            self._warn(str(error) if isinstance(error, HookError) else f"--after: {error}")
            self.notes.append(str(error))

    def _tell(
        self, report: Report, started: Started, *, error: BaseException | None = None
    ) -> None:
        """Leave log line and artifact, and send the notices."""
        report = self._measured(report)
        if error is None and not self.is_dry:
            log_details(self.kind, report)
        is_quiet = error is not None or (report.status == UNCHANGED and not self.is_dry)
        if error is None:
            get_run_logger().info("%s", report.to_text().splitlines()[0])
        if not self.notices:
            if not is_quiet:
                email_report(self.key, report)
            return
        ending = self._ending(report, is_busy=error is not None and is_busy(error))
        self.screen.phase(TELLING)
        stopped = self.stopping.is_set
        if (problem := started.finish(stopped)) is not None:
            self._warn(problem)
        if report.status == UNCHANGED:
            with stage(EMAIL_REPORT):
                problems = tell(self.notices, ending, stopped)
            for problem in problems:
                get_run_logger().warning("%s", problem)
        else:
            problems = email_report(
                None if is_quiet else self.key, report, self.notices, ending, stopped
            )
        for problem in problems:
            self.screen.warn(problem)

    def _ending(self, report: Report, *, is_busy: bool = False) -> Ending:
        return Ending(
            kind=self.kind, what=self.what, machine=socket.gethostname(),
            started_at=self.started_at, ended_at=datetime.now(UTC), report=report,
            is_busy=is_busy, notes=tuple(self.notes), flow_run=flow_run.id,
        )  # fmt: skip

    def _warn(self, text: str) -> None:
        get_run_logger().warning("%s", text)
        self.screen.warn(text)


def keep(stages: Stages) -> None:
    """Write the stages of a run that is over beside it into the catalog; a courtesy, no more."""
    for url, run_id in stages.recorded:
        try:
            write_stages(url, run_id, stages.all())
        except CatalogError as error:
            get_run_logger().debug("%s; so the times of the stages are not kept", error)


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # none, or closed
        return False
