"""Bodies that are sent no faster than wanted, and not at all once their run is stopped."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, Final, cast

from pybak.storage.protocol import Body

_READ_BYTES: Final = 256 << 10
_MOST_SAVED_SECONDS: Final = 0.25
_LONGEST_SLEEP: Final = 0.2


class Bandwidth:
    """So many bytes a second for all who share it, evenly; a short pause may be caught up."""

    def __init__(
        self,
        bytes_a_second: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_a_second
        self._clock, self._sleep = clock, sleep
        self._free_at = clock()
        self._lock = threading.Lock()

    def take(self, size: int, stop_if_asked: Callable[[], None]) -> None:
        """Wait until `size` bytes more may go. Raises what `stop_if_asked` does."""
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - _MOST_SAVED_SECONDS) + size / self._rate
            until = self._free_at
        while (left := until - self._clock()) > 0:
            stop_if_asked()
            self._sleep(min(left, _LONGEST_SLEEP))


class PacedBody:
    """A body whose readers wait for `bandwidth`, and fail as soon as `stop_if_asked` does."""

    def __init__(
        self, body: Body, stop_if_asked: Callable[[], None], bandwidth: Bandwidth | None = None
    ) -> None:
        self._body = body
        self._stop_if_asked = stop_if_asked
        self._bandwidth = bandwidth
        self.size = body.size

    @property
    def sha256(self) -> str:
        """The digest in hex; read without waiting."""
        return self._body.sha256

    def open(self) -> BinaryIO:
        """Open it for reading."""
        paced = _PacedFile(self._body.open(), self._stop_if_asked, self._bandwidth)
        return io.BufferedReader(cast(io.RawIOBase, paced), _READ_BYTES)


class _PacedFile(io.RawIOBase):
    def __init__(
        self, file: BinaryIO, stop_if_asked: Callable[[], None], bandwidth: Bandwidth | None
    ) -> None:
        self._file = file
        self._stop_if_asked = stop_if_asked
        self._bandwidth = bandwidth

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        self._stop_if_asked()
        wanted = len(buffer) if self._bandwidth is None else min(len(buffer), _READ_BYTES)
        data = self._file.read(wanted)
        if self._bandwidth is not None and data:
            self._bandwidth.take(len(data), self._stop_if_asked)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
