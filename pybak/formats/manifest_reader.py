"""The manifest of an archive read back, whatever the format of the archive.

Lines are decoded a block at a time. Nothing is believed: lines, their length, their number and
what they list are bounded by what the archive can hold (`Bounds`), and the last line must count all
others. Every failure is an ArchiveError. What the lines mean is written in
`pybak.formats.manifest`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Generic, NamedTuple, TypeVar

import msgspec
from isal import igzip_lib, isal_zlib

from pybak.errors import ArchiveError
from pybak.formats.manifest import VERSION, Part, Size

_BLOCK: Final = 1 << 20
_MAX_LINE: Final = 16 << 20
"""The map of a sparse file or the pieces of a batch can be this long; names are far shorter."""
_MAX_NAME: Final = 64 << 10
_MAX_ID_DIGITS: Final = 10
_SMALLEST_PIECE: Final = 8
"""Bytes that a piece takes in the archive at least, in any format."""

_Mode = Annotated[int, msgspec.Meta(ge=0, le=0o177777)]
_Number32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
_Piece = tuple[Size, Size, _Number32]


class Fact(msgspec.Struct, frozen=True, gc=False):
    """A line as far as restore and verify need it.

    A member's has `path`; `pieces` stand on a line of their own, before the members that lie in
    them; the last line has neither.
    """

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
    changed: bool = False
    device: tuple[_Number32, _Number32] | None = None
    at: tuple[Size, Size] | None = None
    sparse: list[tuple[Size, Size]] | None = None
    holes: bool = False
    pieces: list[_Piece] | None = None
    members: Size | None = None
    users: dict[str, str] = {}
    groups: dict[str, str] = {}
    volume_starts: list[_Number32] = []

    @property
    def name(self) -> bytes:
        """The member's name as bytes."""
        return (self.path or "").encode("utf-8", "surrogateescape")


class FullFact(Fact, frozen=True, gc=False):
    """A line with all that `pybak.formats.manifest.Record` writes."""

    ctime_ns: int = 0
    inode: int = 0


class Head(msgspec.Struct, frozen=True):
    """The first line: which run made the archive, from what; as `pybak.formats.manifest.Header`."""

    pybak_manifest: int
    run_id: str = ""
    job: str = ""
    mode: str = ""
    format: str = ""
    created: str = ""
    sources: list[str] = []
    program: str = ""
    split: int | None = None


class _Version(msgspec.Struct):
    pybak_manifest: int


_Line = TypeVar("_Line", bound=Fact)


class Manifest(Generic[_Line]):
    """A manifest in memory.

    `lines` are members and pieces in the archive's order, `members` says how many of them are
    members; `users` and `groups` say what owner ids meant, `volume_starts` how volumes begin.
    """

    def __init__(self, head: Head, lines: list[_Line], last: _Line) -> None:
        self.head = head
        self.lines = lines
        self.members = last.members or 0
        self.users = _by_id(last.users)
        self.groups = _by_id(last.groups)
        self.volume_starts = last.volume_starts

    def by_name(self) -> dict[bytes, _Line]:
        """Give the members by name, in order. Raises ArchiveError if a name comes twice."""
        facts = {line.name: line for line in self.lines if line.path is not None}
        if len(facts) != self.members:
            raise ArchiveError("the manifest lists a member twice; the archive is damaged")
        return facts


class Bounds(NamedTuple):
    """How much a manifest may say, told by the archive that it is of.

    `members` is how many the archive can hold at most, `size` its bytes; `has_pieces` is whether
    its format has pieces at all.
    """

    members: int
    size: int
    has_pieces: bool = True

    @property
    def text(self) -> int:
        """Bytes that the lines may have in all: honest ones have 200 and a name each."""
        return (16 << 20) + 512 * self.members + 64 * self.size

    @property
    def line(self) -> int:
        """Bytes that a line may have: two names, or lists that say something of the archive."""
        return min((1 << 20) + 16 * self.size, _MAX_LINE)

    @property
    def pieces(self) -> int:
        """How many pieces there may be."""
        return self.size // _SMALLEST_PIECE + 1 if self.has_pieces else 0

    @property
    def entries(self) -> int:
        """How many runs and parts of files there may be; each takes some bytes to be told."""
        return 100_000 + self.size


def read_manifest(packed: Iterable[bytes], bounds: Bounds) -> Manifest[Fact]:
    """Read a manifest from the content of its member, given in chunks of any size.

    Raises ArchiveError if the manifest is damaged, says more than `bounds` allow, or is of a later
    version.
    """
    return _read(packed, bounds, Fact)


def read_whole_manifest(data: bytes) -> Manifest[FullFact]:
    """Read all fields of a manifest that is trusted to be of bearable size; else as above."""
    return _read([data], Bounds(len(data) * 1000, len(data) * 1000), FullFact)


def _by_id(names: dict[str, str]) -> dict[int, str]:
    return {
        int(number): name
        for number, name in names.items()
        if number.isdecimal() and len(number) <= _MAX_ID_DIGITS
    }


