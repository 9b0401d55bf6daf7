"""What a tar archive holds: by its manifest, or by reading it through.

A damaged manifest, a stream that is cut short, bytes that are no header: all are problems of the
listing, and what came before the damage is listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import msgspec

from pybak.display import printable
from pybak.entries import FILE, HARD_LINK, LINK, UNKNOWN
from pybak.errors import ArchiveError
from pybak.formats.archive import MAX_ID, Limits, TooLargeError, check_ratio
from pybak.formats.decoders import GZIP, PLAIN
from pybak.formats.listing import NO_OWNER, Listed, Listing, Spot, bounded_time
from pybak.formats.manifest import MEMBER_NAME
from pybak.formats.manifest_reader import Bounds, Fact, Manifest, read_manifest
from pybak.formats.source import Source
from pybak.formats.tar_headers import Entry, HeaderReader, is_header
from pybak.formats.tar_index import PieceIndex
from pybak.formats.tar_records import BLOCK, KIND_OF_TYPE, sparse_map_block
from pybak.formats.tar_stream import TarStream
from pybak.formats.tar_tail import ManifestContent, Tail, find_tail, frame_damage
from pybak.formats.volume_probe import probe_tar, probe_volumes
from pybak.problems import DAMAGED, UNSUPPORTED, Problem
from pybak.units import format_count, format_size

FORMATS: Final = {PLAIN: "tar", GZIP: "tar.gz", "bz2": "tar.bz2", "zst": "tar.zst"}

_GZIP_HEADER_SIZE = 10
_MAX_NAME = 0xFFFF
_RUN_WEIGHT, _ENTRY_WEIGHT = 100, 1000
_MANY = 200_000  # members that any archive may hold, however small it is
_MEMBERS_PER_RATIO = 1 / 1000  # a byte, times the ratio: an empty file takes 4 bytes and more
_BYTES_A_LINE = 4  # that a line of our manifest takes at least, packed
_BILLION = 1_000_000_000
_TAR_NAMES = (b".tar", b".tgz", b".tbz2", b".tbz", b".tzst")
_MAX_LISTING = 1 << 30  # bytes of names and maps
_SMALL_LISTING, _LISTING_PER_BYTE = 256 << 20, 64
_KINDS = frozenset(KIND_OF_TYPE.values())


def list_tar(
    source: Source,
    compression: str,
    single_name: bytes,
    limits: Limits,
    names: AbstractSet[bytes] | None = None,
) -> tuple[Listing, PieceIndex]:
    """List a stream's members, or those of `names`; give with it where reading can start.

    What is compressed and no tar is a single file, `single_name`. Raises ArchiveError if nothing
    can be told, and for what looks like a bomb.
    """
    problems: list[Problem]
    for is_last in (False, True):
        problems = []
        tail = find_tail(source, compression)
        if tail is not None:
            try:
                listing, index = _ours(source, compression, tail, limits, names)
            except ArchiveError as error:
                message = f"{error}; the archive is read through instead"
                problems.append(_problem(MEMBER_NAME, message))
            else:
                if is_last or not listing.problems or not source.forget():
                    return listing, index
                continue
        # To read through it would take long, if only its end was damaged on the way.
        if is_last or not source.forget():
            break
    return _Scan(source, compression, single_name, limits, problems).run()


def _ours(
    source: Source,
    compression: str,
    tail: Tail,
    limits: Limits,
    names: AbstractSet[bytes] | None,
) -> tuple[Listing, PieceIndex]:
    """List an archive of ours by its manifest; raise ArchiveError where that can't be right."""
    check_ratio(source, tail.footer.head, limits)
    content, manifest, listing, index = _by_manifest(source, compression, tail, limits, names)
    _check_end(source, compression, index, tail.footer.stored_at)
    problems = []
    damage = frame_damage(source, compression, tail, index, content)
    if damage:
        problems.append(Problem(source.label, DAMAGED, f"is damaged: {damage}"))
    stream = TarStream(source, compression, index)
    found = probe_volumes(
        source, manifest.head.split, manifest.volume_starts,
        lambda: probe_tar(stream, source, index),
    )  # fmt: skip
    problems += (Problem(source.label, DAMAGED, text) for text in found)
    return listing._replace(problems=problems), index


def _problem(name: bytes, message: str) -> Problem:
    return Problem(os.fsdecode(name), DAMAGED, message)


def _read(
    source: Source,
    content: Iterable[bytes],
    most: int,
    names: AbstractSet[bytes] | None = None,
) -> Manifest[Fact]:
    try:
        return read_manifest(content, Bounds(most, source.size), names)
    except ArchiveError as error:
        if str(error).startswith(source.label):
            raise
        raise ArchiveError(f"{source.label}: {error}") from error


