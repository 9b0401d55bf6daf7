"""What a person at a terminal sees while a flow runs.

The command makes the screen that its flow finds with `Screen.current`; a flow that runs
elsewhere finds one that tells Prefect how far it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Self

from flows.support.published import PublishedProgress
from pybak.progress import Sampler
from pybak.progress_line import ProgressLine

_REFRESH_SECONDS = 0.2


class Screen:
    """The live line of one run; a context manager that takes it away at the end."""

    def __init__(
        self, line: ProgressLine | PublishedProgress | None, *, quiet: bool = False
    ) -> None:
        """Draw on `line`, or nowhere; with `quiet` only warnings are told."""
        self._line = line
        self._quiet = quiet
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._folder: Path | None = None

    @staticmethod
    def current() -> Screen:
        """Give the screen of the command that runs this flow, or one that tells Prefect."""
        return _current.get() or Screen(PublishedProgress.of_this_run())

    @property
    def is_shown(self) -> bool:
        """Whether a command shows it; not in a flow that a deployment runs."""
        return isinstance(self._line, ProgressLine)

    def show(self) -> None:
        """Be the screen of the flows that run from here on."""
        _current.set(self)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be what `current` gives inside the block."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def scanned(self, files: int, size_bytes: int) -> None:
        """Say how much the walk has found."""
        if self._line is not None:
            self._line.update(files, size_bytes)

    def working(self, phase: str, staging: Path, *, files: int, size_bytes: int) -> None:
        """Follow the workers' progress in `staging` until the next phase."""
        self._stop_following()
        self._folder = staging / "progress"
        if self._line is None:
            return
        self._line.phase(phase, total_files=files, total_bytes=size_bytes)
        self._done.clear()
        self._thread = threading.Thread(
            target=self._follow, args=(self._line, self._folder), daemon=True
        )
        self._thread.start()

    def worked(self) -> float | None:
        """Give the seconds that workers took together since `working`; None where none tells."""
        return Sampler(self._folder).worked() if self._folder is not None else None

    def phase(self, name: str) -> None:
        """Begin a phase that has no measure."""
        self._stop_following()
        self._folder = None
        if self._line is not None:
            self._line.phase(name)

    def waiting(self, text: str) -> None:
        """Say what is waited for; where no line is drawn, as in a log, once and in a line."""
        if self._line is None or self._line.is_live:
            self.phase(text)
        elif not self._quiet:
            self._line.write(f"pybak: {text}")

    def warn(self, text: str) -> None:
        """Say something that does not change how the run ends."""
        if self._line is not None:
            self._line.write(f"pybak: warning: {text}")

    def _follow(self, line: ProgressLine | PublishedProgress, folder: Path) -> None:
        sampler = Sampler(folder)
        while not self._done.wait(_REFRESH_SECONDS):
            seen = sampler.read()
            line.update(seen.files, seen.bytes, seen.current)

    def _stop_following(self) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_following()
        if self._line is not None:
            self._line.close()


_current: ContextVar[Screen | None] = ContextVar("screen", default=None)
