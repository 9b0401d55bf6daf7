"""The manifest of an archive read back, whatever the format of the archive.

Lines are decoded a block at a time. Nothing is believed: lines, their length, their number and
what they list are bounded by what the archive can hold (`Bounds`), and the last line must count all
others. Every failure is an ArchiveError. What the lines mean is written in
`pybak.formats.manifest`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Annotated, Final, Generic, NamedTuple, TypeVar

import msgspec
from isal import igzip_lib, isal_zlib

from pybak.errors import ArchiveError
from pybak.formats.manifest import LINE_NAMES, NEWEST, Part, Reference, Size
from pybak.formats.manifest_sieve import Sieve

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
    them; so do `reference`, `gone` and `errors` behind all members; the last line has none of
    these.
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
    reference: Reference | None = None
    gone: list[str] | None = None
    errors: list[tuple[str, str, str]] | None = None
    members: Size | None = None
    # Only the last line has these. An empty one for each of all others would cost more time than
    # all else that is read.
    users: dict[str, str] | None = None
    groups: dict[str, str] | None = None
    volume_starts: list[_Number32] | None = None
    status: str = ""
    counts: dict[str, int] | None = None

    @property
    def name(self) -> bytes:
        """The member's name as bytes."""
        return _as_name(self.path or "")


class FullFact(Fact, frozen=True, gc=False):
    """A line with all that `pybak.formats.manifest.Record` writes."""

    ctime_ns: int = 0
    inode: int = 0
    dev: int | None = None


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
    seq: int | None = None
    base_run: str | None = None
    full_run: str | None = None
    bases: list[str] | None = None
    needs: list[str] | None = None
    tags: list[str] = []
    lenders: dict[str, str] = {}


class _Version(msgspec.Struct):
    pybak_manifest: int


_Line = TypeVar("_Line", bound=Fact)


class Manifest(Generic[_Line]):
    """A manifest in memory.

    `lines` are members and pieces in the archive's order, `members` says how many of them are
    members; `users` and `groups` say what owner ids meant, `volume_starts` how volumes begin.
    `references` are members whose content other archives hold. `gone` are names and `errors` path,
    code and message, where they were asked for; `status` and `counts` are how the run ended.
    """

    def __init__(
        self,
        head: Head,
        lines: list[_Line],
        last: _Line,
        references: list[Reference],
        gone: list[str],
        errors: list[tuple[str, str, str]],
    ) -> None:
        self.head = head
        self.lines = lines
        self.references = references
        self.gone = gone
        self.errors = errors
        self.status = last.status
        self.counts = last.counts or {}
        self.members = last.members or 0
        self.users = _by_id(last.users or {})
        self.groups = _by_id(last.groups or {})
        self.volume_starts = last.volume_starts or []

    def by_name(self) -> dict[bytes, _Line]:
        """Give the members by name, in order. Raises ArchiveError if a name comes twice."""
        members = [line for line in self.lines if line.path is not None]
        facts = {line.name: line for line in members}
        if len(facts) != len(members):
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


def read_manifest(
    packed: Iterable[bytes], bounds: Bounds, names: AbstractSet[bytes] | None = None
) -> Manifest[Fact]:
    """Read a manifest from the content of its member, given in chunks of any size.

    With `names` the lines of other members may be left out, to be quick (`manifest_sieve`), and
    references are.
    What is gone and what failed is left out: it is not in the archive. Raises ArchiveError if the
    manifest is damaged, says more than `bounds` allow, or is of a later version.
    """
    return _read(packed, bounds, Fact, sieve=None if names is None else Sieve(names))


def read_whole_manifest(data: bytes) -> Manifest[FullFact]:
    """Read all of a manifest that is trusted to be of bearable size; else as above."""
    return _read([data], _trusting(len(data)), FullFact, whole=True)


class Stream:
    """A manifest of our own, read line by line: what a catalog is written from.

    `head` is there at once. `status`, `counts`, `members`, and the names of owners by their ids
    (as text) in `users` and `groups` are after `lines` came to its end.
    """

    def __init__(self, packed: Iterable[bytes], size: int) -> None:
        """Read the first line of a manifest that is `size` bytes long, packed.

        This and `lines` raise ArchiveError where it is damaged.
        """
        self._blocks = _blocks(packed, _trusting(size))
        self.head, self._rest = _head(next(self._blocks, b""))
        self.status = ""
        self.counts: dict[str, int] = {}
        self.members = 0
        self.users: dict[str, str] = {}
        self.groups: dict[str, str] = {}

    def lines(self, *, pieces: bool = False) -> Iterator[FullFact]:
        """Yield the lines of members, references, of what is gone, and of errors; once.

        With `pieces` also those that list pieces, where they stand among the members'.
        """
        decoder = msgspec.json.Decoder(FullFact)
        count = 0
        last: FullFact | None = None
        for block in _chain(self._rest, self._blocks):
            for line in _decode(decoder, block, FullFact):
                if last is not None:
                    raise ArchiveError(_GOES_ON)
                if line.path is not None:
                    count += 1
                    yield line
                elif _is_last(line):
                    last = line
                elif pieces or line.pieces is None:
                    yield line
        self.status, self.counts, self.members = _closed(last, count)
        if last is not None:
            self.users, self.groups = last.users or {}, last.groups or {}


