"""How far a run is: small files that workers write, and one live line on a terminal.

Each batch writes one file of `RECORD_BYTES` with a single `pwrite`, at most five times a second;
a checksum in it tells a torn read. Progress is a courtesy: nothing here ever stops a run.

The line is redrawn in place (carriage return, text, erase to the end) with the terminal's own
wrapping switched off while it is written, so it stays one line at any width. It has no colours.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO
from zlib import crc32

import msgspec

from pybak.display import columns, escape, for_encoding, printable, shorten
from pybak.units import format_count, format_duration, format_size

# Files, bytes, monotonic ns, of these at work, done, name length, name.
_BODY = struct.Struct("<QQQQ?B219s")
_CHECK = struct.Struct("<I")
RECORD_BYTES: Final = _BODY.size + _CHECK.size
_NAME_BYTES = 219
WRITE_SECONDS: Final = 0.2
_READ_TRIES = 3

DRAW_SECONDS: Final = 0.1
_START = "\r\x1b[?7l"  # first column, no wrapping
_END = "\x1b[K\x1b[?7h"  # erase what the last line had more, wrap again
_CLEAR = "\r\x1b[K"
_BAR_COLUMNS = 10
_LEAST_CURRENT_COLUMNS = 10
_CURRENT_COLUMNS = 18  # what the current file should have before counts take more
_RATE_SECONDS = 10.0  # the rate is that of the last seconds
_FIRST_ESTIMATE_SECONDS = 2.0
# A small file costs about as much time as this many bytes; it keeps the percentage even when
# small and large files take turns.
_BYTES_A_FILE = 32 << 10

SCANNING: Final = "scanning"
COMPRESSING: Final = "compressing"
FINISHING: Final = "finishing"
WRITING: Final = "writing volumes"
COPYING: Final = "copying"


_Name = bytes  # of a file, as on disk; the structs have a field `bytes`


class Progress(msgspec.Struct, frozen=True):
    """The sum of what workers have done; `current` is the file touched last, if any."""

    files: int = 0
    bytes: int = 0
    current: _Name | None = None


class WorkerProgress:
    """One batch's progress file at `path`; a batch that runs again starts over in it."""

    def __init__(
        self,
        path: str | bytes | Path,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._files = 0
        self._bytes = 0
        self._current = b""
        self._begun = clock()
        self._due = self._begun + WRITE_SECONDS
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            self._fd = -1

    def advance(self, files: int = 0, bytes: int = 0, current: bytes | None = None) -> None:  # noqa: A002
        """Add files and bytes that are done; `current` is the file being worked on."""
        self._files += files
        self._bytes += bytes
        if current is not None:
            self._current = current
        if self._clock() >= self._due:
            self._write(done=False)

    def close(self) -> None:
        """Write the last state and let go of the file; does nothing the second time."""
        if self._fd >= 0:
            self._write(done=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, *, done: bool) -> None:
        now = self._clock()
        self._due = now + WRITE_SECONDS
        if self._fd < 0:
            return
        name = self._current[-_NAME_BYTES:]
        busy = int((now - self._begun) * 1e9)
        body = _BODY.pack(self._files, self._bytes, int(now * 1e9), busy, done, len(name), name)
        try:
            os.pwrite(self._fd, body + _CHECK.pack(crc32(body)), 0)
        except OSError:  # a full disk shows soon enough where it matters
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> WorkerProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def following(path: Path) -> Iterator[Callable[[int, int, bytes], None]]:
    """Give a function that takes counts from the start of a batch and keeps its progress file."""
    seen = [0, 0]
    with WorkerProgress(path) as progress:

        def tell(files: int, size_bytes: int, current: bytes) -> None:
            progress.advance(files - seen[0], size_bytes - seen[1], current)
            seen[:] = files, size_bytes

        yield tell


class _Record(msgspec.Struct, frozen=True):
    files: int
    bytes: int
    at_ns: int
    busy_ns: int
    done: bool
    current: _Name


class Sampler:
    """Sums the progress files of a folder; one that can't be read now counts as it did last."""

    def __init__(self, folder: str | bytes | Path) -> None:
        self._folder = os.fsencode(folder)
        self._records: dict[bytes, _Record] = {}

    def read(self) -> Progress:
        """Give the sum now; a missing folder is no progress. Finished batches are read once."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            names = []
        for name in names:
            known = self._records.get(name)
            if known is not None and known.done:
                continue
            record = _read_record(self._folder + b"/" + name)
            if record is not None:
                self._records[name] = record
        records = self._records.values()
        latest = max(
            (record for record in records if record.current),
            key=lambda record: (not record.done, record.at_ns),
            default=None,
        )
        return Progress(
            files=sum(record.files for record in records),
            bytes=sum(record.bytes for record in records),
            current=latest.current if latest else None,
        )

    def worked(self) -> float | None:
        """Give the seconds that all workers took together by now; None where none tells."""
        self.read()
        records = self._records.values()
        return sum(record.busy_ns for record in records) / 1e9 if records else None


def _read_record(path: bytes) -> _Record | None:
    for _ in range(_READ_TRIES):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            block = os.read(fd, RECORD_BYTES)
        except OSError:
            return None
        finally:
            os.close(fd)
        if not block:  # made, and nothing written yet
            return None
        body = block[: _BODY.size]
        if len(block) == RECORD_BYTES and _CHECK.unpack_from(block, _BODY.size)[0] == crc32(body):
            files, size, at_ns, busy_ns, done, length, name = _BODY.unpack(body)
            return _Record(files, size, at_ns, busy_ns, done, name[:length])
    return None


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
        return self._bytes + self._files * _BYTES_A_FILE

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
            work_left = self._total_bytes + self._total_files * _BYTES_A_FILE - self._work_done()
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
    total = shown.total_bytes + shown.total_files * _BYTES_A_FILE
    if not total:
        return 100
    done = shown.bytes + shown.files * _BYTES_A_FILE
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
