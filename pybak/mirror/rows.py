"""What a mirror's steps hand each other: small files of rows, and what every step must know.

Nothing here is kept between versions; files live as long as their run.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from pybak.backup.rules import Rules

NEW: Final = "new"
UPDATE: Final = "update"
LOOKS: Final = "looks"
"""The content is right; owner, mode, time or attributes are not."""
SAME: Final = "same"
FILE_COST: Final = 60_000
"""What it costs to make a file, in bytes copied meanwhile."""

_Row = TypeVar("_Row")
_JOB: Final = "job"
TEMPORARY_START: Final = b".pybak-mirror-"
"""What the names of all unfinished files begin with, and of hardly any other."""
_TEMPORARY: Final = ".pybak-mirror-{}-{}.tmp"
_IS_TEMPORARY: Final = re.compile(rb"\.pybak-mirror-[0-9a-f]{16}-[0-9a-f]{12}\.tmp")
_encode = msgspec.msgpack.Encoder().encode

Inode = tuple[int, int]
"""Device and inode."""
Mark = tuple[int, int, int, int, int]
"""What tells that something is still what it was: inode, size, time and change time."""


def inode_of(status: os.stat_result) -> Inode:
    """Give device and inode."""
    return status.st_dev, status.st_ino


def mark_of(status: os.stat_result) -> Mark:
    """Give what is another as soon as a file is replaced, written, or given other metadata."""
    size, changed = status.st_size, status.st_ctime_ns
    return status.st_dev, status.st_ino, size, status.st_mtime_ns, changed


class MirrorJob(msgspec.Struct, frozen=True, kw_only=True):
    """What all steps of a run must know.

    `only` is the name in `source` that is copied alone; without it all is. `left_out` is neither
    copied nor deleted wherever it is met. `source_root` and `target_root` are the folders that
    were looked at first; the latter is None until the target is made. `step_ns` is how exactly
    the target keeps times; without `keeps_looks` it has neither modes nor owners, without
    `keeps_inodes` its inodes tell nothing, and if it `ignores_case` two spellings are one name.
    Unfinished files that were written after `live_since`, in seconds since 1970, may be those of
    another run at work.
    """

    source: bytes
    target: bytes
    token: str
    only: bytes | None = None
    sets_owner: bool = False
    privileged: bool = False
    copies_all: bool = False
    compares_content: bool = False
    verifies: bool = False
    deletes: bool = False
    include: list[str] = []
    exclude: list[str] = []
    left_out: list[Inode] = []
    source_root: Inode | None = None
    target_root: Inode | None = None
    step_ns: int = 1
    keeps_looks: bool = True
    keeps_links: bool = True
    keeps_inodes: bool = True
    ignores_case: bool = False
    live_since: float = 0.0

    def rules(self) -> Rules:
        """Give the patterns."""
        return Rules.build(self.include, self.exclude, use_markers=False)

    def save(self, folder: Path) -> None:
        """Write it where the steps find it."""
        (folder / _JOB).write_bytes(_encode(self))

    @classmethod
    def load(cls, folder: Path) -> MirrorJob:
        """Read it back."""
        return msgspec.msgpack.decode((folder / _JOB).read_bytes(), type=cls)


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One thing to be made or changed; `path` is below source and target alike.

    `what` is NEW, UPDATE or LOOKS; `kind` one of `pybak.entries`, no folder. LOOKS holds only as
    long as source and target are what they were when compared, which `seen` tells of both.
    """

    path: bytes
    kind: str
    what: str
    size: int
    seen: tuple[Mark, Mark] | None = None


class LinkedRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file with several names in the source: its inode there, and that of the target's file.

    `what` is what would be done if it had one name; the target's inode is (0, 0) if there is none.
    """

    path: bytes
    what: str
    size: int
    inode: Inode
    there: Inode
    seen: tuple[Mark, Mark] | None = None


class LinkRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`path` is to be another name of `first`."""

    path: bytes
    first: bytes
    size: int
    is_new: bool


class FolderRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A folder that is to be made, or completed because something in it or about it changed.

    `is_new` where there is no folder yet, and then `in_the_way` tells whether there is something
    else. A folder that is not `is_needed` is dropped unless something below it is to be made.
    """

    path: bytes
    is_new: bool
    in_the_way: bool
    is_needed: bool


class SurplusRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the target has and the source has not, a folder after all that is in it.

    `mark` tells it from what takes its place; a folder is the same while it is emptied.
    """

    path: bytes
    is_folder: bool
    mark: tuple[int | None, ...]


class Batch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Rows that one worker takes: where they stand, how many, and the bytes of their files."""

    file: str
    offset: int
    length: int
    files: int
    size: int


class BatchWriter:
    """Writes batches one behind the other into a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def add(self, rows: list[Row]) -> Batch:
        """Append a batch."""
        block = _encode(rows)
        # What an order left that was begun before, by a helper that died, does not count.
        with self._path.open("ab" if self._offset else "wb") as out:
            out.write(block)
        batch = Batch(
            str(self._path), self._offset, len(block), len(rows), sum(row.size for row in rows)
        )
        self._offset += len(block)
        return batch


def read_batch(batch: Batch) -> list[Row]:
    """Read the rows of a batch."""
    with open(batch.file, "rb") as rows:
        rows.seek(batch.offset)
        return msgspec.msgpack.decode(rows.read(batch.length), type=list[Row])


def write_rows(path: Path, rows: Iterable[Any]) -> str:
    """Write rows of one kind; give the file's path."""
    path.write_bytes(_encode(list(rows)))
    return str(path)


def read_rows(files: Iterable[str], kind: type[_Row]) -> list[_Row]:
    """Read the rows of all these files."""
    decoder = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]
    return [row for file in files for row in decoder.decode(Path(file).read_bytes())]


def hand_of(path: Path) -> list[Batch]:
    """Read the batches of a hand."""
    return read_rows([str(path)], Batch)


def temporary_name(token: str, own: str) -> bytes:
    """Give the name of an unfinished file of a run; `own`, of 12 digits, is its writer's."""
    return _TEMPORARY.format(token, own).encode()


def is_temporary(name: bytes) -> bool:
    """Whether a name is that of an unfinished file of a mirror, this or another one."""
    return _IS_TEMPORARY.fullmatch(name) is not None


def is_unfinished(name: bytes, status: os.stat_result) -> bool:
    """Whether something is an unfinished file of a mirror; a folder never is."""
    return is_temporary(name) and not stat.S_ISDIR(status.st_mode)
