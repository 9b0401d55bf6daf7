r"""The file list inside an archive: what the archive's own directory can't tell.

A manifest is the archive's last member, `.pybak/manifest.jsonl.gz`: JSON lines in gzip members
laid end to end. The first line describes the run (`Header`), then one line a member (`Record`),
and the last one closes it (`Trailer`). Each batch writes its own lines as one gzip member, so
the manifest is made side by side as well.

A path is text; bytes that are not UTF-8 are surrogate escapes (PEP 383), which JSON writes as
`\udcXX`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii
from os import fsdecode
from typing import Annotated, Any, Final, TypeVar

import deflate as libdeflate
import msgspec
from isal import igzip_lib, isal_zlib

from pybak.errors import ArchiveError

MEMBER_NAME: Final = b".pybak/manifest.jsonl.gz"
VERSION: Final = 1
_GZIP_WBITS = 31
_FAST_LEVELS = (1, 2, 3)

_Line = TypeVar("_Line")

Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""Bytes of a file, or of a part of one, as far as any file system can count."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: which run made this archive, from what.

    `created` is ISO 8601 in UTC. `mode` is `full`, or names how the run relates to `base_run`.
    """

    pybak_manifest: int = VERSION
    run_id: str
    job: str
    mode: str
    format: str
    created: str
    sources: list[str]
    program: str


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A run of a large member: bytes in the file, bytes in the archive, SHA-256 of the former.

    Parts follow each other in the member's deflate stream, and each inflates on its own.
    """

    size: Size
    stored_size: Size
    sha256: str


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One member. `type` is a kind of `pybak.entries`; `sha256` is hex, of files only.

    A large file that was read by several workers has `parts` instead of `sha256`.
    `changed` marks a file whose content moved while it was read.
    """

    path: str
    type: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    mode: int
    uid: int
    gid: int
    sha256: str | None = None
    parts: list[Part] | None = None
    link: str | None = None
    changed: bool = False


class Trailer(msgspec.Struct, frozen=True, kw_only=True):
    """The last line: how many member lines came before it, and what the owner ids meant."""

    members: int
    users: dict[str, str] = msgspec.field(default_factory=dict)
    groups: dict[str, str] = msgspec.field(default_factory=dict)


def record_line(
    name: bytes,
    kind: str,
    size: int,
    mtime_ns: int,
    ctime_ns: int,
    inode: int,
    mode: int,
    uid: int,
    gid: int,
    *,
    sha256: str | None = None,
    parts: list[Part] | None = None,
    link: bytes | None = None,
    changed: bool = False,
) -> str:
    """Give one `Record` as a line of JSON, newline included.

    Put together by hand: a tenth of the time of building a struct and encoding it.
    """
    tail = f',"sha256":"{sha256}"' if sha256 is not None else ""
    if parts is not None:
        tail += f',"parts":{msgspec.json.encode(parts).decode()}'
    if link is not None:
        tail += f',"link":{encode_basestring_ascii(fsdecode(link))}'
    if changed:
        tail += ',"changed":true'
    return (
        f'{{"path":{encode_basestring_ascii(fsdecode(name))},"type":"{kind}","size":{size},'
        f'"mtime_ns":{mtime_ns},"ctime_ns":{ctime_ns},"inode":{inode},"mode":{mode},'
        f'"uid":{uid},"gid":{gid}{tail}}}\n'
    )


def file_line(
    name: bytes,
    size: int,
    mtime_ns: int,
    ctime_ns: int,
    inode: int,
    mode: int,
    uid: int,
    gid: int,
    sha256: str,
) -> str:
    """Give the line of a plain file; the same text as `record_line`, for the many small ones."""
    return (
        f'{{"path":{encode_basestring_ascii(fsdecode(name))},"type":"f","size":{size},'
        f'"mtime_ns":{mtime_ns},"ctime_ns":{ctime_ns},"inode":{inode},"mode":{mode},'
        f'"uid":{uid},"gid":{gid},"sha256":"{sha256}"}}\n'
    )


def pack_lines(lines: str, level: int = 2) -> bytes:
    """Compress lines into one gzip member without time or name, at the archive's level."""
    text = lines.encode("ascii")
    if level in _FAST_LEVELS:
        return bytes(isal_zlib.compress(text, level, _GZIP_WBITS))
    return bytes(libdeflate.gzip_compress(text, level))


def pack_line(line: Header | Trailer) -> bytes:
    """Give a header or trailer as a gzip member of its own."""
    return pack_lines(json.dumps(msgspec.to_builtins(line)) + "\n")


class Manifest(msgspec.Struct, frozen=True):
    """A manifest read back: its header and a way to walk its records."""

    header: Header
    data: bytes

    def records(self) -> Iterator[Record]:
        """Yield every record in the order of the archive.

        Raises ArchiveError where a line is not what `record_line` writes, or lines are missing.
        """
        lines = _lines(self.data)
        next(lines)
        for count, line in enumerate(lines):
            if "path" not in line:
                if line.get("members") != count:
                    raise ArchiveError(
                        f"the manifest lists {count} members, its last line says "
                        f"{line.get('members')}; the archive is damaged"
                    )
                return
            yield _convert(line, Record)
        raise ArchiveError("the manifest ends before its last line; the archive is damaged")


def read_manifest(data: bytes) -> Manifest:
    """Open a manifest from the bytes of its member.

    Raises ArchiveError if they are damaged or of a later version than this one reads.
    """
    first = next(_lines(data), {})
    version = first.get("pybak_manifest")
    if not isinstance(version, int):
        raise ArchiveError("the manifest has no header line; the archive is damaged")
    if version > VERSION:
        raise ArchiveError(
            f"the manifest is of version {version}, this PyBak reads up to {VERSION}; "
            "update PyBak, or unpack with any ZIP tool"
        )
    return Manifest(_convert(first, Header), data)


def _convert(line: dict[str, Any], kind: type[_Line]) -> _Line:
    try:
        return msgspec.convert(line, kind)
    except msgspec.ValidationError as error:
        message = f"the manifest holds a line that is no {kind.__name__}: {error}"
        raise ArchiveError(message) from error


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    """Yield the lines of all gzip members in `data`, one member in memory at a time."""
    rest = data
    while rest:
        inflate = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        try:
            text = inflate.decompress(rest)
            if not inflate.eof:
                raise ArchiveError("the manifest is cut short; the archive is damaged")
            for line in text.splitlines():
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ArchiveError("the manifest holds a line that is no object")
                yield value
        except (isal_zlib.error, ValueError) as error:  # type: ignore[misc]
            message = f"the manifest can't be read ({error}); the archive is damaged"
            raise ArchiveError(message) from error
        rest = inflate.unused_data
