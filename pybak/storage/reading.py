"""An archive in a storage, read at any place by ranged reads.

What is read comes in windows of whole blocks, which are kept for a while. A read somewhere fetches
a block or two, or all that the reader said it would take. Whoever reads on gets windows as large as
what was read in a row so far, and from some megabytes on the next one is fetched while this one is
worked on. So a short run fetches no more than twice what it reads, and a long one two windows too
much. Memory is bounded: one archive keeps at most KEPT bytes, however many volumes it has, beside a
WINDOW for each thread that reads and one that is fetched ahead of it.

Every read names the version of the file that was opened, so one that is replaced meanwhile is
noticed, and never mixed with what was read before.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from operator import attrgetter
from typing import Final

from pybak.display import printable
from pybak.errors import NotFoundError, PyBakError, StorageError
from pybak.formats.source import Identity
from pybak.storage.opening import join
from pybak.storage.patience import WAITS, patiently
from pybak.storage.protocol import Storage

BLOCK: Final = 128 << 10
"""What is fetched starts at a multiple of this, and is that much at least."""
WINDOW: Final = 8 << 20
"""The most that is fetched at once."""
KEPT: Final = 24 << 20
"""The most that is kept of an archive."""
TAIL: Final = 256 << 10
"""What is fetched at once at the end, where the records of an archive lie."""
SHORT_TAIL: Final = 68 << 10
"""The same for one of many volumes: what it takes to see that one is wrapped."""

_HEAD: Final = 4 << 10  # what is fetched at the start to see what a file is
_GAP: Final = 32 << 10  # who leaves out that much still reads on
_AHEAD_FROM: Final = 4 << 20
_GIVE_UP: Final = 3  # reads in a row that failed for good before nothing more is tried

_start = attrgetter("start")


class _Window:
    """The bytes from `start` to `stop` of a file, there or on their way.

    `run` is how much was read in a row before them. Told apart by `start` in its file.
    """

    __slots__ = ("data", "is_followed", "run", "source", "start", "stop")

    def __init__(self, source: StorageSource, start: int, stop: int, run: int) -> None:
        self.source = source
        self.start = start
        self.stop = stop
        self.run = run
        self.is_followed = False
        self.data: Future[bytes] = Future()

    @property
    def size(self) -> int:
        return self.stop - self.start


class RangeCache:
    """The windows of the files of one archive: those used last, `most` bytes at most.

    `requests` and `bytes_read` count what was fetched through it.
    """

    def __init__(self, most: int = KEPT) -> None:
        self.requests = self.bytes_read = 0
        self.lock = threading.RLock()
        self._most = most
        self._windows: OrderedDict[_Window, None] = OrderedDict()
        self._size = 0

    def add(self, window: _Window) -> None:
        """Take a window, and drop what was used longest ago if there is too much."""
        self._windows[window] = None
        self._size += window.size
        for old in list(self._windows):
            if self._size <= self._most:
                return
            if old is not window and old.data.done():
                self.drop(old)

    def touch(self, window: _Window) -> None:
        """Note that a window is used."""
        if window in self._windows:
            self._windows.move_to_end(window)

    def drop(self, window: _Window) -> None:
        """Let go of a window, if it is still there."""
        if window in self._windows:
            del self._windows[window]
            self._size -= window.size
            window.source.without(window)

    def count(self, length: int) -> None:
        """Note that so much was fetched."""
        with self.lock:
            self.requests += 1
            self.bytes_read += length


class StorageSource:
    """One file in a storage, as a Source. Threads may share one.

    `known` is its `identity` as it was opened before; without it the storage is asked. `cache` is
    shared by the volumes of an archive, `tail` what is fetched of its end at least. Raises
    NotFoundError for a missing file, StorageError if the storage can't be asked.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        *,
        label: str | None = None,
        known: Identity | None = None,
        cache: RangeCache | None = None,
        tail: int = TAIL,
        waits: Sequence[float] = WAITS,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.label = label or printable(join(storage.address, name))
        self._storage = storage
        self._name = name
        self._tail = tail
        self._waits, self._sleep = waits, sleep
        if known is None:
            known = self._ask()
        self.size = known.size
        self.identity = (known,)
        self.cache = cache or RangeCache()
        self._version = known.version or None
        self._windows: list[_Window] = []
        self._expected = range(0)
        self._failure: StorageError | None = None
        self._failed = 0

    def _ask(self) -> Identity:
        found = self._storage.stat(self._name)  # at once: the address may be wrong
        if found is None:
            raise NotFoundError(f"{self.label}: no such archive; check the address")
        return Identity(found.size, found.modified_ns, 0, found.version)

    def pread(self, length: int, offset: int) -> bytes:
        """Read at most `length` bytes at `offset`: fewer, or none, only at the end.

        Raises StorageError if they can't be had after some tries, and if the file was replaced or
        removed since it was opened; then every further read does at once.
        """
        at, stop = offset, min(offset + length, self.size)
        pieces = []
        while at < stop:
            window, is_own = self._window(at, stop)
            if is_own:
                data = self._fill(window)
            else:
                try:
                    data = window.data.result()
                except PyBakError:
                    continue  # whoever fetched it had no luck; it is gone by now, so try here
            piece = data[at - window.start : stop - window.start]
            at += len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _window(self, at: int, stop: int) -> tuple[_Window, bool]:
        """Give the window that holds the byte `at`, and whether the caller must fetch it."""
        with self.cache.lock:
            number = bisect_right(self._windows, at, key=_start) - 1
            before = self._windows[number] if number >= 0 else None
            if before is not None and at < before.stop:
                self.cache.touch(before)
                self._follow(before)
                return before, False
            if self._failure is not None and self._failed >= _GIVE_UP:
                raise StorageError(str(self._failure), retryable=self._failure.retryable)
            start, end, run = self._range(at, stop, before)
            window = self._add(start, end, run)
            self._follow(window)
            return window, True

    def _range(self, at: int, stop: int, before: _Window | None) -> tuple[int, int, int]:
        """Give start and end of what to fetch for a read, and how much was read in a row before it.

        `before` is the nearest window before that.
        """
        if not at and stop <= _HEAD:
            return 0, _HEAD, 0
        start, run = at - at % BLOCK, 0
        if before is not None:
            if at - before.stop <= _GAP:
                run = self._run_after(before)
            start = max(start, before.stop)
        if at in self._expected:
            stop = max(stop, self._expected.stop)
        if stop > self.size - BLOCK and not run:
            start = max(min(at, self.size - self._tail), before.stop if before else 0)
            stop = self.size
        end = start + min(max(stop - start, min(run, WINDOW)), WINDOW)
        return start, end + -end % BLOCK, run

    @staticmethod
    def _run_after(window: _Window) -> int:
        # Of what was said beforehand to be read, the end may have been a guess.
        return min(window.run + window.size, 2 * max(window.run, 2 * BLOCK))

    def _add(self, start: int, stop: int, run: int) -> _Window:
        """Make a window that ends there, or where another one starts, or the file ends."""
        stop = min(stop, self.size)
        number = bisect_right(self._windows, start, key=_start)
        if number < len(self._windows):
            stop = min(stop, self._windows[number].start)
        window = _Window(self, start, stop, run)
        insort(self._windows, window, key=_start)
        self.cache.add(window)
        return window

    def without(self, window: _Window) -> None:
        """Take a window out that is no longer kept."""
        number = bisect_right(self._windows, window.start, key=_start) - 1
        if number >= 0 and self._windows[number] is window:
            del self._windows[number]

    def _follow(self, window: _Window) -> None:
        """Have the next window fetched if it is likely to be read."""
        if window.is_followed or window.run < _AHEAD_FROM or window.stop >= self.size:
            return
        window.is_followed = True
        number = bisect_right(self._windows, window.stop, key=_start) - 1
        if self._windows[number].stop > window.stop or self._failure is not None:
            return
        run = self._run_after(window)
        ahead = self._add(window.stop, window.stop + min(run, WINDOW), run)
        threading.Thread(
            target=self._fetch_ahead, args=(ahead,), name="pybak-read-ahead", daemon=True
        ).start()

    def _fetch_ahead(self, window: _Window) -> None:
        try:
            data = self._read(window)
        except PyBakError as error:
            self._fail(window, error)
        except BaseException as error:  # no reader may wait for ever
            self._fail(window, StorageError(f"{self.label}: can't be read ({error})"))
        else:
            window.data.set_result(data)

    def _fill(self, window: _Window) -> bytes:
        """Fetch a window, trying again where that may help."""
        try:
            data = patiently(lambda: self._read(window), waits=self._waits, sleep=self._sleep)
        except BaseException as error:
            self._fail(window, error)
            if isinstance(error, StorageError):
                self._failure = error
                self._failed = self._failed + 1 if error.retryable else _GIVE_UP
            raise
        self._failure, self._failed = None, 0
        window.data.set_result(data)
        return data

    def _fail(self, window: _Window, error: BaseException) -> None:
        with self.cache.lock:
            self.cache.drop(window)
        trouble = error if isinstance(error, PyBakError) else StorageError(str(error))
        window.data.set_exception(trouble)

    def _read(self, window: _Window) -> bytes:
        try:
            data = self._storage.read(self._name, window.start, window.size, version=self._version)
        except NotFoundError as error:
            what = "is gone; it was there when it was opened"
            raise StorageError(f"{self.label}: {what}") from error
        self.cache.count(len(data))
        if len(data) != window.size:
            message = f"{self.label}: gave {len(data)} bytes of {window.size} at {window.start}"
            raise StorageError(message, retryable=True)
        return data

    def expect(self, length: int, offset: int) -> None:
        """Fetch these bytes in as few requests as can be, once their first is read."""
        self._expected = range(max(offset, 0), min(offset + length, self.size))

    def forget(self) -> bool:
        """Drop what was fetched, so that it is fetched anew."""
        with self.cache.lock:
            for window in list(self._windows):
                self.cache.drop(window)
        return True

    def place(self, offset: int, length: int) -> str:  # noqa: ARG002 - a Source's signature
        """Give nothing: there is only one file."""
        return ""

    def close(self) -> None:
        """Let go of what was fetched. The storage stays open for others."""
        self.forget()
