"""Runs that can be asked to stop: what is asked, and how their steps in other processes see it."""

from __future__ import annotations

from pathlib import Path

from pybak import staging
from pybak.errors import Interrupted


class Stoppable:
    """A run with a work folder `staging`; `stopped` is what is said when it is stopped.

    Its methods may be called from any thread, and from a signal handler.
    """

    stopped = "stopped on request"
    staging: Path
    _is_stopped = False

    def request_cancel(self) -> None:
        """Ask the steps to stop soon."""
        self._is_stopped = True
        staging.request_cancel(self.staging)

    def is_stopping(self) -> bool:
        """Whether `request_cancel` was called."""
        return self._is_stopped

    def check_cancelled(self) -> None:
        """Raise Interrupted once `request_cancel` was called."""
        if self._is_stopped:
            raise Interrupted(self.stopped)
