"""One live line on a terminal that says how far a run is, and how long it will take.

The line is redrawn in place (carriage return, text, erase to the end) with the terminal's own
wrapping switched off while it is written, so it stays one line at any width. It has no colours.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

import msgspec

from pybak.display import columns, escape, for_encoding, printable, shorten
from pybak.units import format_count, format_duration, format_size

DRAW_SECONDS: Final = 0.1
_START = "\r\x1b[?7l"  # first column, no wrapping
_END = "\x1b[K\x1b[?7h"  # erase what the last line had more, wrap again
_CLEAR = "\r\x1b[K"
_BAR_COLUMNS = 10
_LEAST_CURRENT_COLUMNS = 10
_CURRENT_COLUMNS = 18  # what the current file should have before counts take more
_RATE_SECONDS = 10.0  # the rate is that of the last seconds
_FIRST_ESTIMATE_SECONDS = 2.0
BYTES_A_FILE: Final = 32 << 10
"""A small file costs about as much time as this many bytes.

It keeps the percentage even when small and large files take turns.
"""

SCANNING: Final = "scanning"
COMPRESSING: Final = "compressing"
FINISHING: Final = "finishing"
WRITING: Final = "writing volumes"
COPYING: Final = "copying"

_Name = bytes  # of a file, as on disk; the struct has a field `bytes`


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What the line says at one moment; totals are None while they are not known.

    While volumes are written they are counted, in the fields for files.
    """

    phase: str
    files: int = 0
    bytes: int = 0
    total_files: int | None = None
    total_bytes: int | None = None
    bytes_a_second: float | None = None
    seconds_left: float | None = None
    current: _Name | str | None = None


