"""Segments and their indexes: what compress tasks leave in the staging folder.

A segment is a run of the archive's bytes to be. Its index tells all that the archive needs to know
of it, has its name from the batch, and appears at once when the segment is complete: running a
batch twice, even at the same time, is harmless, for the first index stays and whoever comes later
drops its segment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pybak import staging
from pybak.backup.batches import index_path
from pybak.backup.output import Output
from pybak.backup.read_source import State
from pybak.formats.deflate import Buffer
from pybak.formats.sparse import Run
from pybak.formats.streams import Piece
from pybak.problems import Problem, unpack_problems
from pybak.writing import write_all

_WRITE_BYTES: Final = 1 << 20
_LARGE_BYTES: Final = 64 << 10
"""What is hashed and written by itself rather than copied together."""


Place = tuple[int, bytes]
"""An entry's root, by its number, and its path there."""


Absent = tuple[int, bytes, str]
"""An entry that is not in the archive: root, path, and the code of what was wrong with it."""


class Meta(msgspec.Struct, frozen=True, gc=False):
    """A member's metadata; `mode` is permission bits, `full_mode` has the file type too."""

    mtime_ns: int
    ctime_ns: int
    inode: int
    mode: int
    full_mode: int
    uid: int
    gid: int


class PartResult(msgspec.Struct, frozen=True, array_like=True):
    """What one part of a large file turned out to be.

    `size` is bytes of the file, `stored_size` bytes of the segment. Parts fit together when
    `before` and `after` (the file's state around the read) are all the same. `meta` is of the
    open file, on `device`. `head_size` counts the tar header's bytes at the start of a first part,
    and `data_map` is the map that it promises.
    """

    size: int
    stored_size: int
    crc: int
    sha256: str
    before: State
    after: State
    meta: Meta
    device: int
    head_size: int = 0
    data_map: list[Run] | None = None


class SegmentIndex(msgspec.Struct, frozen=True, array_like=True):
    """All that the archive needs to know of a segment; `segment` is its file's name.

    ZIP segments have their members' `central` directory records, tar segments the `pieces` that
    they are made of. `lost` counts what the format can't keep, by what it is. `packed_problems`
    are as `pybak.problems.pack_problems` gives them. `unlinkable` are files with several names of
    which the archive holds nothing under this name, or another file by now. `absent` are all
    entries of the batch that the archive does not hold.
    """

    segment: str
    size: int
    sha256: str
    members: int = 0
    files: int = 0
    bytes_read: int = 0
    central: bytes = b""
    manifest: bytes = b""
    packed_problems: bytes = b""
    part: PartResult | None = None
    pieces: list[Piece] = []
    lost: dict[str, int] = {}
    unlinkable: list[Place] = []
    absent: list[Absent] = []

    @property
    def problems(self) -> list[Problem]:
        """What was wrong with the sources."""
        return unpack_problems(self.packed_problems)


class Segment(NamedTuple):
    """Where the bytes of a segment are: in the file `path`, or where `lay_sent` lays them down."""

    path: Path
    lay_sent: Callable[[], None] | None = None

    def lay(self, index: SegmentIndex, output: Output) -> None:
        """Lay it behind what is there. Raises OSError."""
        if self.lay_sent is not None:
            self.lay_sent()
        else:
            output.append_file(self.path, index.size, index.sha256)


class LaidDown(NamedTuple):
    """A large file whose parts lie in the archive; `ticket` is what its book remembers it by."""

    results: list[PartResult]
    ticket: object


def read_index(folder: Path, number: int) -> SegmentIndex:
    """Read the index of a finished segment."""
    return msgspec.msgpack.decode(index_path(folder, number).read_bytes(), type=SegmentIndex)


def publish_index(folder: Path, number: int, index: SegmentIndex) -> bool:
    """Give a complete index its name; False when the batch has one by then."""
    return staging.write_once(index_path(folder, number), msgspec.msgpack.encode(index))


class Mark(NamedTuple):
    """A place in a segment that its writer can go back to."""

    size: int
    sha256: hashlib._Hash


class SegmentWriter:
    """Collects pieces, and hashes and writes them a MiB at a time."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._sha = hashlib.sha256()
        self._pieces: list[Buffer] = []
        self._pending = 0
        self.size = 0

    def add(self, *pieces: Buffer) -> None:
        """Append bytes."""
        length = sum(map(len, pieces))
        self.size += length
        if length >= _LARGE_BYTES:
            self._flush()
            for piece in pieces:
                self._write(piece)
            return
        self._pieces += pieces
        self._pending += length
        if self._pending >= _WRITE_BYTES:
            self._flush()

    def add_two(self, first: bytes, second: bytes) -> None:
        """Do as `add` does, a little faster: this is called for every small file."""
        self._pieces.append(first)
        self._pieces.append(second)
        length = len(first) + len(second)
        self.size += length
        self._pending += length
        if self._pending >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        block = b"".join(self._pieces)
        self._pieces.clear()
        self._pending = 0
        self._write(block)

    def _write(self, block: Buffer) -> None:
        self._sha.update(block)
        write_all(self._fd, block)

    def mark(self) -> Mark:
        """Remember this place."""
        self._flush()
        return Mark(self.size, self._sha.copy())

    def go_back(self, mark: Mark) -> None:
        """Drop all that was added since `mark`, which can be used again."""
        self._pieces.clear()
        self._pending = 0
        os.ftruncate(self._fd, mark.size)
        os.lseek(self._fd, mark.size, os.SEEK_SET)
        self.size = mark.size
        self._sha = mark.sha256.copy()

    def sha256(self) -> str:
        """Give the digest of all that was added."""
        self._flush()
        return self._sha.hexdigest()

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
