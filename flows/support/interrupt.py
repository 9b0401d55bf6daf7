"""Ctrl-C, SIGTERM and SIGHUP end a run cleanly: they leave a mark that batches look for.

Prefect's own handling ends the run as crashed, after running tasks are done or killed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop_at_once_on_signal() -> None:
    """Have all signals to stop do what Ctrl-C does as long as there is no run to end cleanly."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, handle)


@contextmanager
def stop_on_signal(on_stop: Callable[[], None]) -> Iterator[None]:
    """Call `on_stop` at the first signal to stop; a second SIGINT interrupts for good.

    Outside of the main thread, where Python takes no signal handlers, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        on_stop()

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
