"""The records that a tar archive is made of, as bytes.

Header blocks and extended headers follow POSIX.1-2017, `pax`, "ustar Interchange Format" and "pax
Extended Header"; the types L and K, base-256 numbers and sparse files (GNU.sparse 1.0) the GNU tar
manual, appendix "Tar Internals"; keywords `SCHILY.*` star(5). Which of several ways a thing is
told was chosen by what programs read back (docs/formats.md). No I/O: values in, bytes out.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

from pybak.attributes import ACL_ACCESS, ACL_DEFAULT, acl_to_text
from pybak.entries import BLOCK_DEVICE, CHAR_DEVICE, FIFO, FILE, FOLDER, HARD_LINK, LINK
from pybak.errors import ArchiveError

BLOCK: Final = 512
"""Headers and contents are padded to this many bytes."""

END_BLOCKS: Final = bytes(2 * BLOCK)
"""What ends a tar archive."""

MAX_EXTENDED: Final = 1 << 20
"""libarchive gives up on an archive that has an extended header of more bytes than this."""

KIND_OF_TYPE: Final[Mapping[bytes, str]] = MappingProxyType(
    {
        b"0": FILE,
        b"1": HARD_LINK,
        b"2": LINK,
        b"3": CHAR_DEVICE,
        b"4": BLOCK_DEVICE,
        b"5": FOLDER,
        b"6": FIFO,
    }
)
"""The typeflags of members, without those that only extend what follows."""

XATTR_KEYWORD: Final = b"SCHILY.xattr."
ACL_KEYWORDS: Final[Mapping[bytes, bytes]] = MappingProxyType(
    {ACL_ACCESS: b"SCHILY.acl.access", ACL_DEFAULT: b"SCHILY.acl.default"}
)

_TYPES = {kind: flag for flag, kind in KIND_OF_TYPE.items()}
_NAME_BYTES = 100
_PREFIX_BYTES = 155
_OWNER_BYTES = 31  # and a NUL
_MAX_OCTAL7 = 8**7 - 1
_MAX_OCTAL11 = 8**11 - 1
_MAX32 = 0xFFFFFFFF
_NS = 1_000_000_000
_LATEST_NS = 2**62 * _NS  # Python's tarfile can't handle 2^63 - 1 seconds, which tmpfs can hold
_TEN_DIGITS = 1_000_000_000 * _NS
_SPARSE_FOLDER = b"GNUSparseFile.0/"
_NO_ATTRIBUTES: Mapping[bytes, bytes] = MappingProxyType({})


def member_header(
    name: bytes,
    kind: str,
    *,
    mode: int,
    uid: int,
    gid: int,
    mtime_ns: int,
    size: int = 0,
    user: bytes = b"",
    group: bytes = b"",
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    attributes: Mapping[bytes, bytes] = _NO_ATTRIBUTES,
    data_map: Sequence[tuple[int, int]] | None = None,
) -> bytes:
    """Give all blocks that stand before a member's content: a multiple of 512 bytes.

    `kind` is one of `pybak.entries`; KeyError for sockets, which have no place here. `name` is in
    the file system's bytes, without the slash that ends a folder's; a folder's may be empty.
    `size` counts for files only. Of a sparse one, told by `data_map`, it is the size on disk, and
    the content is `sparse_map_block` and then the data. `link` is a symbolic link's target, or
    the member name that a hard link stands for. `attributes` are extended attributes and ACLs, as
    `attributes_that_fit` lets them through. Owner numbers are taken modulo 2^32; any time will do.
    """
    if kind == FOLDER:
        name = name + b"/" if name else b"./"
    if kind != FILE:
        size = 0
    seconds, nanoseconds = divmod(mtime_ns, _NS)
    before = prefix = b""
    if (
        len(name) > _NAME_BYTES
        or len(link) > _NAME_BYTES
        or len(user) > _OWNER_BYTES
        or len(group) > _OWNER_BYTES
        or attributes
        or data_map is not None
    ):
        before, name, prefix, link, user, group, size = _extended(
            name, mtime_ns, size, user, group, link, attributes, data_map
        )
    elif nanoseconds or not 0 <= seconds <= _MAX_OCTAL11:
        before = _extension(b"x", _time_record(mtime_ns))
    if not 0 <= seconds <= _MAX_OCTAL11:
        seconds = min(max(seconds, 0), _MAX_OCTAL11)
    if size <= _MAX_OCTAL11:
        head = b"%b%b%011o\0%011o\0" % (
            name.ljust(_NAME_BYTES, b"\0"), _mode_owner(mode, uid, gid), size, seconds,
        )  # fmt: skip
    else:
        head = b"%b%b%b%011o\0" % (
            name.ljust(_NAME_BYTES, b"\0"), _mode_owner(mode, uid, gid), _number(size, 12), seconds,
        )  # fmt: skip
    tail, tail_sum = _tail(_TYPES[kind], link, user, group, device, prefix)
    # Adler-32 begins with 1 and counts modulo 65521, which 148 bytes can't reach.
    checksum = (zlib.adler32(head) & 0xFFFF) - 1 + tail_sum
    return b"%b%b%06o\0 %b" % (before, head, checksum, tail)


def padding(size: int) -> bytes:
    """Give the zeros behind a content of `size` bytes in the archive."""
    return bytes(-size % BLOCK)


def sparse_map_block(data_map: Sequence[tuple[int, int]], size: int) -> bytes:
    """Give what begins the content of a sparse file of `size` bytes: where it has data.

    `data_map` lists (offset, length) in order. Offsets are multiples of 512, and so are lengths,
    but for a run that ends with the file: else GNU tar misreads this member and those behind it,
    so it is a ValueError. A multiple of 512 bytes.
    """
    end = 0
    for offset, length in data_map:
        odd = offset % BLOCK or (length % BLOCK and offset + length != size)
        if odd or offset < end or length <= 0 or offset + length > size:
            raise ValueError(f"({offset}, {length}) has no place in the map of {size} bytes")
        end = offset + length
    lines = [b"%d" % (len(data_map) + 1)]
    lines += [b"%d\n%d" % run for run in (*data_map, (size, 0))]
    text = b"\n".join(lines) + b"\n"
    return text + padding(len(text))


def attributes_that_fit(
    attributes: Mapping[bytes, bytes],
) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Part attributes into those that a header can hold and the names of those left out.

    The smaller ones go first, up to `MAX_EXTENDED` with some room for the rest of the header.
    """
    room = MAX_EXTENDED - (64 << 10)
    kept: dict[bytes, bytes] = {}
    left_out: list[bytes] = []
    for name, value in sorted(attributes.items(), key=lambda item: len(item[1])):
        room -= len(_attribute_record(name, value))
        if room < 0:
            left_out.append(name)
        else:
            kept[name] = value
    return kept, left_out


