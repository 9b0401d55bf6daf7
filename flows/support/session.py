"""Run one flow as a command: a Prefect server, the flow, and everything put away again."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, NoReturn

from flows.support import environment
from flows.support.interrupt import is_due, stop_at_once_on_signal
from flows.support.screen import Screen
from flows.support.server import TemporaryServer, find_server
from pybak.cli import View
from pybak.errors import Interrupted, PyBakError
from pybak.home import home
from pybak.progress_line import ProgressLine

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import State

    from pybak.report import Report

STARTING: Final = "starting Prefect"
_DRAIN_SECONDS = 5.0
_TIDY_SECONDS = 5.0


class FlowError(PyBakError):
    """Prefect ended a run in a way that no flow of ours chose."""


def run_flow(
    load: Callable[[], Flow[..., State[Any]]], parameters: Mapping[str, Any], view: View
) -> Report:
    """Run the flow that `load` imports with a server found or started; give its report.

    Prefect is imported while the server starts. Raises the error that ended the flow.
    """
    stop_at_once_on_signal()
    line = ProgressLine(enabled=not (view.quiet or view.json or view.debug))
    screen = Screen(line, quiet=view.quiet)
    screen.show()
    with heeding_signals(), screen, prefect_server(debug=view.debug) as server:
        screen.phase(STARTING)
        flow = load()
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        if server is not None:
            server.wait()
        # The thread that sends heartbeats would keep the end waiting for up to a second.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), marked(server):
            state = flow(**parameters, return_state=True)
        drain()
        report = report_of(state)
        tidy(server)
    return report


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Raise Interrupted instead of an error that nobody expects, once a signal to stop has come.

    Pydantic makes an error of its own of what is raised while it calls back into Prefect.
    """
    try:
        yield
    except Exception as error:
        if not is_due() or (isinstance(error, PyBakError) and not isinstance(error, FlowError)):
            raise
        raise Interrupted("interrupted") from error


@contextmanager
def prefect_server(*, debug: bool) -> Iterator[TemporaryServer | None]:
    """Settle which server is used; yields it if it is our own, and stops it afterwards.

    Prefect must not be imported before. Raises ServerError if the one that is named is away.
    """
    url = find_server(os.environ, version("prefect"))
    if url is not None:
        environment.prepare(os.environ, url, debug=debug)
        yield None
        return
    auth = f"pybak:{os.urandom(24).hex()}"
    with TemporaryServer(home() / "prefect-server.log", auth=auth) as server:
        environment.prepare(os.environ, server.url, debug=debug, auth=auth)
        yield server


def marked(server: TemporaryServer | None) -> AbstractContextManager[object]:
    """Mark the runs of a server of our own, so that `tidy` finds them some day."""
    if server is None:
        return contextlib.nullcontext()
    from prefect import tags

    from flows.support.forget_runs import TAG

    return tags(TAG)


def tidy(server: TemporaryServer | None) -> None:
    """Delete what is old in the database of a server of our own, now and then.

    It takes some seconds at most, and Ctrl-C ends it: the run itself is over.
    """
    if server is None or server.auth is None:
        return
    from flows.support.forget_runs import forget_old_runs

    what = (server.url, server.auth, home() / "prefect-tidied")
    thread = threading.Thread(target=forget_old_runs, args=what, daemon=True)
    with contextlib.suppress(KeyboardInterrupt, RuntimeError):  # no thread, then some other time
        thread.start()
        thread.join(_TIDY_SECONDS)


def drain() -> None:
    """Send what Prefect still holds back, before its server goes."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=_DRAIN_SECONDS)
    EventsWorker.drain_all(timeout=_DRAIN_SECONDS)


def leave(code: int) -> NoReturn:
    """End the process now; taking the interpreter apart takes up to a second and changes nothing.

    All that must not be lost is on its way already: servers are told, clusters closed, files
    synced. Only what is buffered for the terminal is left.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def report_of(state: State[Any]) -> Report:
    """Give the report that a flow's final state carries. Raises the error that ended the flow."""
    from flows.support.states import take_outcome

    # `state.result()` starts an event loop and looks for stored results, a second for nothing:
    # the flow has run in this process, so the record holds the value itself.
    result: Any = getattr(state.data, "result", state.data)
    kept = take_outcome()
    if result is None and kept is not None:
        result = kept
    if isinstance(result, PyBakError):
        raise result
    if result is None or isinstance(result, BaseException):
        raise FlowError(f"the flow run ended as {state.name}: {state.message}") from result
    report: Report = result
    return report