class _Count:
    """What the lines so far list, compared with what they may."""

    def __init__(self, bounds: Bounds) -> None:
        self.members = 0
        self._bounds = bounds
        self._lines = self._pieces = self._entries = 0

    def add(self, line: Fact) -> None:
        """Count a line. Raises ArchiveError for a name that is longer than any system takes."""
        self._lines += 1
        if line.path is not None:
            self.members += 1
            self._entries += len(line.parts) + len(line.sparse or ())
            if max(len(line.path), len(line.link or "")) > _MAX_NAME:
                raise ArchiveError("the manifest holds an endless name; it is damaged")
        else:
            self._pieces += len(line.pieces or ())
            if not self._bounds.has_pieces:
                raise ArchiveError("the manifest lists pieces, which a ZIP has not; it is damaged")

    def check(self) -> None:
        """Raise ArchiveError if there are more than the archive can hold."""
        bounds = self._bounds
        if (
            self.members > bounds.members
            or self._lines > 2 * bounds.members + 1000
            or self._pieces > bounds.pieces
            or self._entries > bounds.entries
        ):
            raise ArchiveError("the manifest lists far more than the archive holds; it is damaged")


def _read(packed: Iterable[bytes], bounds: Bounds, kind: type[_Line]) -> Manifest[_Line]:
    blocks = _blocks(packed, bounds)
    head, rest = _head(next(blocks, b""))
    decoder = msgspec.json.Decoder(kind)
    found: list[_Line] = []
    count = _Count(bounds)
    last: _Line | None = None
    for block in _chain(rest, blocks):
        for line in _decode(decoder, block, kind):
            if last is not None:
                raise ArchiveError("the manifest goes on behind its last line; it is damaged")
            if line.path is None and line.pieces is None:
                last = line
                continue
            count.add(line)
            found.append(line)
        count.check()
    if last is None:
        raise ArchiveError("the manifest ends before its last line; the archive is damaged")
    if last.members != count.members:
        raise ArchiveError(
            f"the manifest lists {count.members} members, its last line says {last.members}; "
            "the archive is damaged"
        )
    return Manifest(head, found, last)


def _chain(rest: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    if rest:
        yield rest
    yield from blocks


def _head(block: bytes) -> tuple[Head, bytes]:
    first, _, rest = block.partition(b"\n")
    try:
        # Sources may have names that are no UTF-8, which only the json module reads.
        line = json.loads(first)
        version = msgspec.convert(line, _Version).pybak_manifest
    except (ValueError, RecursionError) as error:
        raise ArchiveError("the manifest has no header line; the archive is damaged") from error
    if version > VERSION:
        raise ArchiveError(
            f"the manifest is of version {version}, this PyBak reads up to {VERSION}; "
            "update PyBak, or unpack with any other tool"
        )
    try:
        return msgspec.convert(line, Head), rest
    except (msgspec.ValidationError, RecursionError) as error:
        message = f"the manifest has a header line that is none ({error}); it is damaged"
        raise ArchiveError(message) from error


def _blocks(packed: Iterable[bytes], bounds: Bounds) -> Iterator[bytes]:
    """Yield the text of all gzip members in `packed` in blocks of whole lines."""
    rest = b""
    left = bounds.text
    for block in _inflate(packed):
        left -= len(block)
        if left < 0:
            raise ArchiveError("the manifest says far more than the archive holds; it is damaged")
        whole, newline, tail = block.rpartition(b"\n")
        if newline:
            yield b"%b%b\n" % (rest, whole)
            rest = tail
        else:
            rest += tail
        if len(rest) > bounds.line:
            raise ArchiveError("the manifest holds an endless line; it is damaged")
    if rest:
        raise ArchiveError("the manifest is cut short; the archive is damaged")


def _inflate(packed: Iterable[bytes]) -> Iterator[bytes]:
    """Unpack gzip members laid end to end, at most _BLOCK bytes at once."""
    inflater: igzip_lib.IgzipDecompressor | None = None
    try:
        for chunk in packed:
            data = chunk
            while data or (inflater and not inflater.needs_input):
                if inflater is None:
                    inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
                made = inflater.decompress(data, _BLOCK)
                data = b""
                if inflater.eof:
                    data = inflater.unused_data
                    inflater = None
                if made:
                    yield made
    except (isal_zlib.error, EOFError, ValueError) as error:  # type: ignore[misc]
        message = f"the manifest can't be read ({error}); the archive is damaged"
        raise ArchiveError(message) from error
    if inflater is not None:
        raise ArchiveError("the manifest is cut short; the archive is damaged")


def _decode(decoder: msgspec.json.Decoder[_Line], text: bytes, kind: type[_Line]) -> list[_Line]:
    """Decode lines of JSON. msgspec refuses surrogate escapes; the json module takes them."""
    try:
        if b"\\ud" not in text:
            return decoder.decode_lines(text)
        return [
            _decode_escapes(line, kind) if b"\\ud" in line else decoder.decode(line)
            for line in text.split(b"\n")
            if line
        ]
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        message = f"the manifest holds a line that is none ({error}); it is damaged"
        raise ArchiveError(message) from error


def _decode_escapes(line: bytes, kind: type[_Line]) -> _Line:
    """Decode a line with surrogate escapes; raise ValueError where they stand for no byte."""
    fact = msgspec.convert(json.loads(line), kind)
    for digest in (fact.sha256, *(part.sha256 for part in fact.parts)):
        if digest is not None:
            digest.encode("ascii")
    for text in (fact.path, fact.link):
        if text is not None:
            text.encode("utf-8", "surrogateescape")
    return fact