def xattr_name(keyword: bytes) -> bytes:
    """Give the attribute that a keyword `SCHILY.xattr.…` stands for.

    As GNU tar writes them, `=` and `%` in its name are `%3D` and `%25`.
    """
    name = keyword.removeprefix(XATTR_KEYWORD)
    return name.replace(b"%3D", b"=").replace(b"%25", b"%")


class _Extended(NamedTuple):
    before: bytes
    name: bytes
    prefix: bytes
    link: bytes
    user: bytes
    group: bytes
    size: int


def _extended(
    name: bytes,
    mtime_ns: int,
    size: int,
    user: bytes,
    group: bytes,
    link: bytes,
    attributes: Mapping[bytes, bytes],
    data_map: Sequence[tuple[int, int]] | None,
) -> _Extended:
    """Give the blocks before a header that can't hold everything, and the fields it gets."""
    records: list[bytes] = []
    longs: list[bytes] = []
    sparse_name = b""
    seconds, nanoseconds = divmod(mtime_ns, _NS)
    if nanoseconds or not 0 <= seconds <= _MAX_OCTAL11:
        records.append(_time_record(mtime_ns))
    if data_map is not None:
        block = sparse_map_block(data_map, size)
        records += (
            _record(b"GNU.sparse.major", b"1"),
            _record(b"GNU.sparse.minor", b"0"),
            _record(b"GNU.sparse.realsize", b"%d" % size),
        )
        size = len(block) + sum(length for _, length in data_map)
        if _is_plain_utf8(name):
            sparse_name = _record(b"GNU.sparse.name", name)
            folder, slash, base = name.rpartition(b"/")
            name = folder + slash + _SPARSE_FOLDER + base
    name, prefix = _placed(name, b"path", b"L", records, longs)
    link, _ = _placed(link, b"linkpath", b"K", records, longs)
    user = _placed_owner(user, b"uname", records)
    group = _placed_owner(group, b"gname", records)
    records.append(sparse_name)  # behind `path`: to Python's tarfile the last one counts
    records += [_attribute_record(*item) for item in attributes.items()]
    told = b"".join(records)
    before = _extension(b"x", told) if told else b""
    return _Extended(before + b"".join(longs), name, prefix, link, user, group, size)


