"""What an archive of any format holds, as `restore`, `verify` and `pybak list` see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from pybak.entries import FILE
from pybak.formats.manifest import Part, Reference
from pybak.formats.manifest_facts import Head
from pybak.formats.zip_directory import Member
from pybak.problems import Problem

NO_OWNER: Final = -1
NO_MODE: Final = -1
_MAX_TIME_NS: Final = (1 << 60) * 1_000_000_000


def bounded_time(mtime_ns: int) -> int:
    """Give the time, in ns, or the nearest whose seconds any system can count."""
    return max(min(mtime_ns, _MAX_TIME_NS), -_MAX_TIME_NS)


class Spot(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="tar"):
    """Where a member lies in a tar stream, in bytes of the unpacked stream.

    `head` is where its first header block starts (extended headers come before the plain one),
    `data` where its content starts. `stored_size` counts the bytes of content in the stream:
    without the holes of a sparse file, and 0 for what has none. `size` is the file's. `kind` is
    one of `pybak.entries`.
    """

    name: bytes
    head: int
    data: int
    stored_size: int
    size: int
    kind: str = FILE

    @property
    def offset(self) -> int:
        """What members are sorted by to be read in the archive's order."""
        return self.head


Locator = Member | Spot
"""Where a member lies: what an archive's reader takes to read it."""


class Listed(msgspec.Struct, frozen=True, gc=False):
    """One member: what the archive's own records and the manifest tell together.

    `name` is as stored, without the slash that ends a folder's. `kind` is one of
    `pybak.entries`, HARD_LINK included. `precision` says how exact `mtime_ns` is, in ns. `mode`
    holds permission bits. `link` is a hard link's member name, and a symbolic link's target
    where the archive's directory tells it (in ZIP files it is the member's content). `sha256` is
    hex, empty if unknown; large members have `parts` instead. `data_map` lists where a sparse
    file has data, as (offset, length). `locator` and `limit` are what the archive's reader takes.
    `fault` is why it can't be read: a code of `pybak.problems` and a message. `remark` says in what
    the archive and the manifest differ, where the member can be read all the same.
    """

    name: bytes
    kind: str
    size: int
    mtime_ns: int
    precision: int
    locator: Locator
    limit: int = 0
    mode: int = NO_MODE
    uid: int = NO_OWNER
    gid: int = NO_OWNER
    user: str = ""
    group: str = ""
    link: bytes | None = None
    device: tuple[int, int] | None = None
    sha256: str = ""
    parts: list[Part] = []
    data_map: list[tuple[int, int]] | None = None
    is_sparse: bool = False
    fault: tuple[str, str] | None = None
    remark: str = ""

    @property
    def stored_size(self) -> int:
        """Bytes that the content takes in the archive; in tar streams before compression."""
        return self.locator.stored_size


class Listing(NamedTuple):
    """All members in the archive's order, the manifest not among them.

    `problems` are about the archive as a whole. `missing` are name and kind of members that the
    manifest lists and the archive lacks. `encrypted` tells whether any member needs a password
    that was not given. `head` is the manifest's first line, if there is a good one,
    `references` are what it says to be in other archives, and `status` how the run ended. `users`
    and `groups` are what it says that ids mean.
    """

    members: list[Listed]
    has_manifest: bool
    problems: list[Problem]
    missing: list[tuple[bytes, str]]
    encrypted: bool = False
    head: Head | None = None
    references: Sequence[Reference] = ()
    status: str = ""
    users: Mapping[int, str] = {}
    groups: Mapping[int, str] = {}
