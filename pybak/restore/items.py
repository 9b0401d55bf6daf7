"""What a worker needs to unpack or check members, in small files on disk.

A batch file is a run of frames: a 4-byte little-endian length, then MessagePack. The first frame
is the `Job`, each further one a list of `Item`s or
`Folder`s. With it and the archive a worker can do all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from pybak.formats.manifest import Part
from pybak.formats.zip_reader import Identity, Member

NO_OWNER: Final = -1
_FRAME_ROWS = 1000
_LENGTH = struct.Struct("<I")
_FILE_COST = 60_000  # what making a file costs, in bytes that could be unpacked meanwhile
_FIRST_WEIGHT, _LAST_WEIGHT = 1.7, 0.3

_Row = TypeVar("_Row", "Item", "Folder")


class Job(msgspec.Struct, frozen=True, array_like=True):
    """What the batches of one run share.

    `target` is absolute; it, `overwrite` and `token` are empty when verifying. `token` is part of
    the names of temporary files, `umask` what new files of unknown mode go without.
    """

    archive: bytes
    identity: Identity
    target: bytes = b""
    overwrite: str = ""
    token: str = ""
    umask: int = 0o022


class Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member to be read.

    `path` is where it goes below the target. `seconds` and `nanos` are its modification time and
    `precision` how exact that is, in ns. `mode` holds permission bits, -1 if unknown; `uid` and
    `gid` are -1 if unknown. `sha256` is hex, empty if unknown; large members have `parts` instead.
    """

    path: bytes
    kind: str
    member: Member
    limit: int
    seconds: int
    nanos: int
    precision: int
    mode: int
    uid: int
    gid: int
    sha256: str
    parts: list[Part] = []

    @property
    def mtime_ns(self) -> int:
        """Modification time in ns since 1970."""
        return self.seconds * 1_000_000_000 + self.nanos


class Folder(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A folder to be made. Only `is_member` ones get a mode, an owner and a time."""

    path: bytes
    is_member: bool = False
    seconds: int = 0
    nanos: int = 0
    mode: int = -1
    uid: int = NO_OWNER
    gid: int = NO_OWNER

    @property
    def mtime_ns(self) -> int:
        """Modification time in ns since 1970."""
        return self.seconds * 1_000_000_000 + self.nanos


def write_batch(path: Path, job: Job, rows: Sequence[Item] | Sequence[Folder]) -> None:
    """Write a batch file, replacing what was there."""
    encode = msgspec.msgpack.Encoder().encode
    with path.open("wb") as out:
        block = encode(job)
        out.write(_LENGTH.pack(len(block)) + block)
        for at in range(0, len(rows), _FRAME_ROWS):
            block = encode(rows[at : at + _FRAME_ROWS])
            out.write(_LENGTH.pack(len(block)) + block)


def read_batch(path: Path, kind: type[_Row]) -> tuple[Job, Iterator[_Row]]:
    """Open a batch file: its job, and its rows with one frame in memory at a time."""
    frames = _frames(path)
    return msgspec.msgpack.decode(next(frames), type=Job), _rows(frames, kind)


def _frames(path: Path) -> Iterator[bytes]:
    with path.open("rb") as frames:
        while length := frames.read(_LENGTH.size):
            yield frames.read(_LENGTH.unpack(length)[0])


def _rows(frames: Iterator[bytes], kind: type[_Row]) -> Iterator[_Row]:
    decode = msgspec.msgpack.Decoder(list[kind]).decode  # type: ignore[valid-type]
    for frame in frames:
        yield from decode(frame)


def share_out(items: Sequence[Item], tasks: int) -> list[list[Item]]:
    """Deal items out to at most `tasks` batches, the most expensive batch first.

    A member worth more than an even share is a batch of its own. The others go into batches of
    falling size, so that the last ones fill the gaps; neighbours in `items` stay together.
    """
    if not items:
        return []
    costs = [item.member.size + _FILE_COST for item in items]
    share = sum(costs) / tasks
    single = [[item] for item, cost in zip(items, costs, strict=True) if cost > share]
    rest = [(item, cost) for item, cost in zip(items, costs, strict=True) if cost <= share]
    batches = single + _falling(rest, max(tasks - len(single), 1))
    batches.sort(key=lambda batch: -sum(item.member.size + _FILE_COST for item in batch))
    return batches


def _falling(items: list[tuple[Item, int]], count: int) -> list[list[Item]]:
    total = sum(cost for _, cost in items)
    step = (_FIRST_WEIGHT - _LAST_WEIGHT) / max(count - 1, 1)
    weights = [_FIRST_WEIGHT - step * index for index in range(count)]
    factor = total / sum(weights)
    batches: list[list[Item]] = [[]]
    border, done = weights[0] * factor, 0
    for item, cost in items:
        if done >= border and len(batches) < count:
            border += weights[len(batches)] * factor
            batches.append([])
        batches[-1].append(item)
        done += cost
    return [batch for batch in batches if batch]
