"""Runs that can be asked to stop: what is asked, and how their steps in other processes see it."""

from __future__ import annotations

from pathlib import Path

from pybak import staging
from pybak.errors import Interrupted


class Cancellable:
    """A run that looks now and then whether it was asked to stop.

    Its methods may be called from any thread, and from a signal handler.
    """

    _is_stopped = False

    @property
    def stopped(self) -> str:
        """What is said when it is stopped."""
        return "stopped on request"

    def request_cancel(self) -> None:
        """Ask the run to stop soon."""
        self._is_stopped = True

    def is_stopping(self) -> bool:
        """Whether `request_cancel` was called."""
        return self._is_stopped

    def check_cancelled(self) -> None:
        """Raise Interrupted once `request_cancel` was called."""
        if self._is_stopped:
            raise Interrupted(self.stopped)


class Stoppable(Cancellable):
    """A run with a work folder `staging`, by which its steps in other processes are asked too."""

    staging: Path

    def request_cancel(self) -> None:
        """Ask the steps to stop soon."""
        super().request_cancel()
        staging.request_cancel(self.staging)
