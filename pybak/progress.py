"""How far a run is: small files that workers write, and their sum.

Each batch writes one file of `RECORD_BYTES` with a single `pwrite`, at most five times a second;
a checksum in it tells a torn read. Progress is a courtesy: nothing here ever stops a run.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

# Files, bytes, monotonic ns, of these at work, done, name length, name.
_BODY = struct.Struct("<QQQQ?B219s")
_CHECK = struct.Struct("<I")
RECORD_BYTES: Final = _BODY.size + _CHECK.size
_NAME_BYTES = 219
WRITE_SECONDS: Final = 0.2
_READ_TRIES = 3

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
