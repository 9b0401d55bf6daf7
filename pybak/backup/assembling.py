"""The assembler in a thread of its own, beside the workers that make the segments."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pybak import staging
from pybak.backup.assemble import Assembler, Assembly
from pybak.backup.conclude import Conclude, Conclusion
from pybak.errors import Interrupted
from pybak.formats import manifest
from pybak.stages import ASSEMBLE, current, stage


class Assembling:
    """An assembler at work in a thread of its own; a context manager that ends it.

    It is a stage of the run that begins when the first segment comes.
    """

    def __init__(self, assembler: Assembler, folder: Path) -> None:
        self._assembler = assembler
        self._folder = folder
        self._no_more = threading.Event()
        self._error: BaseException | None = None
        self._stages = current()
        self._thread = threading.Thread(target=self._run, name="assemble", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._assembler.run(self._no_more.is_set)
        except BaseException as error:  # raised again by `check`; nobody sees a thread's own end
            self._error = error
            staging.request_cancel(self._folder)  # the workers' effort would be lost
        finally:
            began, idle = self._assembler.began_at, self._assembler.idle_seconds
            if self._stages is not None and began is not None:
                now = time.monotonic()
                self._stages.add(ASSEMBLE, began, now, busy=max(now - began - idle, 0.0))

    def check(self) -> None:
        """Raise what stopped the assembler, if anything did."""
        if self._error is not None:
            raise self._error

    def finish(
        self,
        header: manifest.Header,
        owners: tuple[dict[str, str], dict[str, str]],
        conclude: Conclude = lambda _taken: Conclusion(),
    ) -> Assembly:
        """Take in what the workers have finished, and end the archive.

        `conclude` tells the manifest's last lines; without it they say nothing.
        Raises what stopped the assembler, and Interrupted after a cancel.
        """
        self._no_more.set()
        self._thread.join()
        self.check()
        if staging.is_cancelled(self._folder):
            self._assembler.check()
            raise Interrupted("stopped on request")
        users, groups = owners
        with stage(ASSEMBLE):
            return self._assembler.finish(header, users=users, groups=groups, conclude=conclude)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._no_more.set()
        self._thread.join()
        self._assembler.close()
        if isinstance(error, Interrupted):
            # Perhaps nobody asked to stop: an error of ours calls the workers off too.
            try:
                self.check()
                self._assembler.check()
            except BaseException as own:
                raise own from error
