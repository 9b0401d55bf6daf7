"""What a manifest tells about each member, ready to be looked up by name.

The same lines as `pybak.formats.manifest` reads, decoded a block at a time and about four times as
fast; memory is bounded by how many members the archive has, whatever the manifest claims.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from isal import igzip, isal_zlib

from pybak.errors import ArchiveError
from pybak.formats.manifest import MEMBER_NAME, VERSION, Part, Size
from pybak.formats.zip_reader import Directory, ZipFile

_BLOCK: Final = 1 << 20
_MAX_LINE: Final = 1 << 20  # a name of 64 KiB, each byte as `\\udcXX`, and a link as long
_MAX_PACKED: Final = 2 << 30

_Mode = Annotated[int, msgspec.Meta(ge=0, le=0o177777)]


class Fact(msgspec.Struct, frozen=True, gc=False):
    """A manifest line as far as restore and verify need it; `path` is None on the last one."""

    path: str | None = None
    type: str = ""
    size: Size = 0
    mtime_ns: int = 0
    mode: _Mode = 0
    uid: int = -1
    gid: int = -1
    sha256: str | None = None
    parts: list[Part] = []
    link: str | None = None
    members: int | None = None


class _Head(msgspec.Struct, frozen=True):
    pybak_manifest: int


def find_manifest(directory: Directory) -> int | None:
    """Give the index of the manifest among the members, or None in archives of other tools."""
    members = directory.members
    for index in range(len(members) - 1, -1, -1):
        if members[index].name == MEMBER_NAME:
            return index
    return None


def read_facts(archive: ZipFile, directory: Directory, index: int) -> dict[bytes, Fact]:
    """Read the manifest at `index` and give its lines by member name, without slashes at the end.

    Raises ArchiveError if the manifest is damaged, lists a name twice, or is of a later version.
    """
    member = directory.members[index]
    if index in directory.clashes or member.stored_size > _MAX_PACKED:
        raise ArchiveError(f"{archive.label}: the manifest is damaged")
    packed = b"".join(archive.chunks(member, directory.limits[index]))
    try:
        return _collect(packed, 2 * len(directory.members) + 1000)
    except ArchiveError as error:
        raise ArchiveError(f"{archive.label}: {error}") from error


def _collect(packed: bytes, max_lines: int) -> dict[bytes, Fact]:
    lines = _facts(_blocks(packed))
    facts: dict[bytes, Fact] = {}
    for count, line in enumerate(lines):
        if line.path is None:
            if line.members != count or next(lines, None) is not None:
                break
            if len(facts) != count:
                raise ArchiveError("the manifest lists a member twice; the archive is damaged")
            return facts
        if count >= max_lines:
            raise ArchiveError("the manifest lists far more than the archive holds; it is damaged")
        try:
            facts[line.path.encode("utf-8", "surrogateescape")] = line
        except UnicodeEncodeError as error:
            raise ArchiveError("the manifest holds a name that is none; it is damaged") from error
    raise ArchiveError("the manifest does not end as it should; the archive is damaged")


def _facts(blocks: Iterator[bytes]) -> Iterator[Fact]:
    """Check the header line and yield what all others say."""
    decoder = msgspec.json.Decoder(Fact)
    first, _, rest = next(blocks, b"").partition(b"\n")
    try:
        # Sources may have names that are no UTF-8, which only the json module reads.
        version = msgspec.convert(json.loads(first), _Head).pybak_manifest
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise ArchiveError("the manifest has no header line; the archive is damaged") from error
    if version > VERSION:
        raise ArchiveError(
            f"the manifest is of version {version}, this PyBak reads up to {VERSION}; "
            "update PyBak, or unpack with any ZIP tool"
        )
    if rest:
        yield from _decode(decoder, rest)
    for block in blocks:
        yield from _decode(decoder, block)


def _blocks(packed: bytes) -> Iterator[bytes]:
    """Yield the text of all gzip members in `packed` in blocks of whole lines."""
    rest = b""
    try:
        with igzip.IGzipFile(fileobj=io.BytesIO(packed)) as text:  # type: ignore[no-untyped-call]
            while block := text.read(_BLOCK):
                whole, newline, tail = block.rpartition(b"\n")
                if newline:
                    yield rest + whole
                    rest = tail
                else:
                    rest += tail
                if len(rest) > _MAX_LINE:
                    raise ArchiveError("the manifest holds an endless line; it is damaged")
    except (OSError, EOFError, ValueError, isal_zlib.error) as error:  # type: ignore[misc]
        message = f"the manifest can't be read ({error}); the archive is damaged"
        raise ArchiveError(message) from error
    if rest:
        raise ArchiveError("the manifest is cut short; the archive is damaged")


def _decode(decoder: msgspec.json.Decoder[Fact], text: bytes) -> list[Fact]:
    """Decode lines of JSON. msgspec refuses surrogate escapes; the json module takes them."""
    try:
        if b"\\ud" not in text:
            return decoder.decode_lines(text)
        return [
            _decode_escapes(line) if b"\\ud" in line else decoder.decode(line)
            for line in text.split(b"\n")
        ]
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        message = f"the manifest holds a line that is none ({error}); it is damaged"
        raise ArchiveError(message) from error


def _decode_escapes(line: bytes) -> Fact:
    """Decode a line with surrogate escapes; raise ValueError where they stand for no byte."""
    fact = msgspec.convert(json.loads(line), Fact)
    for digest in (fact.sha256, *(part.sha256 for part in fact.parts)):
        if digest is not None:
            digest.encode("ascii")
    if fact.link is not None:
        fact.link.encode("utf-8", "surrogateescape")
    return fact