def _placed(
    path: bytes, keyword: bytes, flag: bytes, records: list[bytes], longs: list[bytes]
) -> tuple[bytes, bytes]:
    """Give what goes into the name and the prefix field; tell the path elsewhere if it must be."""
    if len(path) <= _NAME_BYTES:
        return path, b""
    if flag == b"L":
        # The slash to split at: neither the first byte nor the last.
        longest = min(_PREFIX_BYTES + 1, len(path) - 1)
        at = path.find(b"/", max(1, len(path) - _NAME_BYTES - 1), longest)
        if at > 0:
            return path[at + 1 :], path[:at]
    if _is_plain_utf8(path):
        records.append(_record(keyword, path))
    else:
        longs.append(_extension(flag, path + b"\0"))
    return path[:_NAME_BYTES].rstrip(b"/"), b""


def _placed_owner(owner: bytes, keyword: bytes, records: list[bytes]) -> bytes:
    """Give what goes into the field; a cut name would be somebody else's."""
    if len(owner) <= _OWNER_BYTES:
        return owner
    if _is_plain_utf8(owner):
        records.append(_record(keyword, owner))
    return b""


def _is_plain_utf8(text: bytes) -> bool:
    """Whether an extended header can hold this: composed UTF-8, for libarchive composes it."""
    try:
        return text.isascii() or unicodedata.is_normalized("NFC", text.decode())
    except UnicodeDecodeError:
        return False


def _attribute_record(name: bytes, value: bytes) -> bytes:
    if keyword := ACL_KEYWORDS.get(name):
        try:
            return _record(keyword, acl_to_text(value))
        except ArchiveError:
            pass  # no ACL that we know; as it is then
    name = name.replace(b"%", b"%25").replace(b"=", b"%3D")
    return _record(XATTR_KEYWORD + name, value)


def _time_record(mtime_ns: int) -> bytes:
    """Give the record of a time; decimal, so -0.5 s is `-0.5`."""
    if _TEN_DIGITS <= mtime_ns < 10 * _TEN_DIGITS:  # the years 2001 to 2286, in half the time
        return b"30 mtime=%d.%09d\n" % divmod(mtime_ns, _NS)
    seconds, nanoseconds = divmod(min(abs(mtime_ns), _LATEST_NS), _NS)
    sign = b"-" if mtime_ns < 0 else b""
    if nanoseconds:
        return _record(b"mtime", b"%b%d.%09d" % (sign, seconds, nanoseconds))
    return _record(b"mtime", b"%b%d" % (sign, seconds))


def _record(keyword: bytes, value: bytes) -> bytes:
    """Give a record: `LENGTH KEYWORD=VALUE` and a newline; the length counts itself."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %b=%b\n" % (length, keyword, value)


def _extension(flag: bytes, body: bytes) -> bytes:
    """Give a member of a type that extends the next one."""
    size = len(body)
    return _extension_header(flag, size) + body.ljust(size + -size % BLOCK, b"\0")


@lru_cache(maxsize=1024)
def _extension_header(flag: bytes, size: int) -> bytes:
    name = b"././@PaxHeader" if flag == b"x" else b"././@LongLink"
    owner, length = _mode_owner(0o644, 0, 0), _number(size, 12)
    head = b"%b%b%b%011o\0" % (name.ljust(_NAME_BYTES, b"\0"), owner, length, 0)
    tail, tail_sum = _tail(flag, b"", b"", b"", (0, 0), b"")
    return b"%b%06o\0 %b" % (head, sum(head) + tail_sum, tail)


def _number(value: int, width: int) -> bytes:
    """Give a number in octal, or where that is too short in base 256."""
    if value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return b"\x80" + value.to_bytes(width - 1, "big")


@lru_cache(maxsize=1024)
def _mode_owner(mode: int, uid: int, gid: int) -> bytes:
    return b"%07o\0%b%b" % (mode & 0o7777, _number(uid & _MAX32, 8), _number(gid & _MAX32, 8))


@lru_cache(maxsize=1024)
def _tail(
    flag: bytes, link: bytes, user: bytes, group: bytes, device: tuple[int, int], prefix: bytes
) -> tuple[bytes, int]:
    """Give a header from the typeflag on, and the sum of its bytes and of the checksum's blanks."""
    major, minor = device
    tail = b"%b%bustar\x0000%b%b%b%b%b" % (
        flag,
        link.ljust(_NAME_BYTES, b"\0"),
        user.ljust(32, b"\0"),
        group.ljust(32, b"\0"),
        _number(major & _MAX32, 8),
        _number(minor & _MAX32, 8),
        prefix.ljust(_PREFIX_BYTES + 12, b"\0"),
    )
    return tail, sum(tail) + 8 * 0x20
