"""What a run is compared with: an earlier snapshot of its job, as the catalog knows it.

A `Base` hands out the state of each member once. A million of them must fit in memory, so they are
packed as they come: name and state together take about 270 bytes. Digests are asked for apart, for
few files are compared by content.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from pybak.entries import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    FIFO,
    FILE,
    FOLDER,
    HARD_LINK,
    LINK,
    SOCKET,
    UNKNOWN,
)
from pybak.formats.manifest import Reference

TICK_NS: Final = 20_000_000
"""How far a file system's clock may be behind the run's own: two ticks of 100 Hz."""
COARSE_TICK_NS: Final = 2_000_000_000
"""The same where times are whole seconds, or even ones: ext3, HFS+, sshfs, FAT."""
_SECOND_NS: Final = 1_000_000_000

KIND_CODES: Final = {
    FILE: 1,
    FOLDER: 2,
    LINK: 3,
    FIFO: 4,
    SOCKET: 5,
    CHAR_DEVICE: 6,
    BLOCK_DEVICE: 7,
    UNKNOWN: 8,
    HARD_LINK: 9,
}
"""The kind of an entry as packed states have it."""

IDENTITY: Final = struct.Struct("<BQqqQ")
"""Kind, size, mtime, ctime, inode: what differs in a changed file. A packed state begins so."""
_STATE: Final = struct.Struct("<BQqqQQHIIqB")
_CHANGED, _RACY = 1, 2
SINCE: Final = 4
"""The flag, in the last byte, of a state that another snapshot does not have."""
_MOST: Final = (1 << 63) - 1
_MASK64: Final = (1 << 64) - 1
_MASK32: Final = (1 << 32) - 1

State = tuple[str, int, int, int, int, int | None, int, int, int, bool, bool, int]
"""What is known of a member, in the order of `Known`, with its kind as in `pybak.entries`."""


class Known(NamedTuple):
    """A state unpacked. `kind` is of KIND_CODES, `device` 0 where it is not known.

    `is_changed` is of a member whose content moved while it was read; `is_racy` of one that was
    touched so late that it may have changed once more without another time (`is_racy`). `ident` is
    what digests are asked for by.
    """

    kind: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    mode: int
    uid: int
    gid: int
    is_changed: bool
    is_racy: bool
    ident: int


Digest = tuple[str | None, Sequence[tuple[int, str]]]
"""What a file's content was: SHA-256 in hex, or size and SHA-256 of each part of a large one.

Of a sparse file in a tar archive the digests are of its data alone.
"""


class Stored(NamedTuple):
    """A file's content in an archive: its size in bytes, its digest, the run and the member."""

    size: int
    digest: Digest
    run_id: str
    member: bytes


class ArchiveFacts(NamedTuple):
    """An archive that a snapshot needs: its name, and path and size of each of its files.

    `copies` are those of its further places.
    """

    name: str
    volumes: Sequence[tuple[str, int]]
    encrypted: bool = False
    copies: Sequence[Sequence[tuple[str, int]]] = ()

    @property
    def places(self) -> Sequence[Sequence[tuple[str, int]]]:
        """Its files in each place, the first place first."""
        return (self.volumes, *self.copies)


class Lineage(NamedTuple):
    """The runs that a snapshot goes back to, from its base to the full one, nearest first.

    `needs` are the runs whose archives hold members of it.
    """

    bases: Sequence[str]
    needs: Sequence[str]


class Base(Protocol):
    """A snapshot to compare with. Names are those of members, without a slash at the end.

    `run_id`, `seq`, `mode` and `started_at` are of the run that made the snapshot. `full_run` is
    the full run that it goes back to, maybe itself; `full_started_at` is when that was, and
    `runs_since_full` how many snapshots the job has got since.
    """

    @property
    def run_id(self) -> str:
        """The run that made the snapshot."""

    @property
    def seq(self) -> int:
        """Its number in the job."""

    @property
    def mode(self) -> str:
        """How it was made."""

    @property
    def started_at(self) -> datetime:
        """When it began, aware."""

    @property
    def full_run(self) -> str:
        """The full run that the snapshot goes back to, maybe the same."""

    @property
    def full_started_at(self) -> datetime:
        """When that began, aware."""

    @property
    def runs_since_full(self) -> int:
        """How many snapshots the job has got since its newest full one."""

    def states(self) -> Iterable[tuple[bytes, State]]:
        """Yield every member of the snapshot, folders included, with what is known of it."""

    def digests(self, idents: Sequence[int]) -> Mapping[int, Digest]:
        """Give the digests of these files; one that has none may be left out."""

    def contents(self, sizes: AbstractSet[int]) -> Iterable[Stored]:
        """Yield the contents of the files that have one of these sizes, by name."""

    def other_versions(self, older: Base) -> Iterable[tuple[bytes, State | None]]:
        """Yield each member of which another snapshot has another version, or no version at all.

        Also those that it alone has. With the name comes what it knows of the member.
        """

    def references(self, names: Iterable[bytes]) -> Iterable[Reference]:
        """Yield what a later snapshot says that has these members as this one has them."""

    def archive_names(self) -> Mapping[str, str]:
        """Give by run what the archives of the job are called, without their folders."""

    def gone_since_full(self) -> Iterable[bytes]:
        """Yield each name that an archive since the full run holds and the snapshot lacks."""

    def archives(self) -> Sequence[ArchiveFacts]:
        """Give the archives that hold the snapshot's content, the newest last."""

    def failures(self) -> Iterable[tuple[str, str]]:
        """Yield path and code of what the run that made the snapshot could not save."""

    def without_disk(self) -> Iterable[str]:
        """Yield the folders that were told to be mount points without their disks."""

    def lineage(self, replaced: Iterable[bytes]) -> Lineage | None:
        """Give what a new snapshot goes back to that has all of this one but these members.

        None if that can't be told.
        """


