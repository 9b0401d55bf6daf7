"""What a tar archive holds, by reading it through, as is needed for those of other tools.

A stream that is cut short, bytes that are no header: all are problems of the listing, and what
came before the damage is listed. A manifest that is met on the way is compared with the headers.
"""

from __future__ import annotations

import os

import msgspec

from pybak.display import printable
from pybak.entries import FILE, UNKNOWN
from pybak.errors import ArchiveError
from pybak.formats.archive import CHUNK, Limits, TooLargeError
from pybak.formats.decoders import FORMATS, GZIP, PLAIN
from pybak.formats.listing import Listed, Listing, Spot
from pybak.formats.manifest import MEMBER_NAME
from pybak.formats.manifest_facts import Fact
from pybak.formats.manifest_reader import Manifest
from pybak.formats.source import Source
from pybak.formats.tar_fields import is_header
from pybak.formats.tar_footer import read_footer
from pybak.formats.tar_headers import Entry, HeaderReader
from pybak.formats.tar_index import PieceIndex
from pybak.formats.tar_manifest import known_owner, read_tar_manifest
from pybak.formats.tar_records import BLOCK
from pybak.formats.tar_stream import TarStream
from pybak.problems import DAMAGED, UNSUPPORTED, Problem
from pybak.units import format_count, format_size

_MAGIC, _MAGIC_AT = b"ustar", 257
_MAX_NAME = 0xFFFF
_UNSURE = "the content of any member may be wrong"
_RUN_WEIGHT, _ENTRY_WEIGHT = 100, 1000
_MANY = 200_000  # members that any archive may hold, however small it is
_MEMBERS_PER_RATIO = 1 / 1000  # a byte, times the ratio: an empty file takes 4 bytes and more
_BILLION = 1_000_000_000
_TAR_NAMES = (b".tar", b".tgz", b".tbz2", b".tbz", b".tzst")
_MOST_ZEROS = 1 << 20  # that any program writes for an empty tar
_MAX_LISTING = 1 << 30  # bytes of names and maps
_MAX_MANIFEST = 256 << 20  # packed, of some five million members; it stays in memory
_SMALL_LISTING, _LISTING_PER_BYTE = 256 << 20, 64


def scan_tar(
    source: Source,
    compression: str,
    single_name: bytes,
    limits: Limits,
    problems: list[Problem],
) -> tuple[Listing, PieceIndex]:
    """List all members; give with it where reading can start. Adds to the `problems` so far.

    What is compressed and no tar is a single file, `single_name`. Raises ArchiveError if nothing
    can be told, TooLargeError for what looks like a bomb.
    """
    return _Scan(source, compression, single_name, limits, problems).run()


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
        self._has_end = self._has_rest = False
        index = _whole(source) if compression == PLAIN else None
        self._stream = TarStream(source, compression, index, limits)

    def run(self) -> tuple[Listing, PieceIndex]:
        """List what there is."""
        first = self._stream.read(BLOCK)
        if len(first) < BLOCK or not (is_header(first) or self._may_be_empty(first)):
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
            self._read_rest()
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

    def _may_be_empty(self, first: bytes) -> bool:
        """Whether zeros are an empty tar, and not the start of a disk image, or of what is lost."""
        return not any(first) and (self._compression == PLAIN or self._has_tar_name())

    def _has_tar_name(self) -> bool:
        return self._single_name.lower().endswith(_TAR_NAMES)

    def _read_rest(self) -> None:
        """Read what is behind the end of the tar, to learn whether it is whole and all."""
        has_more = False
        try:
            while data := self._stream.read(CHUNK):
                self._has_rest = self._has_rest or bool(data.lstrip(b"\0"))
                has_more = has_more or _holds_header(data)
        except TooLargeError:
            raise
        except ArchiveError as error:
            # One checksum may be of all that was unpacked, and come only here.
            self._report(f"{self._what(error)}, found behind the last member; {_UNSURE}")
        if not self._members and (self._has_rest or self._stream.at > _MOST_ZEROS):
            what = "begins with zeros, so its start is lost"
            raise ArchiveError(f"{self._source.label}: {what}; use another copy of it")
        if has_more:
            self._report("holds more members behind the mark of its end; tar -i reads them")

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
                    most = min(2 * self._source.size + BLOCK, _MAX_MANIFEST)
                    self._manifest = stream.read(min(entry.size, most))
                has_mark = False
                stream.seek(entry.end)
            elif stream.at == head:
                if not has_mark:
                    self._report("has no mark at its end, so it may be cut short")
                return
            else:
                # Two zero blocks are the end; a single one is passed over, as GNU tar does.
                second = stream.read(BLOCK)
                self._has_end = len(second) == BLOCK
                if not (self._has_end and any(second)):
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
        uid, gid = known_owner(entry.uid, entry.gid)
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
        last = members.pop()
        try:
            most = len(members) + 1000
            manifest = read_tar_manifest(self._source, [self._manifest], most)
            facts = _by_head(manifest)
        except ArchiveError as error:
            if not self._problems:
                message = f"{error}; contents are not checked"
                self._problems.append(Problem(os.fsdecode(MEMBER_NAME), DAMAGED, message))
            return Listing(members, True, self._problems, [])
        if not _fits(members, facts):
            return Listing([*members, last], False, self._problems, [])
        is_ours = manifest.head.format == FORMATS[self._compression]
        if is_ours and not self._problems and not self._is_ended():
            self._report("is damaged at its end, so that the manifest was not found from there")
        listed = [_enriched(member, facts) for member in members]
        missing = [(fact.name, fact.type) for fact in facts.values()]
        return Listing(
            listed, True, self._problems, missing, False, manifest.head, manifest.references,
            manifest.status,
        )  # fmt: skip

    def _is_ended(self) -> bool:
        """Whether nothing is lost at the end, which another program only packed or padded anew."""
        assert self._manifest is not None
        is_all = self._has_end and not self._has_rest
        return is_all and read_footer(self._manifest[-BLOCK:]) is not None

    # -- single files

    def _single(self) -> tuple[Listing, PieceIndex]:
        source, name = self._source, self._single_name
        if self._compression == PLAIN or self._has_tar_name():
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


def _holds_header(data: bytes) -> bool:
    """Whether there is a member's header at one of the blocks."""
    at = data.find(_MAGIC)
    while at >= 0:
        head = at - _MAGIC_AT
        if head >= 0 and head % BLOCK == 0 and is_header(data[head : head + BLOCK]):
            return True
        at = data.find(_MAGIC, at + 1)
    return False


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


def _fits(members: list[Listed], facts: dict[int, Fact]) -> bool:
    """Whether a manifest is of this archive, and not a file that was unpacked from another one.

    Other programs store its folder, too, which an archive of ours has not.
    """
    folder = os.path.dirname(MEMBER_NAME)
    if any(one.name == folder for one in members):
        return any(fact.name == folder for fact in facts.values())
    found = sum(
        1
        for member in members
        if (fact := facts.get(member.locator.offset)) and fact.name == member.name
    )
    return 2 * found >= min(len(members), len(facts))


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
