"""Where an archive's bytes go while they are laid end to end.

An archive that is one plain file is written as its segments come (`ArchiveFile`). One that will be
cut into volumes or wrapped is only noted down (`ArchiveLayout`): which run of which file comes
after which, so that its volumes are written side by side, in one pass (`pybak.volumes.write`).
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final, Protocol

import msgspec

from pybak.direct import DirectBuffer, DirectFile
from pybak.formats.deflate import crc32
from pybak.formats.manifest import VOLUME_START
from pybak.volumes.model import VolumePart

_COPY_BYTES: Final = 64 << 20
_SYNC_BYTES: Final = 256 << 20
_MOST_NOTED: Final = 64 << 10


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """A run of an archive's bytes: `size` bytes at `offset` of a file, or `data` itself."""

    size: int
    path: bytes = b""
    offset: int = 0
    data: bytes = b""


class Place(msgspec.Struct, frozen=True):
    """A place in an output that can be gone back to."""

    size: int
    count: int


class Output(Protocol):
    """Takes an archive's bytes in order; `size` is how many they are.

    Raises OSError, or StorageError where the bytes go to a storage.
    """

    size: int

    def append(self, data: bytes) -> None:
        """Lay bytes behind what is there."""

    def append_file(self, path: Path, size: int, sha256: str) -> None:
        """Lay a whole file of `size` bytes behind what is there; the file is taken over."""

    def append_stream(self, chunks: Iterable[bytes]) -> int:
        """Lay bytes that are being made behind what is there; give how many."""

    def reserve(self, size: int) -> int:
        """Leave room for bytes that come later; give what `fill` wants."""

    def fill(self, room: int, data: bytes) -> None:
        """Put bytes into the room, which they must fill."""

    def mark(self) -> Place:
        """Remember this place."""

    def can_go_back(self, place: Place) -> bool:
        """Whether what was laid down since can still be dropped."""

    def go_back(self, place: Place) -> None:
        """Drop all that was laid down since."""

    def settle(self) -> None:
        """Know that nobody will go back to what was marked."""

    def check(self) -> None:
        """Raise what has gone wrong meanwhile."""

    def volume_starts(self, size: int) -> list[int]:
        """Give the CRC-32 of the first VOLUME_START bytes of each volume of `size` bytes.

        Only of those whose first bytes are all there already.
        """

    def finish(self) -> None:
        """Bring all of it to where it belongs; nothing is added any more."""

    def close(self) -> None:
        """Let go of what is open; does nothing the second time."""


class _Lasting:
    """What outputs have in common that keep all of it at hand."""

    def can_go_back(self, place: Place) -> bool:  # noqa: ARG002 - as the protocol has it
        """Say yes."""
        return True

    def settle(self) -> None:
        """Do nothing."""

    def check(self) -> None:
        """Do nothing: what goes wrong is raised at once."""


