"""Headers of tar archives read back: v7, ustar, pax, and GNU's own.

After POSIX.1-2017 `pax` ("ustar Interchange Format", "pax Extended Header") and the GNU tar
manual's appendix "Tar Internals" (types L, K, S). What is tolerated is what GNU tar and libarchive
tolerate. No I/O of its own: blocks come from a `read` that is handed in. Nothing is believed: what
a header claims of its own extensions is bounded before it is read. Whatever is wrong is an
ArchiveError.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Protocol

from pybak.entries import FILE, FOLDER, HARD_LINK, LINK, UNKNOWN
from pybak.errors import ArchiveError
from pybak.formats.tar_attributes import is_attribute
from pybak.formats.tar_fields import MAX_SIZE, is_header, lenient, member_size, owner_name, text
from pybak.formats.tar_records import BLOCK, KIND_OF_TYPE
from pybak.formats.tar_sparse import (
    RUN_KEYS,
    Runs,
    checked_map,
    leading_map,
    old_map,
    told_map,
)
from pybak.units import format_size


class Blocks(Protocol):
    """The stream that headers are read from."""

    def read(self, length: int) -> bytes:
        """Give that many bytes, fewer only at the end."""

    def unread(self, data: bytes) -> None:
        """Take back what `read` gave last."""


MAX_EXTENDED: Final = 4 << 20
"""The most bytes of extended headers, long names included, that are read for one member."""

PRECISION_PAX: Final = 1
PRECISION_HEADER: Final = 1_000_000_000

_BILLION = 1_000_000_000
_MAX_MTIME = 1 << 60  # seconds; what is farther is no time
_EXTENDED = b"x"
_SOLARIS_EXTENDED = b"X"
_GLOBAL = b"g"
_LONG_NAME, _LONG_LINK = b"L", b"K"
_SPARSE = b"S"
_CONTIGUOUS = b"7"
_FOLDER_DUMP = b"D"
_VOLUME_LABEL = b"V"
_FILE_TYPES = (b"0", b"\0", _CONTIGUOUS)
_EXTENSIONS = (_EXTENDED, _SOLARIS_EXTENDED, _GLOBAL, _LONG_NAME, _LONG_LINK)
_WITHOUT_DATA = (b"2", b"3", b"4", b"5", b"6")
_UNKNOWN_TYPES = {
    b"M": "the rest of a file from another volume", b"N": "a list of long names of old GNU tar",
    b"A": "a Solaris ACL", b"E": "a Solaris attribute", b"I": "inode metadata of star",
}  # fmt: skip
_TIME_ONLY = b"30 mtime="
_FLAGS = {FILE: b"0", FOLDER: b"5", LINK: b"2", HARD_LINK: b"1"}
_GLOBAL_KEYS = frozenset(
    {b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid", b"uname", b"gname"}
)
_TIME = re.compile(rb"(-?)(\d{1,20})(?:\.(\d*))?")
_DECIMAL = re.compile(rb"-?\d{1,20}")
_ZERO_BLOCK = bytes(BLOCK)


class Entry(NamedTuple):
    """A member as its headers tell it; places are bytes of the stream.

    `head` is where its first block starts, `data` where its content starts, `end` where the next
    member's headers start. `name` is without the slash that ends a folder's. `size` is the file's,
    `stored_size` what of it lies in the stream; they differ for sparse files, whose `data_map`
    lists the runs of data as (offset, length). `mode` holds permission bits. Owner numbers may be
    anything. `records` are the extended attributes and ACLs as they stand in the headers. `fault`
    says why the member can't be read, or is empty.
    """

    head: int
    data: int
    end: int
    flag: bytes
    kind: str
    name: bytes
    link: bytes | None
    size: int
    stored_size: int
    mode: int
    uid: int
    gid: int
    user: bytes
    group: bytes
    mtime_ns: int
    precision: int
    device: tuple[int, int] | None
    data_map: list[tuple[int, int]] | None
    records: Mapping[bytes, bytes]
    fault: str


def says_only(head: bytes, kind: str, name: bytes, size: int) -> bool:
    """Whether these blocks say of a member just this and, at most, its time in an extended header.

    The short way for nearly all members of ours: False means that they must be parsed.
    """
    if len(head) == 3 * BLOCK:
        body = head[BLOCK : 2 * BLOCK]
        is_time = body.startswith(_TIME_ONLY) and body[30:] == _ZERO_BLOCK[30:]
        if not (is_time and head[156:157] == _EXTENDED and is_header(head[:BLOCK])):
            return False
    elif len(head) != BLOCK:
        return False
    block = head[-BLOCK:]
    if kind == FOLDER:
        name += b"/"
    return (
        block[156:157] == _FLAGS.get(kind)
        and block[:100] == name.ljust(100, b"\0")
        and not block[345]
        and block[124:136] == b"%011o\0" % size
        and is_header(block)
    )


class HeaderReader:
    """Reads the headers of one member after the other from a stream.

    `shared` are the records of global headers so far; what `next` reads is added to them.
    """

    def __init__(self, shared: Mapping[bytes, bytes] | None = None) -> None:
        self.shared: dict[bytes, bytes] = dict(shared or {})

    def next(self, stream: Blocks, at: int) -> Entry | None:
        """Read a member's headers, which start at `at`; None at a zero block or the stream's end.

        Leaves the stream at the content, or behind the zero block. Raises
        ArchiveError if there is something that is no header, or the stream ends in it.
        """
        return _Parser(stream, at, self.shared).parse()


class _Parser:
    """Reads one member's blocks."""

    def __init__(self, stream: Blocks, at: int, shared: dict[bytes, bytes]) -> None:
        self._stream = stream
        self._head = self._at = at
        self._shared = shared
        self._local: dict[bytes, bytes] = {}
        self._runs: list[tuple[bytes, bytes]] = []  # GNU.sparse.offset and .numbytes, in order
        self._long: dict[bytes, bytes] = {}
        self._taken = 0
        self._body = 0  # where a content starts that begins with the map of its data
        self._fault = ""

    def parse(self) -> Entry | None:
        while True:
            block = self._stream.read(BLOCK)
            if not block and self._at == self._head:
                return None
            self._at += len(block)
            if not any(block):
                if self._at - len(block) == self._head:
                    return None
                raise ArchiveError("ends in the middle of a member's headers")
            if len(block) < BLOCK:
                raise ArchiveError("is cut short in a header")
            if not is_header(block):
                raise ArchiveError("holds a block that is no header where one must be")
            flag = block[156:157]
            if flag not in _EXTENSIONS:
                return self._entry(block, flag)
            self._extend(flag, member_size(block))

    def _exactly(self, length: int) -> bytes:
        data = self._stream.read(length) if length else b""
        self._at += len(data)
        if len(data) < length:
            raise ArchiveError("is cut short in a header")
        return data

    def _skip(self, length: int) -> None:
        while length:
            length -= len(self._exactly(min(length, MAX_EXTENDED)))

    def _extend(self, flag: bytes, size: int) -> None:
        """Read what an extension tells about the member behind it, or about all behind it."""
        self._taken += size + BLOCK
        padded = size + -size % BLOCK
        if self._taken > MAX_EXTENDED:
            self._fault = f"has extended headers of {format_size(self._taken)}, more than is read"
            if self._taken > 64 * MAX_EXTENDED:
                raise ArchiveError(f"holds a member that {self._fault}")
            self._skip(padded)
            return
        body = self._exactly(padded)[:size]
        if flag in (_LONG_NAME, _LONG_LINK):
            self._long[flag] = body.partition(b"\0")[0]
        elif flag == _GLOBAL:
            for key, value in self._records(body):
                if key in _GLOBAL_KEYS:
                    self._shared[key] = value
        else:
            for key, value in self._records(body):
                if key in RUN_KEYS:
                    self._runs.append((key, value))
                else:
                    self._local[key] = value

    def _records(self, body: bytes) -> Iterator[tuple[bytes, bytes]]:
        r"""Yield the records `LENGTH KEYWORD=VALUE\n`; what follows a bad one is not believed."""
        at = 0
        while at < len(body):
            blank = body.find(b" ", at, at + 21)
            digits = body[at:blank]
            length = int(digits) if blank > 0 and digits.isdigit() else 0
            stop = at + length
            equals = body.find(b"=", blank, stop)
            if equals < 0 or stop > len(body) or body[stop - 1 : stop] != b"\n":
                if body[at:].strip(b"\0"):
                    self._fault = "has a damaged extended header"
                return
            yield body[blank + 1 : equals], body[equals + 1 : stop - 1]
            at = stop

    def _told(self, key: bytes) -> bytes | None:
        """Give what an extended header says; an empty value takes a global one back."""
        value = self._local.get(key)
        if value is None:
            value = self._shared.get(key)
        return value or None

    def _entry(self, block: bytes, flag: bytes) -> Entry:
        size = self._number(b"size", member_size(block))
        name, link = self._name(block), self._link(block)
        kind = KIND_OF_TYPE.get(flag, UNKNOWN)
        if flag in _FILE_TYPES:
            # Before there were types for it, a slash at the end made a folder.
            kind = FOLDER if name.endswith(b"/") else FILE
        elif flag == _SPARSE:
            kind = FILE
        elif flag == _FOLDER_DUMP:
            kind = FOLDER
        elif flag == _VOLUME_LABEL:
            size = 0
        elif kind == UNKNOWN:
            what = _UNKNOWN_TYPES.get(flag, f"of an unknown type ({flag[0]:#04x})")
            self._fault = self._fault or f"is {what}"
        real_size, data_map, content = size, None, size
        if kind == FILE:
            try:
                real_size, data_map, content = self._sparse(block, flag, size)
            except ValueError as error:
                self._fault = self._fault or f"has an impossible map of its data: {error}"
        data = self._at
        if flag in _WITHOUT_DATA:
            size = 0
        elif kind == HARD_LINK:
            size = self._link_size(size)
        body = self._body or data
        end = body + size + -size % BLOCK
        if data_map is not None:
            content = sum(length for _, length in data_map)
        if kind != FILE:
            real_size = content = 0
        if end > MAX_SIZE or real_size > MAX_SIZE:
            raise ArchiveError("holds a member of an impossible size")
        mtime_ns, precision = self._mtime(block)
        device = None
        if flag in (b"3", b"4"):
            device = (lenient(block[329:337]), lenient(block[337:345]))
            if not all(0 <= number <= 0xFFFFFFFF for number in device):
                self._fault = self._fault or "is a device of impossible numbers"
        if b"\0" in name or (link is not None and b"\0" in link):
            self._fault = self._fault or "has a name with a NUL byte"
        return Entry(
            self._head, data, end, flag, kind, name.rstrip(b"/") if kind == FOLDER else name,
            link, real_size, content, lenient(block[100:108]) & 0o7777,
            self._number(b"uid", lenient(block[108:116])),
            self._number(b"gid", lenient(block[116:124])),
            self._told(b"uname") or owner_name(block, 265),
            self._told(b"gname") or owner_name(block, 297),
            mtime_ns, precision, device, data_map,
            {key: value for key, value in self._local.items() if is_attribute(key)}, self._fault,
        )  # fmt: skip

    def _link_size(self, size: int) -> int:
        """Tell whether the content that a hard link claims to have follows it.

        POSIX allows it; old programs wrote the size of the file and nothing else.
        """
        if not size:
            return 0
        peeked = self._stream.read(BLOCK)
        self._stream.unread(peeked)
        is_next = not any(peeked) or (len(peeked) == BLOCK and is_header(peeked))
        return 0 if is_next else size

    def _number(self, key: bytes, otherwise: int) -> int:
        value = self._told(key)
        if value is None:
            return otherwise
        if not _DECIMAL.fullmatch(value):
            self._fault = self._fault or "has a damaged extended header"
            return otherwise
        number = int(value)
        if key == b"size" and number < 0:
            raise ArchiveError("holds a member of an impossible size")
        return number

    def _name(self, block: bytes) -> bytes:
        told = self._local.get(b"GNU.sparse.name") or self._told(b"path")
        if told:
            return told
        if _LONG_NAME in self._long:
            return self._long[_LONG_NAME]
        name = text(block[:100])
        if block[257:263] == b"ustar\0":
            # star keeps times behind a prefix that is shorter.
            end = 476 if block[508:512] == b"tar\0" else 500
            prefix = text(block[345:end])
            if prefix:
                return prefix + b"/" + name
        return name

    def _link(self, block: bytes) -> bytes | None:
        if block[156:157] not in (b"1", b"2"):
            return None
        told = self._told(b"linkpath")
        if told:
            return told
        return self._long.get(_LONG_LINK) or text(block[157:257])

    def _mtime(self, block: bytes) -> tuple[int, int]:
        told = _TIME.fullmatch(self._told(b"mtime") or b"")
        if told and int(told[2]) < _MAX_MTIME:
            fraction = ((told[3] or b"") + b"000000000")[:9]
            nanos = int(told[2]) * _BILLION + int(fraction)
            return -nanos if told[1] else nanos, PRECISION_PAX
        seconds = lenient(block[136:148])
        seconds = max(min(seconds, _MAX_MTIME), -_MAX_MTIME)
        return seconds * _BILLION, PRECISION_HEADER

    def _sparse(self, block: bytes, flag: bytes, size: int) -> tuple[int, Runs | None, int]:
        """Give the file's size, its map of data, and the bytes that follow the headers and the map.

        Raises ValueError for a map that can't be.
        """
        if flag == _SPARSE:
            real_size, runs = old_map(block, self._exactly, self._at - self._head)
        elif self._local.get(b"GNU.sparse.major") == b"1":
            self._body = self._at
            real_size, runs, taken = leading_map(self._local, self._exactly, size)
            size -= taken
        elif b"GNU.sparse.map" in self._local or b"GNU.sparse.size" in self._local:
            real_size, runs = told_map(self._local, self._runs)
        else:
            return size, None, size
        return real_size, checked_map(runs, real_size, size), size