class ProgressLine:
    """A live line on a terminal; on anything else it prints nothing at all.

    Calls are cheap and may come from any thread; the line is drawn at most ten times a second.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
        width: Callable[[], int] | None = None,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._enabled = enabled and _is_terminal(self._stream)
        self._clock = clock
        self._width = width or self._terminal_width
        self._lock = threading.Lock()
        self._drawn = False
        self._due = clock()
        self._current: bytes | str | None = None
        self._start(SCANNING, None, None)

    @property
    def is_live(self) -> bool:
        """Whether anything is drawn."""
        return self._enabled

    def phase(
        self, name: str, *, total_files: int | None = None, total_bytes: int | None = None
    ) -> None:
        """Begin another phase with its own totals; counting starts at nothing."""
        with self._lock:
            self._start(name, total_files, total_bytes)
            self._draw()

    def update(self, files: int, bytes: int = 0, current: bytes | str | None = None) -> None:  # noqa: A002
        """Say how much of the phase is done, and which file is at hand."""
        if not self._enabled:
            return
        with self._lock:
            self._files, self._bytes = files, bytes
            if current is not None:
                self._current = current
            now = self._clock()
            if now >= self._due:
                self._samples.append((now, self._work_done(), bytes))
                self._draw()

    def write(self, text: str) -> None:
        """Print a line of its own above the live one, on any stream."""
        with self._lock:
            self._put((_CLEAR if self._drawn else "") + escape(text) + "\n")
            self._drawn = False
            self._draw()

    def close(self) -> None:
        """Take the line away; what is printed next starts in a clean first column."""
        with self._lock:
            if self._drawn:
                self._put(_CLEAR)
            self._drawn = False
            self._enabled = False

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, name: str, total_files: int | None, total_bytes: int | None) -> None:
        self._phase = name
        self._total_files = total_files
        self._total_bytes = total_bytes
        self._files = 0
        self._bytes = 0
        self._current = None
        self._samples: deque[tuple[float, int, int]] = deque([(self._clock(), 0, 0)])

    def _work_done(self) -> int:
        return self._bytes + self._files * BYTES_A_FILE

    def _draw(self) -> None:
        if not self._enabled:
            return
        now = self._clock()
        self._due = now + DRAW_SECONDS
        while len(self._samples) > 2 and now - self._samples[1][0] > _RATE_SECONDS:
            self._samples.popleft()
        then, work_then, bytes_then = self._samples[0]
        passed = now - then
        rate = (self._bytes - bytes_then) / passed if passed >= 0.5 else None
        left = None
        if self._total_files is not None and self._total_bytes is not None and passed > 0:
            work_rate = (self._work_done() - work_then) / passed
            work_left = self._total_bytes + self._total_files * BYTES_A_FILE - self._work_done()
            if passed >= _FIRST_ESTIMATE_SECONDS and work_rate > 0:
                left = max(work_left, 0) / work_rate
        line = render(
            Shown(
                phase=self._phase,
                files=self._files,
                bytes=self._bytes,
                total_files=self._total_files,
                total_bytes=self._total_bytes,
                bytes_a_second=rate,
                seconds_left=left,
                current=self._current,
            ),
            self._width() - 1,  # some terminals wrap when the last column is filled
        )
        self._put(_START + line + _END)
        self._drawn = True

    def _put(self, text: str) -> None:
        try:
            self._stream.write(for_encoding(text, self._stream.encoding))
            self._stream.flush()
        except (OSError, ValueError):  # the terminal is gone
            self._enabled = False

    def _terminal_width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # closed
        return False


def render(shown: Shown, width: int) -> str:
    """Lay the line out in at most `width` columns; what matters least goes first.

    In order of worth: percent, phase, time left, rate, current file, counts, totals, bar.
    """
    percent = _percent(shown)
    head = shown.phase if percent is None else f"{percent:3d}% {shown.phase}"
    bar = head if percent is None else f"{percent:3d}% {_bar(percent)} {shown.phase}"
    rate = f"{format_size(shown.bytes_a_second)}/s" if shown.bytes_a_second else ""
    left = _left(shown.seconds_left) if shown.seconds_left is not None else ""
    totals, counts = _counts(shown, with_totals=True), _counts(shown, with_totals=False)
    with_current = [
        [bar, totals, rate, left],
        [head, totals, rate, left],
        [head, counts, rate, left],
        [head, _files(shown), rate, left],
    ]
    narrow = [[head, rate, left], [head, left], [head]]
    if percent is None:  # then counts are all there is to tell
        narrow.insert(0, [head, _files(shown)])
    else:
        narrow.append([f"{percent}%"])
    wanted = 2 + _CURRENT_COLUMNS if shown.current is not None else 0
    line = _first_that_fits(with_current, width - wanted) or _first_that_fits(narrow, width)
    if line is None:
        return shorten(head, width)
    room = width - columns(line) - 2
    if shown.current is None or room < _LEAST_CURRENT_COLUMNS:
        return line
    return f"{line}  {shorten(printable(shown.current), room)}"


def _first_that_fits(layouts: list[list[str]], width: int) -> str | None:
    lines = ("  ".join(part for part in parts if part) for parts in layouts)
    return next((line for line in lines if columns(line) <= width), None)


def _bar(percent: int) -> str:
    filled = percent * _BAR_COLUMNS // 100
    return f"[{'=' * filled}{' ' * (_BAR_COLUMNS - filled)}]"


def _percent(shown: Shown) -> int | None:
    if shown.total_files is None or shown.total_bytes is None:
        return None
    total = shown.total_bytes + shown.total_files * BYTES_A_FILE
    if not total:
        return 100
    done = shown.bytes + shown.files * BYTES_A_FILE
    return min(int(100 * done / total), 100)


def _counts(shown: Shown, *, with_totals: bool) -> str:
    if with_totals and shown.total_files is not None and shown.total_bytes is not None:
        files = f"{shown.files:,}".replace(",", "\N{NO-BREAK SPACE}")
        total = format_count(shown.total_files, _noun(shown))
        return f"{files}/{total}  {format_size(shown.bytes)}/{format_size(shown.total_bytes)}"
    return _files(shown) + (f"  {format_size(shown.bytes)}" if shown.bytes else "")


def _files(shown: Shown) -> str:
    return format_count(shown.files, _noun(shown)) if shown.files else ""


def _noun(shown: Shown) -> str:
    return "volume" if shown.phase == WRITING else "file"


def _left(seconds: float) -> str:
    if seconds < 10:
        return f"{max(round(seconds), 1)} s left"
    return f"{format_duration(seconds)} left"