class ArchiveFile(_Lasting):
    """One file, written at once. `parts` are digests that cover every byte of it in order."""

    def __init__(self, path: Path, stop_if_asked: Callable[[], None]) -> None:
        self.path = path
        self.size = 0
        self.parts: list[VolumePart] = []
        self._stop_if_asked = stop_if_asked
        self._synced = 0
        self._rooms: dict[int, int] = {}
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = DirectFile(self._fd, DirectBuffer())

    def append(self, data: bytes) -> None:
        """Write bytes."""
        if data:
            self._write(data)
            self.parts.append(_part(data))

    def _write(self, data: bytes) -> None:
        self._file.append(data)
        self._grown(len(data))

    def _grown(self, size: int) -> None:
        self.size += size
        if self._file.cached - self._synced >= _SYNC_BYTES:
            # Writing back on the way spares a long wait at the end.
            os.fdatasync(self._fd) if hasattr(os, "fdatasync") else os.fsync(self._fd)
            self._synced = self._file.cached

    def append_file(self, path: Path, size: int, sha256: str) -> None:
        """Copy a file, and delete it."""
        with path.open("rb") as segment:
            found = os.fstat(segment.fileno()).st_size
            if found != size:
                raise OSError(f"a segment of {size} bytes holds {found}")
            left = size
            while left:
                self._stop_if_asked()
                done = self._file.append_from(segment.fileno(), min(left, _COPY_BYTES))
                if not done:
                    raise OSError(f"a segment of {size} bytes ends {left} bytes early")
                left -= done
                self._grown(done)
        self.parts.append(VolumePart(size=size, sha256=sha256))
        path.unlink()

    def append_stream(self, chunks: Iterable[bytes]) -> int:
        """Write bytes as they come."""
        sha, size = hashlib.sha256(), 0
        for chunk in chunks:
            self._stop_if_asked()
            self._write(chunk)
            sha.update(chunk)
            size += len(chunk)
        self.parts.append(VolumePart(size=size, sha256=sha.hexdigest()))
        return size

    def reserve(self, size: int) -> int:
        """Write zeros for now."""
        room = len(self.parts)
        self._rooms[room] = self.size
        self._write(bytes(size))
        self.parts.append(VolumePart(size=size, sha256=""))
        return room

    def fill(self, room: int, data: bytes) -> None:
        """Write over the zeros."""
        assert self.parts[room].size == len(data)
        self._file.write_at(data, self._rooms.pop(room))
        self.parts[room] = _part(data)

    def mark(self) -> Place:
        """Remember this place."""
        return Place(self.size, len(self.parts))

    def go_back(self, place: Place) -> None:
        """Cut the file."""
        self._file.truncate(place.size)
        self.size = place.size
        del self.parts[place.count :]

    def volume_starts(self, size: int) -> list[int]:  # noqa: ARG002 - as the protocol has it
        """Give nothing: it is not cut."""
        return []

    def finish(self) -> None:
        """Bring it all to the disk."""
        self._file.finish()
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ArchiveLayout(_Lasting):
    """Notes where an archive's bytes are; files stay where they are, streams go to new ones."""

    def __init__(self, folder: Path, stop_if_asked: Callable[[], None]) -> None:
        self.size = 0
        self.extents: list[Extent] = []
        self._folder = folder
        self._stop_if_asked = stop_if_asked

    def append(self, data: bytes) -> None:
        """Note bytes; few stay in memory, many go to a file."""
        if len(data) > _MOST_NOTED:
            self.append_stream((data,))
        elif data:
            self._add(Extent(len(data), data=data))

    def _add(self, extent: Extent) -> None:
        self.extents.append(extent)
        self.size += extent.size

    def append_file(self, path: Path, size: int, sha256: str) -> None:  # noqa: ARG002 - as the protocol has it
        """Note a file."""
        found = path.stat().st_size
        if found != size:
            raise OSError(f"a segment of {size} bytes holds {found}")
        if size:
            self._add(Extent(size, os.fsencode(path)))

    def append_stream(self, chunks: Iterable[bytes]) -> int:
        """Write the bytes to a file of their own, and note that."""
        path = self._folder / f"stream.{os.urandom(8).hex()}"
        size = 0
        try:
            with path.open("xb") as out:
                for chunk in chunks:
                    self._stop_if_asked()
                    out.write(chunk)
                    size += len(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if size:
            self._add(Extent(size, os.fsencode(path)))
        return size

    def reserve(self, size: int) -> int:
        """Note zeros for now."""
        self._add(Extent(size))
        return len(self.extents) - 1

    def fill(self, room: int, data: bytes) -> None:
        """Note the bytes in their place."""
        assert self.extents[room].size == len(data)
        self.extents[room] = Extent(len(data), data=data)

    def mark(self) -> Place:
        """Remember this place."""
        return Place(self.size, len(self.extents))

    def go_back(self, place: Place) -> None:
        """Forget what was noted since, and delete it."""
        for extent in self.extents[place.count :]:
            if extent.path:
                Path(os.fsdecode(extent.path)).unlink(missing_ok=True)
        del self.extents[place.count :]
        self.size = place.size

    def volume_starts(self, size: int) -> list[int]:
        """Give the CRC-32 of the first bytes of each volume, if one is cut every `size` bytes.

        Only of those whose first VOLUME_START bytes are there already.
        """
        ends = list(accumulate(extent.size for extent in self.extents))
        return [
            crc32(self._read(ends, start)) for start in range(0, self.size - VOLUME_START + 1, size)
        ]

    def _read(self, ends: Sequence[int], start: int) -> bytes:
        """Read VOLUME_START bytes; `ends` tells where the extents end."""
        found = b""
        for number in range(bisect_right(ends, start), len(ends)):
            extent = self.extents[number]
            skip = start + len(found) - (ends[number] - extent.size)
            wanted = min(VOLUME_START - len(found), extent.size - skip)
            if extent.path:
                with open(extent.path, "rb") as source:
                    found += os.pread(source.fileno(), wanted, extent.offset + skip)
            else:
                found += extent.data[skip : skip + wanted]
            if len(found) == VOLUME_START:
                break
        return found

    def finish(self) -> None:
        """Do nothing: volumes are written from it later."""

    def close(self) -> None:
        """Do nothing: no file is held open."""


def _part(data: bytes) -> VolumePart:
    return VolumePart(size=len(data), sha256=hashlib.sha256(data).hexdigest())