def _check_end(source: Source, compression: str, index: PieceIndex, stored_at: int) -> None:
    if compression != PLAIN and index.stored_end != stored_at:
        raise ArchiveError(f"{source.label}: the manifest's pieces do not fit the archive")


# -- by the manifest


def _by_manifest(
    source: Source,
    compression: str,
    tail: Tail,
    limits: Limits,
    names: AbstractSet[bytes] | None,
) -> tuple[ManifestContent, Manifest[Fact], Listing, PieceIndex]:
    """Read the manifest, again if more of it is needed than `names`; give what that was."""
    lines = source.size // _BYTES_A_LINE + 1000
    most = min(tail.footer.head // BLOCK, limits.members, lines)
    while True:
        content = ManifestContent(source, compression, tail)
        try:
            manifest = _read(source, content, most, names)
            listing, index = _from_manifest(
                source, compression, manifest, tail.footer.head, is_whole=names is None
            )
        except ArchiveError:
            if names is None:
                raise
            names = None
            continue
        needed = None if names is None else _needed(listing, names)
        if needed == names:
            return content, manifest, listing, index
        names = needed


def _needed(listing: Listing, names: AbstractSet[bytes]) -> AbstractSet[bytes] | None:
    """Give the names that must be listed for the sake of `names`; None for all."""
    found = {listed.name for listed in listing.members}
    links = {
        listed.link
        for listed in listing.members
        if listed.kind == HARD_LINK and listed.link is not None and listed.name in names
    }
    if not links <= names:
        return names | links
    # What is not found may be written in other words than ours.
    return names if names <= found else None


class _Place(NamedTuple):
    """Where the members of a batch lie, in bytes of the plain stream."""

    start: int
    end: int


def _from_manifest(
    source: Source, compression: str, manifest: Manifest[Fact], plain_end: int, *, is_whole: bool
) -> tuple[Listing, PieceIndex]:
    """Make a listing of the manifest's lines, which are all or not.

    Raises ArchiveError where they can't be true.
    """
    is_plain = compression == PLAIN
    index = PieceIndex(stored_at=_GZIP_HEADER_SIZE if compression == GZIP else 0, is_own=True)
    members: list[Listed] = []
    place = _Place(0, 0)
    end = 0
    lines = manifest.lines
    lines.reverse()  # so that each goes as soon as it was used
    while lines:
        line = lines.pop()
        if line.pieces is not None:
            start = index.plain_end
            for stored, plain, crc in line.pieces:
                if not stored or not plain:
                    raise _bad(source, "lists an empty piece")
                # A tar that another program unpacked has the same pieces, but as they are.
                index.add(plain if is_plain else stored, plain, crc)
            place = _Place(start, index.plain_end)
        else:
            listed = _listed(source, line, place, manifest)
            # Members lie end to end; what lies between them would be restored by other programs.
            if is_whole and listed.locator.offset != end:
                raise _bad(source, f"leaves something out before {printable(listed.name)}")
            end = _end(source, listed)
            members.append(listed)
    if is_whole and end != plain_end:
        raise _bad(source, "leaves something out at its end")
    if index.plain_end != plain_end:
        raise _bad(source, "lists pieces that do not fit the archive")
    return Listing(members, True, [], [], False, manifest.head, manifest.references), index


def _bad(source: Source, what: str) -> ArchiveError:
    return ArchiveError(f"{source.label}: the manifest {what}; it is damaged")


def _end(source: Source, listed: Listed) -> int:
    """Give where the next member's headers start."""
    spot = listed.locator
    assert isinstance(spot, Spot)
    end = spot.data + spot.stored_size
    if listed.data_map is not None:
        try:
            end += len(sparse_map_block(listed.data_map, listed.size))
        except ValueError as error:
            raise _bad(source, f"has an impossible map of {printable(listed.name)}") from error
    return end + -end % BLOCK


def _listed(source: Source, line: Fact, place: _Place, manifest: Manifest[Fact]) -> Listed:
    name, kind = line.name, line.type
    if line.at is None or kind not in _KINDS:
        raise _bad(source, f"does not say where {printable(name)} lies, or what it is")
    head, data = place.start + line.at[0], place.start + line.at[1]
    size = line.size if kind == FILE else 0
    stored_size = size
    if line.sparse is not None:
        stored_size = sum(length for _, length in line.sparse)
        end = 0
        for offset, length in line.sparse:
            if offset < end or not length:
                raise _bad(source, f"has an impossible map of {printable(name)}")
            end = offset + length
        if end > size:
            raise _bad(source, f"has an impossible map of {printable(name)}")
    if not place.start <= head < data <= place.end or data + stored_size > place.end:
        raise _bad(source, f"says that {printable(name)} lies outside of its pieces")
    uid, gid = _owner(line.uid, line.gid)
    link = os.fsencode(line.link) if line.link is not None else None
    return Listed(
        name, kind, size, bounded_time(line.mtime_ns), 1,
        Spot(name, head, data, stored_size, size, kind), 0,
        line.mode & 0o7777, uid, gid, manifest.users.get(uid, ""), manifest.groups.get(gid, ""),
        link if kind in (LINK, HARD_LINK) else None, line.device, line.sha256 or "", line.parts,
        line.sparse, line.sparse is not None or line.holes,
    )  # fmt: skip


def _owner(uid: int, gid: int) -> tuple[int, int]:
    if 0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID:
        return uid, gid
    return NO_OWNER, NO_OWNER


# -- by reading through


class _Scan:
    """Reads a stream through and lists what it meets."""

    def __init__(
        self,
        source: Source,
        compression: str,
        single_name: bytes,
        limits: Limits,
        problems: list[Problem],
    ) -> None:
        self._source = source
        self._compression = compression
        self._single_name = single_name
        self._limits = limits
        self._problems = problems
        self._members: list[Listed] = []
        self._weight = 0
        self._most = int(_MANY + source.size * limits.ratio * _MEMBERS_PER_RATIO)
        self._most_weight = min(_SMALL_LISTING + _LISTING_PER_BYTE * source.size, _MAX_LISTING)
        self._shared: list[tuple[int, dict[bytes, bytes]]] = []
        self._manifest: bytes | None = None
        index = _whole(source) if compression == PLAIN else None
        self._stream = TarStream(source, compression, index, limits)

    def run(self) -> tuple[Listing, PieceIndex]:
        """List what there is."""
        first = self._stream.read(BLOCK)
        if not (len(first) == BLOCK and (is_header(first) or not any(first))):
            return self._single()
        self._stream.unread(first)
        try:
            self._walk()
        except TooLargeError:
            raise
        except ArchiveError as error:
            what = self._what(error)
            if not self._members:
                raise ArchiveError(f"{self._source.label}: {what}; use another copy") from error
            last = printable(self._members[-1].name)
            self._report(f"{what}; what came behind {last} is missing")
        else:
            self._drain()
        self._mark_cut()
        index = self._index()
        index.shared = self._shared
        return self._listing(), index

    def _what(self, error: ArchiveError) -> str:
        return str(error).removeprefix(f"{self._source.label}: ")

    def _report(self, what: str) -> None:
        self._problems.append(Problem(self._source.label, DAMAGED, what))

    def _index(self) -> PieceIndex:
        if self._compression == PLAIN:
            return _whole(self._source)
        return self._stream.made_index()

    def _drain(self) -> None:
        """Unpack what is behind the end of the tar, to learn whether it is whole."""
        if self._compression == PLAIN:
            return
        try:
            self._stream.drain()
        except TooLargeError:
            raise
        except ArchiveError as error:
            self._report(f"{self._what(error)}, behind the last member")

    def _walk(self) -> None:
        reader = HeaderReader()
        stream = self._stream
        has_mark = False
        while True:
            head = stream.at
            shared = dict(reader.shared)
            entry = reader.next(stream, head)
            if reader.shared != shared:
                self._share(entry.end if entry else stream.at, reader.shared)
            if entry is not None:
                self._add(entry)
                if entry.name == MEMBER_NAME and entry.kind == FILE:
                    stream.seek(entry.data)
                    # It is packed, so the archive can't be much smaller.
                    self._manifest = stream.read(min(entry.size, 2 * self._source.size + BLOCK))
                has_mark = False
                stream.seek(entry.end)
            elif stream.at == head:
                if not has_mark:
                    self._report("has no mark at its end, so it may be cut short")
                return
            else:
                # Two zero blocks are the end; a single one is passed over, as GNU tar does.
                second = stream.read(BLOCK)
                if len(second) < BLOCK or not any(second):
                    return
                stream.unread(second)
                has_mark = True

    def _end(self) -> int:
        return self._source.size if self._compression == PLAIN else self._stream.made

    def _share(self, at: int, shared: dict[bytes, bytes]) -> None:
        self._shared.append((at, dict(shared)))
        self._weigh(sum(map(len, shared.values())) + _ENTRY_WEIGHT)

    def _weigh(self, more: int) -> None:
        self._weight += more
        if self._weight > self._most_weight:
            raise TooLargeError(
                f"{self._source.label}: its list of members takes more than "
                f"{format_size(self._most_weight)} of names and maps, like a bomb; it is not read"
            )

    def _add(self, entry: Entry) -> None:
        if entry.flag == b"V":
            return
        if len(self._members) >= self._limits.members:
            count = format_count(self._limits.members, "member")
            label = self._source.label
            raise TooLargeError(
                f"{label}: holds more than {count}, the most that is allowed; "
                "if you trust it, raise --max-members"
            )
        if len(self._members) >= self._most:
            count = format_count(self._most, "member")
            raise TooLargeError(
                f"{self._source.label}: holds more than {count}, far more than its size explains, "
                "like a bomb; if you trust it, raise --max-ratio"
            )
        name, link, fault = entry.name, entry.link, entry.fault
        if len(name) > _MAX_NAME or len(link or b"") > _MAX_NAME:
            name, link = name[:_MAX_NAME], None
            fault = fault or "has a name that is longer than any system takes"
        self._weigh(len(name) + len(link or b"") + _RUN_WEIGHT * len(entry.data_map or ()))
        uid, gid = _owner(entry.uid, entry.gid)
        code = UNSUPPORTED if entry.kind == UNKNOWN else DAMAGED
        self._members.append(
            Listed(
                name, entry.kind, entry.size, entry.mtime_ns, entry.precision,
                Spot(name, entry.head, entry.data, entry.stored_size, entry.size, entry.kind), 0,
                entry.mode, uid, gid, os.fsdecode(entry.user), os.fsdecode(entry.group),
                link, entry.device, data_map=entry.data_map,
                is_sparse=entry.data_map is not None, fault=(code, fault) if fault else None,
            )
        )  # fmt: skip

    def _mark_cut(self) -> None:
        """Give the last member a fault if the stream ends in its content."""
        if not self._members:
            return
        last = self._members[-1]
        spot = last.locator
        assert isinstance(spot, Spot)
        if spot.data + spot.stored_size > self._end() and last.fault is None:
            fault = DAMAGED, "is cut short: the archive ends in it"
            self._members[-1] = msgspec.structs.replace(last, fault=fault)
            if not any(problem.path == self._source.label for problem in self._problems):
                self._report(f"is cut short in the middle of {printable(last.name)}")

    # -- the manifest, if the stream holds one

    def _listing(self) -> Listing:
        members = self._members
        if not members or members[-1].name != MEMBER_NAME or self._manifest is None:
            return Listing(members, False, self._problems, [])
        members.pop()
        try:
            most = len(members) + 1000
            manifest = _read(self._source, [self._manifest], most)
            facts = _by_head(manifest)
        except ArchiveError as error:
            if not self._problems:
                self._problems.append(_problem(MEMBER_NAME, f"{error}; contents are not checked"))
            return Listing(members, True, self._problems, [])
        if manifest.head.format == FORMATS[self._compression] and not self._problems:
            self._report("is damaged at its end, so that the manifest was not found from there")
        listed = [_enriched(member, facts) for member in members]
        missing = [(fact.name, fact.type) for fact in facts.values()]
        return Listing(
            listed, True, self._problems, missing, False, manifest.head, manifest.references
        )

    # -- single files

    def _single(self) -> tuple[Listing, PieceIndex]:
        source, name = self._source, self._single_name
        if self._compression == PLAIN or name.lower().endswith(_TAR_NAMES):
            raise ArchiveError(f"{source.label}: holds no tar archive; use another copy of it")
        fault = None
        try:
            self._stream.drain()
        except ArchiveError as error:
            if isinstance(error, TooLargeError) or not self._stream.made:
                raise
            fault = DAMAGED, self._what(error)
        size = self._stream.made
        index = self._stream.made_index()
        index.is_single = True
        seconds = 0
        if self._compression == GZIP:
            seconds = int.from_bytes(source.pread(4, 4), "little")
        mtime_ns = seconds * _BILLION if seconds else source.identity[0].mtime_ns
        member = Listed(
            name, FILE, size, mtime_ns, _BILLION, Spot(name, 0, 0, size, size), fault=fault
        )
        return Listing([member], False, self._problems, []), index


def _whole(source: Source) -> PieceIndex:
    index = PieceIndex()
    index.add(source.size, source.size)
    return index


def _by_head(manifest: Manifest[Fact]) -> dict[int, Fact]:
    """Give the manifest's members by the place of their headers."""
    facts: dict[int, Fact] = {}
    start = end = 0
    for line in manifest.lines:
        if line.pieces is not None:
            start = end
            end += sum(plain for _, plain, _ in line.pieces)
        elif line.at is not None:
            facts[start + line.at[0]] = line
    return facts


def _enriched(member: Listed, facts: dict[int, Fact]) -> Listed:
    """Add to a member what the manifest tells about it."""
    fact = facts.pop(member.locator.offset, None)
    if fact is None:
        return msgspec.structs.replace(
            member, remark="the archive holds it, the manifest does not list it"
        )
    if (fact.name, fact.type) != (member.name, member.kind) or (
        member.kind == FILE and fact.size != member.size
    ):
        return msgspec.structs.replace(member, remark="is not what the manifest says")
    return msgspec.structs.replace(
        member, sha256=fact.sha256 or "", parts=fact.parts,
        is_sparse=member.is_sparse or fact.holes,
    )  # fmt: skip