class History(Protocol):
    """Where bases come from."""

    def base(self, mode: str) -> Base | None:
        """Give what a run of this mode is compared with; None before the job's first snapshot.

        An incremental run's base is the newest snapshot, a differential one's the newest full.
        """


def is_racy(mtime_ns: int, ctime_ns: int, recorded_at_ns: int) -> bool:
    """Whether a file may have changed after it was read without another time.

    `recorded_at_ns` is the start of the run that read it, in ns since 1970: true for what was
    touched then or later, less a clock's tick. Where both times are whole seconds, finer ones are
    most likely not kept.
    """
    is_coarse = not (mtime_ns % _SECOND_NS or ctime_ns % _SECOND_NS)
    tick = COARSE_TICK_NS if is_coarse else TICK_NS
    return max(mtime_ns, ctime_ns) >= recorded_at_ns - tick


def pack_state(
    kind: str,
    size: int,
    mtime_ns: int,
    ctime_ns: int,
    inode: int,
    device: int | None,
    mode: int,
    uid: int,
    gid: int,
    changed: bool,
    racy: bool,
    ident: int,
) -> bytes:
    """Pack a `State`. Only a file's size counts; times are clamped to 63 bits.

    Numbers that a catalog wrapped to negative ones are taken for what they were.
    """
    if kind != FILE:
        size = 0
    flags = (_CHANGED if changed else 0) | (_RACY if racy else 0)
    try:
        return _STATE.pack(
            KIND_CODES[kind], size, mtime_ns, ctime_ns, inode, device or 0, mode, uid, gid, ident,
            flags,
        )  # fmt: skip
    except struct.error:
        return _STATE.pack(
            KIND_CODES[kind], size, clamped(mtime_ns), clamped(ctime_ns), inode & _MASK64,
            (device or 0) & _MASK64, mode & 0o7777, uid & _MASK32, gid & _MASK32, ident, flags,
        )  # fmt: skip


def unpack_state(state: bytes) -> Known:
    """Undo `pack_state`."""
    kind, size, mtime, ctime, inode, device, mode, uid, gid, ident, flags = _STATE.unpack(state)
    return Known(
        kind, size, mtime, ctime, inode, device, mode, uid, gid, bool(flags & _CHANGED),
        bool(flags & _RACY), ident,
    )  # fmt: skip


def pack_identity(kind: str, size: int, mtime_ns: int, ctime_ns: int, inode: int) -> bytes:
    """Give the bytes that the packed state of an unchanged file begins with."""
    if kind != FILE:
        size = 0
    try:
        return IDENTITY.pack(KIND_CODES[kind], size, mtime_ns, ctime_ns, inode)
    except struct.error:
        return IDENTITY.pack(
            KIND_CODES[kind], size, clamped(mtime_ns), clamped(ctime_ns), inode & _MASK64
        )


def pack_states(states: Iterable[tuple[bytes, State]]) -> dict[bytes, bytes]:
    """Pack all members of a base, by name."""
    return dict(_packed(states))


def _packed(states: Iterable[tuple[bytes, State]]) -> Iterator[tuple[bytes, bytes]]:
    pack, codes, file = _STATE.pack, KIND_CODES, FILE
    for name, state in states:
        kind, size, mtime, ctime, inode, device, mode, uid, gid, changed, racy, ident = state
        try:
            yield (
                name,
                pack(
                    codes[kind], size if kind == file else 0, mtime, ctime, inode, device or 0,
                    mode, uid, gid, ident, 2 * racy + changed,
                ),
            )  # fmt: skip
        except struct.error:
            yield name, pack_state(*state)


def clamped(time_ns: int) -> int:
    """Give a time as far as 63 bits and a sign hold it."""
    return max(-_MOST, min(time_ns, _MOST))
