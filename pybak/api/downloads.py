"""A file's content on its way to a browser: pieces through a small queue, names that are safe."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import unicodedata
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import CancelledError
from io import RawIOBase
from typing import Any, BinaryIO, Final, cast
from urllib.parse import quote

_PIECES: Final = 8
_PIECE_BYTES: Final = 256 << 10
_MOST_NAME_BYTES: Final = 200
_RESERVED: Final = '"\\/<>:|?*%'


async def pieces(send: Callable[[BinaryIO], None]) -> AsyncGenerator[bytes, None]:
    """Yield what `send` writes; it runs in a thread and waits while a few pieces are left.

    What it raises is raised here, in its place. When nobody wants the rest, its next write fails
    with BrokenPipeError.
    """
    queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(_PIECES)
    pipe = _Pipe(asyncio.get_running_loop(), queue)

    def work() -> None:
        end: BaseException | None = None
        try:
            send(cast(BinaryIO, pipe))
        except BaseException as error:
            end = error
        pipe.end(end)

    threading.Thread(target=work, name="pybak-download", daemon=True).start()
    try:
        while (piece := await queue.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        pipe.is_unwanted = True
        while not queue.empty():  # the thread may wait for room
            queue.get_nowait()


class _Pipe(RawIOBase):
    """What the thread writes to."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        queue: asyncio.Queue[bytes | BaseException | None],
    ) -> None:
        self._loop = loop
        self._queue = queue
        self.is_unwanted = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for at in range(0, len(view), _PIECE_BYTES):
            self._put(bytes(view[at : at + _PIECE_BYTES]))
        return len(view)

    def end(self, error: BaseException | None) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._put(error)

    def _put(self, piece: bytes | BaseException | None) -> None:
        if self.is_unwanted or self._loop.is_closed():
            raise BrokenPipeError
        try:
            asyncio.run_coroutine_threadsafe(self._queue.put(piece), self._loop).result()
        except (RuntimeError, CancelledError) as error:
            raise BrokenPipeError from error


def disposition(path: str) -> str:
    """Give the Content-Disposition of a member's file (RFC 6266, RFC 8187).

    Of the name only the last part counts; what could lead out of a folder, break the header or
    deceive the eye is replaced.
    """
    name = "".join(map(_harmless, path.rpartition("/")[2])).strip(" .") or "file"
    while len(name.encode()) > _MOST_NAME_BYTES:
        name = name[1:]  # the end tells the type
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _harmless(char: str) -> str:
    if char in _RESERVED or unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        return "_"
    return char
