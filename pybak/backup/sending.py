"""An archive that goes to a storage while it is laid end to end: an `Output` that sends.

Bytes are cut into volumes, wrapped if need be, and sent in parts by a few threads; what is sent is
deleted here at once. The archive appears only when all of it is complete: see
`pybak.storage.remote`.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pybak.backup.output import Extent, Place
from pybak.backup.part_sizes import WHOLE_BYTES, PartSizes
from pybak.backup.send_parts import PartedFile
from pybak.backup.send_pieces import Piece, Room, read_piece
from pybak.backup.send_wrapped import FLUSH_BYTES, WrappedFile
from pybak.backup.sender import Sender
from pybak.formats.deflate import crc32
from pybak.formats.manifest import VOLUME_START
from pybak.storage.protocol import SentPart, Upload
from pybak.volumes.write import suffix_of

_MOST_NOTED: Final = 64 << 10
_SPOOL_BYTES: Final = 8 << 20


class Shape(NamedTuple):
    """How an archive becomes files: its name, and the most bytes of it that go into a volume.

    With a `password` each volume is wrapped; `mtime_ns` is what the wrapper says. `expected` is
    how many bytes the archive will have at most, as far as that can be told.
    """

    name: str
    payload_bytes: int | None
    expected: int
    mtime_ns: int = 0
    password: bytes | None = None


class SentVolume(NamedTuple):
    """One file of the archive: what its name ends with, and the file."""

    suffix: str
    file: PartedFile


class _Volume:
    """A volume while it is laid; `start` is where it begins in the archive."""

    def __init__(self, suffix: str, start: int, file: PartedFile, door: WrappedFile | PartedFile):
        self.suffix = suffix
        self.start = start
        self.size = 0
        self.file = file
        self.door = door
        self.head: list[Piece] = []  # its first bytes


class SendingOutput:
    """Lays an archive down in volumes that are being sent.

    `folder` takes what is made on the way. `held_bytes` bounds what waits behind a mark where
    bytes can't be taken back once they are sent on: beyond it `can_go_back` says no.
    """

    def __init__(
        self,
        shape: Shape,
        sender: Sender,
        folder: Path,
        *,
        stop_if_asked: Callable[[], None] = lambda: None,
        on_begin: Callable[[Upload], None] = lambda _upload: None,
        held_bytes: int = 256 << 20,
        threads: int = 1,
        small_whole: bool = True,
    ) -> None:
        self.size = 0
        self._shape = shape
        self._sender = sender
        self._files = sender.files
        self._folder = folder
        self._stop_if_asked = stop_if_asked
        self._on_begin = on_begin
        self._held_bytes = held_bytes
        self._threads = threads
        self._small_whole = small_whole
        self._volumes: list[_Volume] = []
        self._unsent: list[_Volume] = []  # of these, the last, and those with parts that wait
        self._dropped: list[PartedFile] = []
        self._rooms: list[Room] = []
        self._mark: int | None = None
        self._held: deque[Piece] = deque()
        self._held_size = 0
        self._is_finished = self._is_released = False

    # -- what an Output does

    def append(self, data: bytes) -> None:
        """Lay bytes behind what is there; few stay in memory, many go to a file."""
        if len(data) > _MOST_NOTED:
            self.append_stream(
                data[at : at + _MOST_NOTED] for at in range(0, len(data), _MOST_NOTED)
            )
        elif data:
            self._lay(Piece(len(data), data=data))

    def append_file(self, path: Path, size: int, sha256: str) -> None:  # noqa: ARG002 - as the protocol has it
        """Lay a whole file behind what is there, and delete it when it is sent."""
        self._stop_if_asked()
        found = path.stat().st_size
        if found != size:
            raise OSError(f"a segment of {size} bytes holds {found}")
        if size:
            self._lay(self._files.add(os.fsencode(path), size))
        else:
            path.unlink()

    def append_stream(self, chunks: Iterable[bytes]) -> int:
        """Write bytes as they come to files of a few MiB, and lay these down."""
        source = iter(chunks)
        total = 0
        while size := self._spool(source):
            total += size
        return total

    def _spool(self, chunks: Iterable[bytes]) -> int:
        path = self._folder / f"stream.{os.urandom(8).hex()}"
        size = 0
        try:
            with path.open("xb") as out:
                for chunk in chunks:
                    self._stop_if_asked()
                    out.write(chunk)
                    size += len(chunk)
                    if size >= _SPOOL_BYTES:
                        break
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if size:
            self._lay(self._files.add(os.fsencode(path), size))
        else:
            path.unlink()
        return size

    def begin(self, first: int, part_bytes: int) -> Upload:
        """Begin the only file's upload now; others will send parts of it from number `first` on."""
        assert self._shape.payload_bytes is None
        assert not self._is_wrapped
        sizes = PartSizes(self._sender.storage.limits, 0, part_bytes=part_bytes)
        self._begin_volume(sizes)
        file = self._volumes[0].file
        file.keep_numbers(first)
        return file.begin()

    def append_sent(
        self, numbers: range, held: Sequence[Extent], parts: Sequence[SentPart],
        tail: Sequence[Extent], *, is_last: bool,
    ) -> None:  # fmt: skip
        """Lay down what others sent, between staged files; `numbers` were kept for it.

        `is_last` tells that no more of it will come.
        """
        volume = self._volumes[0]
        before = volume.file.size
        volume.file.keep_numbers(None if is_last else numbers[-1] + 1)
        volume.file.add_sent(
            numbers,
            [self._files.add(one.path, one.size) for one in held],
            parts,
            [self._files.add(one.path, one.size) for one in tail],
        )
        volume.size += volume.file.size - before
        self.size += volume.file.size - before

    def reserve(self, size: int) -> int:
        """Leave room for bytes that come later."""
        room = Room(size)
        self._rooms.append(room)
        self._lay(Piece(size, room=room))
        return len(self._rooms) - 1

    def fill(self, room: int, data: bytes) -> None:
        """Put bytes into the room; what waits for them goes."""
        assert self._rooms[room].size == len(data)
        self._rooms[room].data = data
        self._drain()
        self._look_again()

    def _look_again(self) -> None:
        """Send what waited in any volume."""
        for volume in self._unsent:
            volume.file.filled()
        self._unsent = [volume for volume in self._unsent if volume.file.is_waiting]
        if self._volumes and self._volumes[-1] not in self._unsent:
            self._unsent.append(self._volumes[-1])

    def mark(self) -> Place:
        """Remember this place."""
        self._mark = self.size
        if not self._is_wrapped and self._volumes:
            self._volumes[-1].file.mark()
        return Place(self.size, len(self._rooms))

    def can_go_back(self, place: Place) -> bool:
        """Whether nothing behind this place was encrypted yet; the rest can always be dropped."""
        return not self._is_wrapped or self.size - place.size <= self._held_size

    def go_back(self, place: Place) -> None:
        """Drop all that was laid down since."""
        assert self.can_go_back(place)
        if self._is_wrapped:
            self._cut_held(self.size - place.size)
        else:
            self._cut_volumes(place.size)
        self.size = place.size
        del self._rooms[place.count :]

    def settle(self) -> None:
        """Send what was kept for going back."""
        self._mark = None
        for volume in self._unsent:
            volume.file.settle()
        self._drain()
        self._look_again()

    def check(self) -> None:
        """Raise the first failure of a part that was sent."""
        self._sender.check()

    def volume_starts(self, size: int) -> list[int]:
        """Give the CRC-32 of the first bytes of each volume whose first bytes are all there."""
        assert size == self._shape.payload_bytes
        heads = (volume.head for volume in self._volumes)
        return [
            crc32(b"".join(piece.bytes for piece in head))
            for head in heads
            if sum(piece.size for piece in head) == VOLUME_START
        ]

    def finish(self) -> None:
        """Send what is left, and wait until all is there. Raises StorageError."""
        assert self._mark is None
        self._drain()
        assert not self._held, "all rooms are filled"
        self._finish_last()
        for volume in self._volumes:
            volume.file.wait(self._stop_if_asked)
        for file in self._dropped:
            file.wait(self._stop_if_asked)
            file.abort()
        self._dropped.clear()
        self._is_finished = True

    def close(self) -> None:
        """Stop sending, unless all is sent. Uploads stay as they are: see `abort`."""
        if not self._is_finished:
            self._sender.stop()

    # -- what comes after

    @property
    def volumes(self) -> list[SentVolume]:
        """The files, in order; sent, but not complete."""
        return [SentVolume(volume.suffix, volume.file) for volume in self._volumes]

    @property
    def staged_bytes(self) -> int:
        """What lies in the staging folder and was taken over, or soon will besides."""
        return self._files.bytes + (FLUSH_BYTES if self._is_wrapped else 0)

    @property
    def is_waiting_for_storage(self) -> bool:
        """Whether there will be more room in the staging folder without anybody's doing."""
        return self._sender.is_busy

    def release(self) -> None:
        """Know that all of it is published: `abort` does nothing any more."""
        self._sender.stop()
        self._is_released = True

    def abort(self) -> Exception | None:
        """Take everything back from the storage; give the first thing that could not be."""
        if self._is_released:
            return None
        self._sender.stop()
        problem: Exception | None = None
        for file in [*self._dropped, *(volume.file for volume in self._volumes)]:
            try:
                file.abort()
            except Exception as error:  # the others must go all the same
                problem = problem or error
        return problem

    # -- how it is done

    @property
    def _is_wrapped(self) -> bool:
        return self._shape.password is not None

    def _lay(self, piece: Piece) -> None:
        self.size += piece.size
        if not self._is_wrapped:
            self._cut(piece)
            return
        self._held.append(piece)
        self._held_size += piece.size
        if self._mark is not None and self._held_size > self._held_bytes:
            self._mark = None
        self._drain()

    def _drain(self) -> None:
        """Let those go that wait for nothing."""
        while self._held and self._mark is None and self._held[0].is_ready:
            piece = self._held.popleft()
            self._held_size -= piece.size
            self._cut(piece)

    def _cut_held(self, size: int) -> None:
        """Drop the last `size` bytes of those that wait; marks lie between pieces."""
        while size:
            piece = self._held.pop()
            self._held_size -= piece.size
            size -= piece.size
            self._files.drop(piece)
        assert size == 0

    def _cut(self, piece: Piece) -> None:
        """Put a piece into its volume, or its bytes into several."""
        payload = self._shape.payload_bytes
        while True:
            if not self._volumes or (payload is not None and self._volumes[-1].size == payload):
                self._begin_volume()
            volume = self._volumes[-1]
            room = piece.size if payload is None else payload - volume.size
            if piece.size <= room:
                self._put(volume, piece)
                return
            first, piece = self._files.cut(piece, room)
            self._put(volume, first)

    def _put(self, volume: _Volume, piece: Piece) -> None:
        if self._shape.payload_bytes is not None and volume.size < VOLUME_START:
            self._note_head(volume, piece)
        volume.size += piece.size
        volume.door.add(piece)

    @staticmethod
    def _note_head(volume: _Volume, piece: Piece) -> None:
        wanted = min(piece.size, VOLUME_START - volume.size)
        if not piece.path:
            volume.head.append(piece._replace(size=wanted))
            return
        data = b"".join(read_piece(piece._replace(size=wanted)))
        volume.head.append(Piece(wanted, data=data))

    def _begin_volume(self, sizes: PartSizes | None = None) -> None:
        self._finish_last()
        shape, payload = self._shape, self._shape.payload_bytes
        start = self._volumes[-1].start + self._volumes[-1].size if self._volumes else 0
        number = len(self._volumes)
        suffix = suffix_of(None if payload is None else number, wrapped=self._is_wrapped)
        expected = shape.expected if payload is None else min(payload, shape.expected)
        is_alone = payload is None
        whole = WHOLE_BYTES if is_alone and self._small_whole and expected <= WHOLE_BYTES else None
        sizes = sizes or PartSizes(self._sender.storage.limits, expected, part_bytes=whole)
        file = PartedFile(
            shape.name + suffix, self._sender, sizes, is_alone=is_alone, on_begin=self._on_begin
        )
        door: PartedFile | WrappedFile = file
        if shape.password is not None:
            door = WrappedFile(
                file, os.fsencode(shape.name + suffix.removesuffix(".zip")), self._files,
                password=shape.password, mtime_ns=shape.mtime_ns, folder=self._folder,
                expected=payload, threads=self._threads, stop_if_asked=self._stop_if_asked,
            )  # fmt: skip
        self._volumes.append(_Volume(suffix, start, file, door))
        self._unsent.append(self._volumes[-1])

    def _finish_last(self) -> None:
        if self._volumes:
            self._volumes[-1].door.finish()

    def _cut_volumes(self, size: int) -> None:
        """Keep the first `size` bytes of the archive."""
        keep = bisect_right([volume.start for volume in self._volumes], size)
        if keep and self._volumes[keep - 1].start == size:
            keep -= 1
        for volume in self._volumes[keep:]:
            volume.file.drop()
            self._dropped.append(volume.file)
        del self._volumes[keep:]
        left = {id(volume) for volume in self._volumes}
        self._unsent = [volume for volume in self._unsent if id(volume) in left]
        if self._volumes:
            last = self._volumes[-1]
            last.size = size - last.start
            last.file.go_back(last.size)
            _cut_head(last)
            self._look_again()


def _cut_head(volume: _Volume) -> None:
    """Forget of a volume's first bytes what it does not have any more."""
    pieces, volume.head = volume.head, []
    left = volume.size
    for piece in pieces:
        if left > 0:
            volume.head.append(piece._replace(size=min(piece.size, left)))
        left -= piece.size
