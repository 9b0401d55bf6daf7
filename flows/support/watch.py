"""Run one flow again and again as a command, with one Prefect server for all rounds."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

from flows.support.interrupt import stop_at_once_on_signal
from flows.support.screen import Screen
from flows.support.session import (
    STARTING,
    drain,
    heeding_signals,
    marked,
    prefect_server,
    report_of,
    tidy,
)
from pybak.cli.output import View, print_error, print_text
from pybak.errors import ExitCode, Interrupted, PyBakError, WrongPasswordError
from pybak.progress_line import ProgressLine
from pybak.report import UNCHANGED, Report

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import State

_IDLE: Final = "watching"


def watch_flow(
    load: Callable[[], Flow[..., State[Any]]],
    parameters: Mapping[str, Any],
    view: View,
    *,
    every_seconds: float,
) -> NoReturn:
    """Run the flow that `load` imports every so often, from start to start.

    A line is printed for each round that did something, with `--json` its object, and one for each
    problem that is new. It ends with a signal to stop, by Interrupted or KeyboardInterrupt, and
    with WrongPasswordError.
    """
    stop_at_once_on_signal()
    problem = ""
    with heeding_signals(), prefect_server(debug=view.debug) as server:
        with _screen(view) as screen:
            screen.phase(STARTING)
            flow = load()
            from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

            if server is not None:
                server.wait()
        try:
            while True:
                begun = time.monotonic()
                try:
                    with (
                        heeding_signals(),
                        _screen(view),
                        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
                        marked(server),
                    ):
                        report = report_of(flow(**parameters, return_state=True))
                    problem = ""
                    _tell(report, view)
                    tidy(server)
                except (Interrupted, WrongPasswordError):
                    raise
                except PyBakError as error:
                    if str(error) != problem:
                        problem = str(error)
                        print_error(problem)
                stop_at_once_on_signal()  # a flow run may have put other handlers there
                with _screen(view) as screen:
                    screen.phase(_IDLE)
                    time.sleep(max(0.0, begun + every_seconds - time.monotonic()))
        finally:
            drain()


def _screen(view: View) -> Screen:
    """Give a fresh screen, which the flows that run from here on find: a run closes its own."""
    line = ProgressLine(enabled=not (view.quiet or view.json or view.debug))
    screen = Screen(line, quiet=view.quiet)
    screen.show()
    return screen


def _tell(report: Report, view: View) -> None:
    if view.json:
        if report.status != UNCHANGED:
            print_text(json.dumps(report.to_json()) + os.linesep, sys.stdout)
        return
    if report.exit_code != ExitCode.DONE:
        print_error(report.headline())
    elif report.status != UNCHANGED and not view.quiet:
        now = datetime.now().astimezone()
        print_text(f"{now:%Y-%m-%d %H:%M:%S} {report.headline()}\n", sys.stdout)
