"""What a worker needs to unpack or check members, in small files on disk.

A batch file has a part for each archive that its members come from. A part is a run of frames: a
4-byte little-endian length, then MessagePack. The first frame is the `Job`, each further one a list
of `Item`s or `Folder`s; a frame of no length ends the part. With it, the archives and, if those are
encrypted, their password a worker can do all; a password is in no file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import msgspec

from pybak.formats.archive import Archive
from pybak.formats.listing import NO_MODE, NO_OWNER, Locator
from pybak.formats.manifest import Part
from pybak.formats.opening import open_archive
from pybak.formats.source import Identity
from pybak.formats.tar_index import PieceIndex

_FRAME_ROWS: Final = 1000
_LENGTH: Final = struct.Struct("<I")

_Row = TypeVar("_Row", "Item", "Folder")

Node = tuple[int, int]
"""Device and inode."""


class Job(msgspec.Struct, frozen=True, array_like=True):
    """What the members of one archive share in one run.

    `volumes` are the paths or addresses of the archive's files, none for folders, which may come
    from several archives. `index_file`, if any, tells a reader where it
    can start, `delete_file` holds the `DeletePlan`. `target` is absolute; it, `overwrite` and
    `token` are empty when verifying. `token` is part of the names of temporary files, `umask` what
    new files of unknown mode go without. `sets_owner` tells whether files are given away,
    `knows_attributes` whether what the archive does not say about extended attributes is to be
    taken for none. `own_nodes` are the files of all archives that are restored, which are never
    replaced, whatever name they are met by.
    """

    volumes: tuple[bytes, ...] = ()
    identity: tuple[Identity, ...] = ()
    index_file: str = ""
    target: bytes = b""
    overwrite: str = ""
    token: str = ""
    umask: int = 0o022
    sets_owner: bool = False
    knows_attributes: bool = False
    delete_file: str = ""
    own_nodes: frozenset[Node] = frozenset()

    def is_own(self, status: os.stat_result) -> bool:
        """Whether a file that was looked at is one of the archives' own."""
        return (status.st_dev, status.st_ino) in self.own_nodes


class Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member to be read.

    `path` is where it goes below the target. `seconds` and `nanos` are its modification time and
    `precision` how exact that is, in ns. `mode` holds permission bits, -1 if unknown; `uid` and
    `gid` are -1 if unknown. `sha256` is hex, empty if unknown; large members have `parts` instead.
    `link` is a symbolic link's target if the archive's directory tells it, and the path of a hard
    link's first name; a hard link's `member` is that of the file it stands for, so that it can be
    unpacked as one. `is_linked` marks the file that hard links stand for, `is_content` one that
    has nothing of the member but its content. `data_map` and `is_sparse` are as in `Listed`.
    """

    path: bytes
    kind: str
    member: Locator
    limit: int
    seconds: int
    nanos: int
    precision: int
    mode: int = NO_MODE
    uid: int = NO_OWNER
    gid: int = NO_OWNER
    sha256: str = ""
    parts: list[Part] = []
    link: bytes | None = None
    device: tuple[int, int] | None = None
    data_map: list[tuple[int, int]] | None = None
    is_sparse: bool = False
    is_linked: bool = False
    is_content: bool = False

    @property
    def mtime_ns(self) -> int:
        """Modification time in ns since 1970."""
        return self.seconds * 1_000_000_000 + self.nanos

    @property
    def content_size(self) -> int:
        """Bytes of content that the archive holds: a sparse file's without its holes."""
        if self.data_map is None:
            return self.member.size
        return sum(length for _, length in self.data_map)


class Folder(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A folder to be made. Only `is_member` ones get a mode, an owner and a time.

    `knows_attributes` is that of the archive which the member is of, as in `Job`.
    """

    path: bytes
    is_member: bool = False
    seconds: int = 0
    nanos: int = 0
    mode: int = NO_MODE
    uid: int = NO_OWNER
    gid: int = NO_OWNER
    knows_attributes: bool = False

    @property
    def mtime_ns(self) -> int:
        """Modification time in ns since 1970."""
        return self.seconds * 1_000_000_000 + self.nanos


def write_batch(path: Path, job: Job, rows: Sequence[Item] | Sequence[Folder]) -> None:
    """Write a batch file of one part, replacing what was there."""
    write_parts(path, [(job, rows)])


def write_parts(path: Path, parts: Iterable[tuple[Job, Sequence[Item] | Sequence[Folder]]]) -> None:
    """Write a batch file of any number of parts, replacing what was there."""
    encode = msgspec.msgpack.Encoder().encode
    with path.open("wb") as out:
        for job, rows in parts:
            block = encode(job)
            out.write(_LENGTH.pack(len(block)) + block)
            for at in range(0, len(rows), _FRAME_ROWS):
                block = encode(rows[at : at + _FRAME_ROWS])
                out.write(_LENGTH.pack(len(block)) + block)
            out.write(_LENGTH.pack(0))


def read_batch(path: Path, kind: type[_Row]) -> tuple[Job, Iterator[_Row]]:
    """Open a batch file: its first job and the rows of that, one frame in memory at a time."""
    parts = read_parts(path, kind)
    job, rows = next(parts)
    return job, _while_open(parts, rows)


def _while_open(
    parts: Iterator[tuple[Job, Iterator[_Row]]], rows: Iterator[_Row]
) -> Iterator[_Row]:
    """Keep the file of `parts` open while its rows are read."""
    yield from rows
    next(parts, None)


def read_parts(path: Path, kind: type[_Row]) -> Iterator[tuple[Job, Iterator[_Row]]]:
    """Yield the job and the rows of each part; take all rows before the next part."""
    decode = msgspec.msgpack.Decoder(Job).decode
    with path.open("rb") as frames:
        while head := _frame(frames):
            yield decode(head), _rows(frames, kind)


def _frame(frames: BinaryIO) -> bytes:
    """Read a frame; empty at the end of a part, and of the file."""
    length = frames.read(_LENGTH.size)
    return frames.read(_LENGTH.unpack(length)[0]) if length else b""


def _rows(frames: BinaryIO, kind: type[_Row]) -> Iterator[_Row]:
    decode = msgspec.msgpack.Decoder(list[kind]).decode  # type: ignore[valid-type]
    while frame := _frame(frames):
        yield from decode(frame)


def write_index(path: Path, archive: Archive) -> str:
    """Keep for the workers what the reader found out; give `Job.index_file`."""
    if archive.index is None:
        return ""
    path.write_bytes(archive.index.to_bytes())
    return str(path)


def open_job(job: Job, password: bytes | None) -> Archive:
    """Open the archive of a batch as `open_archive` does.

    One on disk may be another one by now; one in a storage can't, or reading it fails.
    """
    index = PieceIndex.from_bytes(Path(job.index_file).read_bytes()) if job.index_file else None
    return open_archive(job.volumes, password=password, index=index, known=job.identity)
