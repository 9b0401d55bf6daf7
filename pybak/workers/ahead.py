"""A call that a helper process makes while the run does something else.

A command imports Prefect for seconds, on one core; what a run needs first is done meanwhile on
another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from pybak.workers.messages import HelperError
from pybak.workers.pool import HelperPool, HelpersUnavailableError

_TELL_EVERY: Final = 0.1


class CallAhead:
    """A call by one helper process, from now on until `finish` or `close`."""

    def __init__(
        self, function: str, argument: bytes, *, then: Callable[[bytes], object] = lambda _: None
    ) -> None:
        """Begin it; `function` is as in `pybak.workers.messages.Call`.

        `then` is called with the answer, in another thread. Raises HelpersUnavailableError if no
        helper can be started.
        """
        self._order = function, argument
        self._then = then
        self._pool = HelperPool(1, module=function.partition(":")[0])
        self._answer: bytes | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="call-ahead", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._answer = self._pool.call(*self._order)
            self._then(self._answer)
        except BaseException as error:  # `finish` raises it
            self._error = error

    def finish(self, on_wait: Callable[[], object]) -> bytes | None:
        """Wait for it; give the answer, or None where no helper could give one.

        `on_wait` is called meanwhile; what it raises ends the waiting. Raises what the function
        did.
        """
        while self._thread.is_alive():
            on_wait()
            self._thread.join(_TELL_EVERY)
        self._pool.close()
        if isinstance(self._error, HelpersUnavailableError | HelperError):
            return None
        if self._error is not None:
            raise self._error
        return self._answer

    def close(self) -> None:
        """End it, wherever it is; fine the second time."""
        self._pool.close()
        self._thread.join()
