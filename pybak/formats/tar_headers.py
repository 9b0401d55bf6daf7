"""Headers of tar archives read back: v7, ustar, pax, and GNU's own.

After POSIX.1-2017 `pax` ("ustar Interchange Format", "pax Extended Header"), the GNU tar manual's
appendix "Tar Internals" (types L, K, S; the four forms of sparse files; base-256 numbers) and
star(5) for the keywords `SCHILY.*`. What is tolerated is what GNU tar and libarchive tolerate.
No I/O of its own: blocks come from a `read` that is handed in. Nothing is believed: what a header
claims of its own extensions is bounded before it is read. Whatever is wrong is an ArchiveError.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes
from zlib import adler32

from pybak.entries import FILE, FOLDER, HARD_LINK, LINK, UNKNOWN
from pybak.errors import ArchiveError
from pybak.formats.tar_records import ACL_KEYWORDS, BLOCK, KIND_OF_TYPE, XATTR_KEYWORD, xattr_name
from pybak.units import format_size


class Blocks(Protocol):
    """The stream that headers are read from."""

    def read(self, length: int) -> bytes:
        """Give that many bytes, fewer only at the end."""

    def unread(self, data: bytes) -> None:
        """Take back what `read` gave last."""


MAX_EXTENDED: Final = 4 << 20
"""The most bytes of extended headers, long names included, that are read for one member."""
MAX_RUNS: Final = 1_000_000
"""The most runs of data that the map of a sparse file may list."""
MAX_SIZE: Final = (1 << 63) - 1

PRECISION_PAX: Final = 1
PRECISION_HEADER: Final = 1_000_000_000

_MAX_DIGITS = 20
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
_ACLS = {keyword: name for name, keyword in ACL_KEYWORDS.items()}
_LIBARCHIVE = b"LIBARCHIVE.xattr."
_GLOBAL_KEYS = frozenset(
    {b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid", b"uname", b"gname"}
)
_TIME = re.compile(rb"(-?)(\d{1,20})(?:\.(\d*))?")
_DECIMAL = re.compile(rb"-?\d{1,20}")
_CHECKSUM = slice(148, 156)
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


def is_header(block: bytes) -> bool:
    """Whether a block's checksum fits, so that it is a header of some tar."""
    said = _octal(block[_CHECKSUM])
    if said is None:
        return False
    # Adler-32 sums up ten times as fast as Python; it begins with 1 and counts modulo 65521.
    plain = (adler32(block) & 0xFFFF) - 1 - sum(block[_CHECKSUM]) + 8 * 0x20
    if not (said - plain) % 65521:
        return True
    # Old programs added up signed bytes.
    large = sum(byte > 127 for byte in block[: _CHECKSUM.start] + block[_CHECKSUM.stop :])
    return not (said - plain + 256 * large) % 65521


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
            self._extend(flag, _size(block))

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
                if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
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
        size = self._number(b"size", _size(block))
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
            device = (_lenient(block[329:337]), _lenient(block[337:345]))
            if not all(0 <= number <= 0xFFFFFFFF for number in device):
                self._fault = self._fault or "is a device of impossible numbers"
        if b"\0" in name or (link is not None and b"\0" in link):
            self._fault = self._fault or "has a name with a NUL byte"
        return Entry(
            self._head, data, end, flag, kind, name.rstrip(b"/") if kind == FOLDER else name,
            link, real_size, content, _lenient(block[100:108]) & 0o7777,
            self._number(b"uid", _lenient(block[108:116])),
            self._number(b"gid", _lenient(block[116:124])),
            self._told(b"uname") or _owner_name(block, 265),
            self._told(b"gname") or _owner_name(block, 297),
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
        name = _text(block[:100])
        if block[257:263] == b"ustar\0":
            # star keeps times behind a prefix that is shorter.
            end = 476 if block[508:512] == b"tar\0" else 500
            prefix = _text(block[345:end])
            if prefix:
                return prefix + b"/" + name
        return name

    def _link(self, block: bytes) -> bytes | None:
        if block[156:157] not in (b"1", b"2"):
            return None
        told = self._told(b"linkpath")
        if told:
            return told
        return self._long.get(_LONG_LINK) or _text(block[157:257])

    def _mtime(self, block: bytes) -> tuple[int, int]:
        told = _TIME.fullmatch(self._told(b"mtime") or b"")
        if told and int(told[2]) < _MAX_MTIME:
            fraction = ((told[3] or b"") + b"000000000")[:9]
            nanos = int(told[2]) * _BILLION + int(fraction)
            return -nanos if told[1] else nanos, PRECISION_PAX
        seconds = _lenient(block[136:148])
        seconds = max(min(seconds, _MAX_MTIME), -_MAX_MTIME)
        return seconds * _BILLION, PRECISION_HEADER

    # -- sparse files

    def _sparse(
        self, block: bytes, flag: bytes, size: int
    ) -> tuple[int, list[tuple[int, int]] | None, int]:
        """Give the file's size, its map of data, and the bytes that follow the headers and the map.

        Raises ValueError for a map that can't be.
        """
        if flag == _SPARSE:
            real_size = _octal(block[483:495])
            if real_size is None:
                raise ValueError("no size")
            runs = self._gnu_runs(block)
            return real_size, _checked(runs, real_size, size), size
        if self._local.get(b"GNU.sparse.major") == b"1":
            real_size = self._decimal(b"GNU.sparse.realsize")
            self._body = self._at
            runs = self._map_runs(size)
            content = size - (self._at - self._body)
            return real_size, _checked(runs, real_size, content), content
        if b"GNU.sparse.map" in self._local:
            numbers = self._local[b"GNU.sparse.map"].split(b",")
            if numbers == [b""]:
                numbers = []
        elif b"GNU.sparse.size" in self._local:
            numbers = self._paired_runs()
        else:
            return size, None, size
        key = b"GNU.sparse.size" if b"GNU.sparse.size" in self._local else b"GNU.sparse.realsize"
        real_size = self._decimal(key)
        if len(numbers) % 2 or len(numbers) > 2 * MAX_RUNS:
            raise ValueError("it has an odd number of entries")
        values = [_count(number) for number in numbers]
        runs = list(zip(values[::2], values[1::2], strict=True))
        return real_size, _checked(runs, real_size, size), size

    def _paired_runs(self) -> list[bytes]:
        for number, (key, _) in enumerate(self._runs):
            if key != (b"GNU.sparse.offset", b"GNU.sparse.numbytes")[number % 2]:
                raise ValueError("its entries come in no order")
        return [value for _, value in self._runs]

    def _decimal(self, key: bytes) -> int:
        return _count(self._local.get(key, b""))

    def _gnu_runs(self, block: bytes) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        fields, more = block[386:482], block[482]
        is_bad = False
        while True:
            for at in range(0, len(fields), 24):
                if not fields[at]:
                    break
                offset, length = _octal(fields[at : at + 12]), _octal(fields[at + 12 : at + 24])
                if offset is None or length is None:
                    is_bad = True  # the blocks that go on with it must be read all the same
                    break
                runs.append((offset, length))
            if not more:
                break
            if len(runs) > MAX_RUNS or self._at - self._head > 32 * MAX_RUNS:
                raise ArchiveError("holds a sparse file with an endless map")
            extension = self._exactly(BLOCK)
            fields, more = extension[:504], extension[504]
        if is_bad:
            raise ValueError("an entry is no number")
        return runs

    def _map_runs(self, size: int) -> list[tuple[int, int]]:
        """Read the map of GNU.sparse 1.0: decimal numbers, a line each, in blocks of their own."""
        start = self._at
        text = b""
        numbers: list[int] = []
        wanted = 1
        while len(numbers) < wanted:
            if self._at - start >= size:
                raise ValueError("it does not end")
            text += self._exactly(BLOCK)
            *lines, text = text.split(b"\n")
            for line in lines:
                if len(numbers) < wanted:
                    numbers.append(_count(line))
                    if len(numbers) == 1:
                        if numbers[0] > MAX_RUNS:
                            raise ValueError("it is endless")
                        wanted += 2 * numbers[0]
            if len(numbers) < wanted and len(text) > _MAX_DIGITS:
                raise ValueError("an entry is no number")
        return list(zip(numbers[1::2], numbers[2::2], strict=True))


def _checked(runs: list[tuple[int, int]], real_size: int, content: int) -> list[tuple[int, int]]:
    """Give the runs that hold something; raise ValueError unless they fit file and content."""
    end = 0
    for offset, length in runs:
        if offset < end:
            raise ValueError("its runs overlap")
        end = offset + length
    if end > real_size:
        raise ValueError("it goes beyond the file's end")
    runs = [run for run in runs if run[1]]
    if sum(length for _, length in runs) != content:
        raise ValueError("it does not fit the content")
    return runs


def is_attribute(key: bytes) -> bool:
    """Whether a record of an extended header is an extended attribute or an ACL."""
    return key.startswith((XATTR_KEYWORD, _LIBARCHIVE)) or key in _ACLS


def attribute(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Give an attribute's name and value as the system knows them.

    Raises ArchiveError for an ACL that can't be read or names somebody unknown here.
    """
    if key in _ACLS:
        from pybak.attributes import acl_from_text

        return _ACLS[key], acl_from_text(value)
    if key.startswith(_LIBARCHIVE):
        name = unquote_to_bytes(key.removeprefix(_LIBARCHIVE))
        try:
            return name, b64decode(value + b"=" * (-len(value) % 4))
        except ValueError as error:
            raise ArchiveError(f"an attribute is damaged ({error})") from error
    return xattr_name(key), value


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _owner_name(block: bytes, at: int) -> bytes:
    return _text(block[at : at + 32]) if block[257:262] == b"ustar" else b""


def _count(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise ValueError("an entry is no number")
    return int(digits)


def _octal(field: bytes) -> int | None:
    """Read a number: octal digits between blanks, or base 256; None if it is neither."""
    if field[:1] and field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:]) if field[0] < 0xC0 else None
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0 if not field.strip(b" \0") else None
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:
        return None


def _lenient(field: bytes) -> int:
    """Read a number that may be negative, or be no number, which counts as 0."""
    if field[:1] and field[0] & 0xC0 == 0xC0:
        return int.from_bytes(field, signed=True)
    return _octal(field) or 0


def _size(block: bytes) -> int:
    size = _octal(block[124:136])
    if size is None or size > MAX_SIZE:
        raise ArchiveError("holds a member of an impossible size")
    return size
