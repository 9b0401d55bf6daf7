"""The bytes of one file on their way from a storage to another: read ahead, hashed, sent in parts.

No more than a few windows and parts are here at any time. What goes is counted twice: the SHA-256
of all of it, and of the runs that the catalog has digests of.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from pybak.backup.part_sizes import PART_BYTES, PartSizes
from pybak.errors import Interrupted, StorageError
from pybak.staging import reason
from pybak.storage.bandwidth import Bandwidth, PacedBody
from pybak.storage.body import ExtentsBody
from pybak.storage.opening import join
from pybak.storage.patience import patiently
from pybak.storage.protocol import SentPart, Storage, Stored, Upload

WINDOW: Final = 8 << 20
"""The most that is read at once."""
MEMORY: Final = 256 << 20
"""Parts that would take more than this together wait on disk to be sent."""
_MOST_READERS: Final = 8


class FileAt(NamedTuple):
    """A file in a storage, as it was when it was looked at."""

    storage: Storage
    known: Stored

    @property
    def name(self) -> str:
        """What it is called there."""
        return self.known.name

    @property
    def path(self) -> str:
        """Its address, or its path."""
        return join(self.storage.address, self.known.name)


class Tally:
    """The digests of bytes as they pass: of all, and of runs of the given sizes."""

    def __init__(self, sizes: Sequence[int] = ()) -> None:
        self._whole = hashlib.sha256()
        self._sizes = deque(sizes)
        self._part = hashlib.sha256()
        self._left = self._sizes.popleft() if self._sizes else 0
        self._has_parts = bool(sizes)
        self.parts: list[str] = []

    def update(self, data: bytes) -> None:
        """Take the bytes that come next."""
        self._whole.update(data)
        view = memoryview(data)
        while self._has_parts and view:
            taken = view[: self._left] if self._left else view
            self._part.update(taken)
            view = view[len(taken) :]
            if self._left:
                self._left -= len(taken)
                if not self._left:
                    self._end_part()

    def _end_part(self) -> None:
        self.parts.append(self._part.hexdigest())
        self._part = hashlib.sha256()
        self._left = self._sizes.popleft() if self._sizes else 0
        self._has_parts = bool(self._left)

    @property
    def sha256(self) -> str:
        """The digest of all, in hex."""
        return self._whole.hexdigest()


@dataclass(frozen=True)
class _Extent:
    """A run of bytes in memory or in a file; see `pybak.storage.body`."""

    size: int
    path: bytes = b""
    offset: int = 0
    data: bytes = b""


class Stream:
    """Reads and sends with some threads until it is closed; a context manager.

    `folder` takes parts that are too large for memory. `stop_if_asked` raises once the run is to
    stop.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int = 4,
        bandwidth: Bandwidth | None = None,
        stop_if_asked: Callable[[], object] = lambda: None,
        memory: int = MEMORY,
        window: int = WINDOW,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._folder = folder
        self._threads = threads
        self._bandwidth = bandwidth
        self._ask = stop_if_asked
        self._memory, self._window, self._part_bytes = memory, window, part_bytes
        readers = min(threads, _MOST_READERS)
        self._ahead = readers
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="read")
        self._senders = ThreadPoolExecutor(threads, thread_name_prefix="send")
        self._broken = threading.Event()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._broken.set()
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._senders.shutdown(wait=True, cancel_futures=True)

    def _stop_if_asked(self) -> None:
        self._ask()
        if self._broken.is_set():
            raise Interrupted("stopped on request")

    def read(self, file: FileAt) -> Iterator[bytes]:
        """Yield the bytes of a file in order; those that come next are fetched meanwhile.

        Raises StorageError if it was replaced or cut short since it was looked at.
        """
        size, step = file.known.size, self._window
        yield from self._fetch(file, ((at, min(step, size - at)) for at in range(0, size, step)))

    def _fetch(self, file: FileAt, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        pending: deque[Future[bytes]] = deque()
        try:
            for offset, length in ranges:
                pending.append(self._readers.submit(self._range, file, offset, length))
                if len(pending) > self._ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _range(self, file: FileAt, offset: int, length: int) -> bytes:
        version = file.known.version or None

        def ask() -> bytes:
            self._stop_if_asked()
            data = file.storage.read(file.name, offset, length, version=version)
            if len(data) != length:
                got = f"gave {len(data)} bytes of {length} at {offset}"
                raise StorageError(f"{file.path}: {got}; try again", retryable=True)
            return data

        return patiently(ask)

    def sizes(self, target: Storage, size: int) -> list[int]:
        """Give the sizes of the parts in which a file of `size` bytes is sent."""
        sizes = PartSizes(target.limits, size, part_bytes=self._part_bytes)
        found: list[int] = []
        while size:
            found.append(min(sizes.size(len(found) + 1), size))
            size -= found[-1]
        return found

    def whole(self, source: FileAt, seen: Callable[[bytes], object]) -> PacedBody:
        """Give a file that is one part, to be written at once; `seen` is told what was read."""
        body = _PartBody(None)
        for block in self.read(source):
            seen(block)
            body.add(block)
        return self._paced(body.settled())

    def send(
        self, source: FileAt, target: Storage, upload: Upload, sizes: Sequence[int],
        seen: Callable[[bytes], object],
    ) -> list[SentPart]:  # fmt: skip
        """Send a file in parts of these sizes; `seen` is told all of its bytes in order.

        Raises StorageError, and Interrupted when the run is to stop; nothing is being sent then.
        """
        sent: list[SentPart] = []
        pending: deque[Future[SentPart]] = deque()
        failed = threading.Event()
        errors: list[BaseException] = []  # what failed first; others stop because of it

        def send(number: int, body: _PartBody) -> SentPart:
            try:
                return target.send(upload, number, self._paced(body, failed))
            except BaseException as error:
                errors.append(error)
                failed.set()
                raise
            finally:
                body.drop()

        try:
            for number, body in enumerate(self._bodies(source, sizes, seen), 1):
                while len(pending) >= self._threads:
                    sent.append(pending.popleft().result())
                pending.append(self._senders.submit(send, number, body))
            while pending:
                sent.append(pending.popleft().result())
        except BaseException:
            failed.set()
            _wait_for(pending)
            if errors:
                raise errors[0] from None
            raise
        return sent

    def _paced(self, body: _PartBody, failed: threading.Event | None = None) -> PacedBody:
        def stop_if_asked() -> None:
            self._stop_if_asked()
            if failed is not None and failed.is_set():
                raise Interrupted("stopped on request")

        return PacedBody(body, stop_if_asked, self._bandwidth)

    def _bodies(
        self, source: FileAt, sizes: Sequence[int], seen: Callable[[bytes], object]
    ) -> Iterator[_PartBody]:
        """Yield the parts of a file, each read whole."""
        blocks = self._fetch(source, _ranges(sizes, self._window))
        spills = max(sizes) * (self._threads + 1) > self._memory
        for size in sizes:
            body = _PartBody(self._folder if spills else None)
            while body.filled < size:
                block = next(blocks)
                seen(block)
                body.add(block)
            yield body.settled()


def _ranges(sizes: Sequence[int], step: int) -> Iterator[tuple[int, int]]:
    """Yield what is read for parts of these sizes: none goes over the end of its part."""
    start = 0
    for size in sizes:
        for at in range(0, size, step):
            yield start + at, min(step, size - at)
        start += size


class _PartBody(ExtentsBody):
    """A part while it is filled, in memory or in a file of its own."""

    def __init__(self, folder: Path | None) -> None:
        self._blocks: list[bytes] = []
        self.filled = 0
        self.path: Path | None = None
        if folder is not None:
            self.path = folder / f"part.{os.urandom(8).hex()}"

    def add(self, block: bytes) -> None:
        """Take the bytes that come next. Raises StorageError."""
        self.filled += len(block)
        if self.path is None:
            self._blocks.append(block)
            return
        try:
            with self.path.open("ab") as out:
                out.write(block)
        except OSError as error:
            raise StorageError(
                f"{self.path.parent}: {reason(error)}; free some space for temporary files"
            ) from error

    def settled(self) -> _PartBody:
        """Give itself, to be read."""
        if self.path is not None:
            super().__init__([_Extent(self.filled, os.fsencode(self.path))])
        else:
            super().__init__([_Extent(len(block), data=block) for block in self._blocks])
        return self

    def drop(self) -> None:
        """Delete its file, if it has one."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _wait_for(futures: Iterable[Future[SentPart]]) -> None:
    """Wait until nothing is under way any more, whatever comes of it."""
    for future in futures:
        if not future.cancel():
            future.exception()
