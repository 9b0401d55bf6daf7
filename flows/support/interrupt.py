"""Ctrl-C, SIGTERM and SIGHUP end a run cleanly: they leave a mark that batches look for.

Prefect's own handling ends the run as crashed, after running tasks are done or killed. A signal
that whoever started this has it ignore, as nohup does, stays ignored.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_open: list[Callable[[], None]] = []
_asked = False
_is_due = False
_again: threading.Timer | None = None
_LOSING: Final = frozenset({"cb", "__del__"})
"""Callbacks, as of importlib's locks, and finalizers: what is raised in them goes nowhere."""
_AGAIN_SECONDS: Final = 0.05


def stop_at_once_on_signal() -> None:
    """Have all signals to stop do what Ctrl-C does as long as there is no run to end cleanly.

    One that nobody has heard of by then stops the first run that can be.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        global _is_due, _again
        _is_due = True
        if frame is not None and frame.f_code.co_name in _LOSING:
            _again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
            _again.daemon = True
            _again.start()
        else:
            raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in _heeded():
            signal.signal(number, handle)


def is_due() -> bool:
    """Whether a signal to stop came while there was no run to end cleanly."""
    return _is_due


@contextmanager
def stop_on_signal(on_stop: Callable[[], None]) -> Iterator[None]:
    """Call `on_stop` at the first signal to stop; a second SIGINT interrupts for good.

    Of blocks inside each other all are told, and one that begins after the signal at once. Outside
    of the main thread, where Python takes no signal handlers, it does nothing.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    if not _open:
        _asked = _is_due
        if _again is not None:  # it would count as a second one
            _again.cancel()
        before = {number: signal.signal(number, _handle) for number in _heeded()}
    _open.append(on_stop)
    try:
        if _asked:
            on_stop()
        yield
    finally:
        _open.pop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded() -> list[signal.Signals]:
    return [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def _handle(number: int, _frame: FrameType | None) -> None:
    global _asked
    if _asked and number == signal.SIGINT:
        raise KeyboardInterrupt
    _asked = True
    for on_stop in tuple(_open):
        on_stop()