def unpack_lines(packed: bytes) -> Iterator[FullFact]:
    """Yield the lines of a part of our own manifest, as `manifest.pack_lines` packed them."""
    yield from _decode(msgspec.json.Decoder(FullFact), b"".join(_inflate([packed])), FullFact)


def _closed(last: Fact | None, count: int) -> tuple[str, dict[str, int], int]:
    """Take the last line, which must be there and count all members."""
    if last is None:
        raise ArchiveError("the manifest ends before its last line; the archive is damaged")
    if last.members != count:
        raise ArchiveError(
            f"the manifest lists {count} members, its last line says {last.members}; "
            "the archive is damaged"
        )
    return last.status, last.counts or {}, count


def _trusting(size: int) -> Bounds:
    return Bounds(size * 1000, size * 1000)


def _is_last(line: Fact) -> bool:
    return (
        line.path is None
        and line.pieces is None
        and line.gone is None
        and line.errors is None
        and line.reference is None
    )


def _by_id(names: dict[str, str]) -> dict[int, str]:
    return {
        int(number): name
        for number, name in names.items()
        if number.isdecimal() and len(number) <= _MAX_ID_DIGITS
    }


_ENDLESS_NAME: Final = "the manifest holds an endless name; it is damaged"
_GOES_ON: Final = "the manifest goes on behind its last line; it is damaged"


class _Count:
    """What the lines so far list, compared with what they may."""

    def __init__(self, bounds: Bounds) -> None:
        self.members = 0
        self._bounds = bounds
        self._lines = self._pieces = self._entries = 0

    def add(self, line: Fact) -> None:
        """Count a line. Raises ArchiveError for a name that is longer than any system takes."""
        if line.gone is not None or line.errors is not None:
            self._add_names([*(line.gone or ()), *(path for path, _, _ in line.errors or ())])
            return
        if line.reference is not None:
            self._entries += len(line.reference.parts)
            self._add_names([line.reference.path, line.reference.member or ""])
            return
        self._lines += 1
        if line.path is not None:
            self.members += 1
            self._entries += len(line.parts) + len(line.sparse or ())
            if max(len(line.path), len(line.link or "")) > _MAX_NAME:
                raise ArchiveError(_ENDLESS_NAME)
        else:
            self._pieces += len(line.pieces or ())
            if not self._bounds.has_pieces:
                raise ArchiveError("the manifest lists pieces, which a ZIP has not; it is damaged")

    def pass_over(self, members: int) -> None:
        """Count the lines of members that are not looked at."""
        self.members += members
        self._lines += members

    def _add_names(self, names: list[str]) -> None:
        """Look at a line of what is gone or failed, of which the text bounds how many there are."""
        if len(names) > LINE_NAMES:
            raise ArchiveError("the manifest lists too much in one line; it is damaged")
        if max(map(len, names), default=0) > _MAX_NAME:
            raise ArchiveError(_ENDLESS_NAME)

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


def _read(
    packed: Iterable[bytes],
    bounds: Bounds,
    kind: type[_Line],
    *,
    whole: bool = False,
    sieve: Sieve | None = None,
) -> Manifest[_Line]:
    blocks = _blocks(packed, bounds)
    head, rest = _head(next(blocks, b""))
    decoder = msgspec.json.Decoder(kind)
    found: list[_Line] = []
    references: list[Reference] = []
    gone: list[str] = []
    errors: list[tuple[str, str, str]] = []
    count = _Count(bounds)
    last: _Line | None = None
    for text in _chain(rest, blocks):
        block = text
        if sieve is not None:
            block, passed = sieve.sift(text)
            count.pass_over(passed)
        for line in _decode(decoder, block, kind):
            if last is not None:
                raise ArchiveError(_GOES_ON)
            if _is_last(line):
                last = line
                continue
            count.add(line)
            if line.reference is not None:
                if sieve is None:
                    references.append(line.reference)
            elif line.gone is None and line.errors is None:
                found.append(line)
            elif whole:
                gone += line.gone or ()
                errors += line.errors or ()
        count.check()
    _closed(last, count.members)
    assert last is not None
    return Manifest(head, found, last, references, gone, errors)


def _as_name(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


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
    if version > NEWEST:
        raise ArchiveError(
            f"the manifest is of version {version}, this PyBak reads up to {NEWEST}; "
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
    reference = fact.reference
    texts = (reference.path, reference.member, reference.sha256) if reference else ()
    for text in (fact.path, fact.link, *texts, *(fact.gone or ())):
        if text is not None:
            text.encode("utf-8", "surrogateescape")
    return fact
