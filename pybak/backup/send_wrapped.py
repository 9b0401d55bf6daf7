"""A volume that is wrapped into an encrypted ZIP while it is sent (`pybak.formats.wrapper`).

The cipher counts its bytes and the authentication code covers them in order, so what comes here
must stay: the same keystream is never used for other bytes. The wrapper's own header is written
last, into a room, when the volume's size is known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pybak import aes
from pybak.backup.send_parts import PartedFile
from pybak.backup.send_pieces import Piece, Room, StagedFiles, read_piece
from pybak.formats.wrapper import wrapper_end, wrapper_head
from pybak.formats.zip_records import MAX32

FLUSH_BYTES: Final = 16 << 20
"""Encrypted at once, into a file of its own."""


class WrappedFile:
    """Encrypts the volume `inner_name` into `out`; new files are made in `folder`.

    `expected` is what the volume may have at most, if that is known.
    """

    def __init__(
        self,
        out: PartedFile,
        inner_name: bytes,
        files: StagedFiles,
        *,
        password: bytes,
        mtime_ns: int,
        folder: Path,
        expected: int | None,
        threads: int = 1,
        stop_if_asked: Callable[[], None] = lambda: None,
    ) -> None:
        self._out = out
        self._name = inner_name
        self._files = files
        self._mtime_ns = mtime_ns
        self._folder = folder
        self._threads = threads
        self._stop_if_asked = stop_if_asked
        # As `largest_inner_size` reckoned, so that a full volume has no byte too many.
        self._zip64 = expected is None or expected + aes.OVERHEAD >= MAX32
        self._size = 0
        self._waiting: list[Piece] = []
        self._waiting_size = 0
        salt = aes.new_salt()
        self._keys = aes.derive(password, salt)
        self._mac = self._keys.running_mac()
        self._room = Room(len(self._head()))
        out.add(Piece(self._room.size, room=self._room))
        start = salt + self._keys.verifier
        out.add(Piece(len(start), data=start))

    def _head(self) -> bytes:
        return wrapper_head(
            self._name, self._size, mtime_ns=self._mtime_ns, force_zip64=self._zip64
        )

    def add(self, piece: Piece) -> None:
        """Encrypt a piece behind what is there. Raises OSError, and StorageError."""
        self._waiting.append(piece)
        self._waiting_size += piece.size
        if self._waiting_size >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        path = self._folder / f"stream.{os.urandom(8).hex()}"
        size = 0
        with path.open("xb") as out:
            plain = (block for piece in self._waiting for block in read_piece(piece))
            for block in self._encrypted(plain):
                out.write(block)
                size += len(block)
        for piece in self._waiting:
            self._files.drop(piece)
        self._waiting, self._waiting_size = [], 0
        self._size += size
        self._out.add(self._files.add(os.fsencode(path), size))

    def _encrypted(self, plain: Iterator[bytes]) -> Iterator[bytes]:
        for block in aes.apply_stream(plain, self._keys, offset=self._size, threads=self._threads):
            self._stop_if_asked()
            self._mac.update(block)
            yield block

    def finish(self) -> None:
        """Write what stands behind the data, and the header. Raises OSError, and StorageError."""
        self._flush()
        end = self._mac.digest() + wrapper_end(
            self._name, self._size, mtime_ns=self._mtime_ns, force_zip64=self._zip64
        )
        self._out.add(Piece(len(end), data=end))
        self._room.data = self._head()
        assert len(self._room.data) == self._room.size
        self._out.finish()
        self._out.filled()
