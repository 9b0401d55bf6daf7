"""The manifest of an archive read back, whatever the format of the archive.

Lines are decoded a block at a time. Nothing is believed: lines, their length, their number and
what they list are bounded by what the archive can hold (`Bounds`), and the last line must count all
others. Every failure is an ArchiveError. What the lines mean is written in
`pybak.formats.manifest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Final, Generic

import msgspec

from pybak.errors import ArchiveError
from pybak.formats.manifest import Reference
from pybak.formats.manifest_bounds import Bounds, Count, trusting
from pybak.formats.manifest_facts import (
    Fact,
    FullFact,
    Head,
    Line,
    decode_head,
    decode_lines,
    is_last,
)
from pybak.formats.manifest_sieve import Sieve
from pybak.formats.manifest_text import inflate, text_blocks

_MAX_ID_DIGITS: Final = 10


class Manifest(Generic[Line]):
    """A manifest in memory.

    `lines` are members and pieces in the archive's order, `members` says how many of them are
    members; `users` and `groups` say what owner ids meant, `volume_starts` how volumes begin.
    `references` are members whose content other archives hold. `gone` are names and `errors` path,
    code and message, where they were asked for; `status` and `counts` are how the run ended.
    """

    def __init__(
        self,
        head: Head,
        lines: list[Line],
        last: Line,
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

    def by_name(self) -> dict[bytes, Line]:
        """Give the members by name, in order. Raises ArchiveError if a name comes twice."""
        members = [line for line in self.lines if line.path is not None]
        facts = {line.name: line for line in members}
        if len(facts) != len(members):
            raise ArchiveError("the manifest lists a member twice; the archive is damaged")
        return facts


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
    return _read([data], trusting(len(data)), FullFact, whole=True)


class Stream:
    """A manifest of our own, read line by line: what a catalog is written from.

    `head` is there at once. `status`, `counts`, `members`, and the names of owners by their ids
    (as text) in `users` and `groups` are after `lines` came to its end.
    """

    def __init__(self, packed: Iterable[bytes], size: int) -> None:
        """Read the first line of a manifest that is `size` bytes long, packed.

        This and `lines` raise ArchiveError where it is damaged.
        """
        self._blocks = text_blocks(packed, trusting(size))
        self.head, self._rest = decode_head(next(self._blocks, b""))
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
            for line in decode_lines(decoder, block, FullFact):
                if last is not None:
                    raise ArchiveError(_GOES_ON)
                if line.path is not None:
                    count += 1
                    yield line
                elif is_last(line):
                    last = line
                elif pieces or line.pieces is None:
                    yield line
        self.status, self.counts, self.members = _closed(last, count)
        if last is not None:
            self.users, self.groups = last.users or {}, last.groups or {}


def unpack_lines(packed: bytes) -> Iterator[FullFact]:
    """Yield the lines of a part of our own manifest, as `manifest.pack_lines` packed them."""
    yield from decode_lines(msgspec.json.Decoder(FullFact), b"".join(inflate([packed])), FullFact)


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


def _by_id(names: dict[str, str]) -> dict[int, str]:
    return {
        int(number): name
        for number, name in names.items()
        if number.isdecimal() and len(number) <= _MAX_ID_DIGITS
    }


_GOES_ON: Final = "the manifest goes on behind its last line; it is damaged"


def _read(
    packed: Iterable[bytes],
    bounds: Bounds,
    kind: type[Line],
    *,
    whole: bool = False,
    sieve: Sieve | None = None,
) -> Manifest[Line]:
    blocks = text_blocks(packed, bounds)
    head, rest = decode_head(next(blocks, b""))
    decoder = msgspec.json.Decoder(kind)
    found: list[Line] = []
    references: list[Reference] = []
    gone: list[str] = []
    errors: list[tuple[str, str, str]] = []
    count = Count(bounds)
    last: Line | None = None
    for text in _chain(rest, blocks):
        block = text
        if sieve is not None:
            block, passed = sieve.sift(text)
            count.pass_over(passed)
        for line in decode_lines(decoder, block, kind):
            if last is not None:
                raise ArchiveError(_GOES_ON)
            if is_last(line):
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


def _chain(rest: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    if rest:
        yield rest
    yield from blocks
