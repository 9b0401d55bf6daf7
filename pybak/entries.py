"""What a walk finds: one `Entry` a file, folder or link, kept in small files on disk.

Stages hand each other the path of an entry file, never the list itself, so memory does not
grow with the number of files. An entry file is a run of frames: a 4-byte little-endian length,
then that many bytes of MessagePack holding a list of entries. It lives as long as its run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

FILE: Final = "f"
FOLDER: Final = "d"
LINK: Final = "l"
HARD_LINK: Final = "h"
"""In archives only: another name of a file that the archive holds already."""
FIFO: Final = "p"
SOCKET: Final = "s"
CHAR_DEVICE: Final = "c"
BLOCK_DEVICE: Final = "b"
UNKNOWN: Final = "?"

KIND_NAMES: Final = {
    FILE: "file",
    FOLDER: "folder",
    LINK: "symbolic link",
    HARD_LINK: "hard link",
    FIFO: "FIFO",
    SOCKET: "socket",
    CHAR_DEVICE: "character device",
    BLOCK_DEVICE: "block device",
    UNKNOWN: "file of unknown type",
}

JSON_NAMES: Final = {
    FILE: "file",
    FOLDER: "folder",
    LINK: "symlink",
    HARD_LINK: "hardlink",
    FIFO: "fifo",
    SOCKET: "socket",
    CHAR_DEVICE: "char_device",
    BLOCK_DEVICE: "block_device",
    UNKNOWN: "unknown",
}
"""How JSON calls the kinds."""

_FRAME_ENTRIES = 1000
_MOST = 2**63 - 1
_LENGTH = struct.Struct("<I")


class Root(msgspec.Struct, frozen=True):
    """A source as the run sees it.

    `source` is its absolute path on disk (links resolved in the last component), `member` the
    prefix of its names in the archive: `docs` for `/home/me/docs`, empty for `/`.
    """

    source: bytes
    member: bytes

    def disk_path(self, path: bytes) -> bytes:
        """Where the entry `path` of this root lies on disk."""
        if not path:
            return self.source
        return self.source + b"/" + path if self.source != b"/" else b"/" + path

    def member_name(self, path: bytes) -> bytes:
        """The entry's name in the archive, without the slash that ends a folder's."""
        if not path:
            return self.member
        return self.member + b"/" + path if self.member else path


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One `lstat` result below a root.

    `root` indexes the run's list of roots; `path` is relative to it in the file system's own
    bytes, empty for the root itself. `mode` holds the permission bits only (0o7777).
    """

    root: int
    path: bytes
    kind: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    mode: int
    uid: int
    gid: int
    links: int


def _clamped(entry: Entry) -> Entry:
    return msgspec.structs.replace(
        entry,
        mtime_ns=max(-_MOST, min(entry.mtime_ns, _MOST)),
        ctime_ns=max(-_MOST, min(entry.ctime_ns, _MOST)),
    )


class EntryWriter:
    """Writes an entry file; a context manager that closes it."""

    def __init__(self, path: Path) -> None:
        self._out = path.open("wb")
        self._frame: list[Entry] = []
        self._encode = msgspec.msgpack.Encoder().encode

    def add(self, entry: Entry) -> None:
        """Append one entry."""
        self._frame.append(entry)
        if len(self._frame) >= _FRAME_ENTRIES:
            self._flush()

    def _flush(self) -> None:
        try:
            block = self._encode(self._frame)
        except OverflowError:  # MessagePack ends in the year 2554, some file systems do not
            block = self._encode([_clamped(entry) for entry in self._frame])
        self._out.write(_LENGTH.pack(len(block)))
        self._out.write(block)
        self._frame.clear()

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._frame:
            self._flush()
        self._out.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Write all of `entries` to the entry file `path`."""
    with EntryWriter(path) as out:
        for entry in entries:
            out.add(entry)


def read_entries(path: Path) -> Iterator[Entry]:
    """Yield the entries of the file `path`, one frame in memory at a time."""
    decode = msgspec.msgpack.Decoder(list[Entry]).decode
    with path.open("rb") as frames:
        while length := frames.read(_LENGTH.size):
            yield from decode(frames.read(_LENGTH.unpack(length)[0]))
