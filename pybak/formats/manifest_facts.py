"""The lines of a manifest, decoded: what they say, not yet whether it can be.

Every failure is an ArchiveError.
"""

from __future__ import annotations

import json
from typing import Annotated, TypeVar

import msgspec

from pybak.errors import ArchiveError
from pybak.formats.manifest import NEWEST, Part, Reference, Size

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
        return as_name(self.path or "")


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


Line = TypeVar("Line", bound=Fact)


def is_last(line: Fact) -> bool:
    """Tell whether this is the line that ends a manifest."""
    return (
        line.path is None
        and line.pieces is None
        and line.gone is None
        and line.errors is None
        and line.reference is None
    )


def as_name(text: str) -> bytes:
    """Give the bytes of a name as it stands in a line."""
    return text.encode("utf-8", "surrogateescape")


def decode_head(block: bytes) -> tuple[Head, bytes]:
    """Decode the first line of a text; give it with the rest of the text."""
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


def decode_lines(decoder: msgspec.json.Decoder[Line], text: bytes, kind: type[Line]) -> list[Line]:
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


def _decode_escapes(line: bytes, kind: type[Line]) -> Line:
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
