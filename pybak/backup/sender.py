"""Talks to a storage in a few threads, until the first failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pybak.backup.send_pieces import Piece, StagedFiles
from pybak.errors import Interrupted, StorageError
from pybak.stages import UPLOAD, Stages
from pybak.staging import reason
from pybak.storage.bandwidth import Bandwidth, PacedBody
from pybak.storage.body import ExtentsBody
from pybak.storage.protocol import Storage

_Result = TypeVar("_Result")


class Sender:
    """Runs what talks to a storage in a few threads; after the first failure nothing more goes.

    `on_failure` is called once, in the thread that failed. `stages` are told how long it takes.
    """

    def __init__(
        self,
        storage: Storage,
        files: StagedFiles,
        *,
        threads: int,
        on_failure: Callable[[], None] = lambda: None,
        bandwidth: Bandwidth | None = None,
        stages: Stages | None = None,
    ) -> None:
        self._stages = stages
        self.storage = storage
        self.files = files
        self._bandwidth = bandwidth
        self._on_failure = on_failure
        self._error: BaseException | None = None
        self._is_stopped = False
        self._waiting = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="send")

    def submit(
        self, work: Callable[[], _Result], is_needed: Callable[[], bool] = lambda: True
    ) -> Future[_Result]:
        """Have `work` done by a thread; what happens to it when it is not needed is no failure."""

        def run() -> _Result:
            self._stop_if_asked()
            start = time.monotonic()
            try:
                return work()
            except BaseException as error:
                if is_needed():
                    self._fail(error)
                raise
            finally:
                if self._stages is not None:
                    end = time.monotonic()
                    self._stages.add(UPLOAD, start, end, busy=end - start)

        with self._lock:
            self._waiting += 1
        future = self._pool.submit(run)
        future.add_done_callback(self._done)
        return future

    def _done(self, _future: object) -> None:
        with self._lock:
            self._waiting -= 1

    @property
    def is_busy(self) -> bool:
        """Whether something is being sent or about to be."""
        return self._waiting > 0

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, OSError):
            error = unreadable(error)
        with self._lock:
            is_first = self._error is None and not self._is_stopped
            if is_first:
                self._error = error
        if is_first:
            self._on_failure()

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._error is not None:
            raise self._error

    def body(
        self, pieces: Sequence[Piece], is_needed: Callable[[], bool] = lambda: True
    ) -> PacedBody:
        """Give the body that pieces make; its readers stop when it is not needed any more."""

        def stop_if_asked() -> None:
            self._stop_if_asked()
            if not is_needed():
                raise Interrupted("stopped on request")

        return PacedBody(
            ExtentsBody([piece.extent for piece in pieces]), stop_if_asked, self._bandwidth
        )

    def _stop_if_asked(self) -> None:
        if self._is_stopped or self._error is not None:
            raise Interrupted("stopped on request")

    def stop(self) -> None:
        """Send nothing more, and wait for what is under way; fine the second time."""
        self._is_stopped = True
        self._pool.shutdown(wait=True, cancel_futures=True)


def unreadable(error: OSError) -> StorageError:
    """Say that staged files can't be read."""
    return StorageError(
        f"staging: {reason(error)}; free some space or choose another --staging folder"
    )
