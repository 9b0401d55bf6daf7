"""One ZIP archive made of members of others, byte for byte: nothing is compressed anew.

A member is its local header and its data, which stand behind each other (APPNOTE 4.3.7); only the
directory says where. So members are copied in runs, and get new places in a new directory. The
manifest is written anew from the lines of the others.

Members are unpacked on the way, to be compared with their CRC-32. Encrypted ones are copied with
their salts, and not opened: to make the keys of one takes as long as to copy a hundred.
"""

from __future__ import annotations

import stat
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple

from pybak import aes
from pybak.backup.assemble_zip import ZipBook
from pybak.backup.output import Output
from pybak.display import printable
from pybak.entries import FOLDER
from pybak.errors import ArchiveError
from pybak.formats import manifest
from pybak.formats import zip_records as zr
from pybak.formats.archive import Archive
from pybak.formats.manifest_facts import FullFact
from pybak.formats.source import Source, pread_all
from pybak.formats.zip_aes import packing_of
from pybak.formats.zip_directory import Member
from pybak.formats.zip_members import MemberReader
from pybak.formats.zip_reader import ZipFile
from pybak.retention.reading import Stop, manifest_of, naming
from pybak.retention.taking import Taken, Wanted, as_told, line_of

_BLOCK: Final = 4 << 20
_AT_ONCE: Final = 20_000
_SLICES: Final = 8
"""Members are looked up in so many steps at most: each goes through the directory once."""


class _Place(NamedTuple):
    """A member and the end of the room that its bytes have."""

    member: Member
    limit: int


@dataclass
class _Slice:
    """Some of what is taken: members as they are, others told anew, and the lines of all."""

    names: set[bytes] = field(default_factory=set)
    told: dict[bytes, list[FullFact]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @property
    def rewritten(self) -> Iterator[FullFact]:
        """Yield what is told anew."""
        return chain.from_iterable(self.told.values())


class ZipMerger:
    """Lays members of archives down in `output`, and enters them in `book`.

    With a `password` the members are encrypted; all must be, or none.
    """

    def __init__(
        self, book: ZipBook, output: Output, *, password: bytes | None, stop_if_asked: Stop
    ) -> None:
        self._book = book
        self._output = output
        self._password = password
        self._is_secret = password is not None
        self._stop_if_asked = stop_if_asked

    def take(self, archive: Archive, wanted: Wanted) -> Taken:
        """Take what is wanted of an archive; raises ArchiveError if some of it is not there."""
        if not isinstance(archive, ZipFile):
            raise ArchiveError(f"{archive.label}: is no ZIP archive")
        with naming(archive.label):
            taken = Taken()
            self._output.append_stream(self._members(archive, wanted, taken))
            if taken.members != len(wanted):
                raise ArchiveError("the manifest lacks members; check it with verify")
            return taken

    def _members(self, archive: ZipFile, wanted: Wanted, taken: Taken) -> Iterator[bytes]:
        """Yield what is wanted, some members at once, in the manifest's order, and enter it."""
        stream = manifest_of(archive)
        at = self._output.size
        most = max(_AT_ONCE, len(wanted) // _SLICES)
        for some in _slices(stream.lines(), wanted, most):
            central: list[bytes] = []
            at = yield from self._copied(archive, some, at, central)
            self._book.enter(
                b"".join(central), manifest.pack_lines("".join(some.lines)), len(central)
            )
            taken.members += len(central)
            taken.rewritten += some.rewritten
        taken.users, taken.groups = stream.users, stream.groups

    def _found(self, archive: ZipFile, some: _Slice) -> list[_Place]:
        """Give the members that are wanted, as they lie in the file. All must be there, once."""
        names = some.names | some.told.keys()
        directory = archive.directory(names=names)
        found = [
            (_Place(member, directory.limits[number]), number)
            for number, member in enumerate(directory.members)
            if member.name.rstrip(b"/") in names
        ]
        if len(found) != len(names):
            there = {place.member.name.rstrip(b"/") for place, _ in found}
            missing = min(names - there, default=b"")
            what = f"lacks {printable(missing)}" if missing else "holds a member twice"
            raise ArchiveError(f"{what}; check it with verify")
        for (member, _), number in found:
            if number in directory.clashes:
                raise ArchiveError(f"{printable(member.name)} is damaged; check it with verify")
            if not (_is_ours(member) if self._is_secret else member.is_plain):
                raise ArchiveError(
                    f"{printable(member.name)} is not encrypted as the others are"
                    if self._is_secret
                    else f"{printable(member.name)} is encrypted, and the others are not"
                )
        return sorted((place for place, _ in found), key=_offset)

    def _copied(
        self, archive: ZipFile, some: _Slice, at: int, central: list[bytes]
    ) -> Generator[bytes, None, int]:
        """Yield members, laid from `at` on, and add their records to `central`; give the end."""
        source = archive.source
        start = stop = 0
        for member, limit in self._found(archive, some):
            self._check(archive, member, limit)
            data = _data_of(source, member)
            name = member.name.rstrip(b"/")
            if name in some.names:
                if member.offset != stop or stop - start >= _BLOCK:
                    yield from self._blocks(source, start, stop)
                    start = member.offset
                stop = data.stop
                central.append(_record(member, at))
                at += data.stop - member.offset
            is_copied = name in some.names
            for fact in some.told.get(name, ()):
                yield from self._blocks(source, start, stop)
                start = stop = data.stop
                local, record = _retold(member, fact, at)
                central.append(record)
                yield local
                if is_copied and self._password is not None:
                    yield from self._sealed_anew(source, member, limit, self._password)
                else:
                    yield from self._blocks(source, data.start, data.stop)
                is_copied = True
                at += len(local) + data.stop - data.start
        yield from self._blocks(source, start, stop)
        return at

    def _check(self, archive: ZipFile, member: Member, limit: int) -> None:
        """Unpack a member that is not encrypted; raises ArchiveError if it is damaged."""
        if self._is_secret:
            return
        for _ in archive.chunks(member, limit):
            self._stop_if_asked()

    def _blocks(self, source: Source, start: int, stop: int) -> Iterator[bytes]:
        for at in range(start, stop, _BLOCK):
            self._stop_if_asked()
            yield pread_all(source, min(_BLOCK, stop - at), at)

    def _sealed_anew(
        self, source: Source, member: Member, limit: int, password: bytes
    ) -> Iterator[bytes]:
        """Yield a member's data, still compressed, encrypted with a salt of its own.

        No two members share one.
        """
        stream = MemberReader(source, password).open(member, limit).stream()

        def content() -> Iterator[bytes]:
            at = 0
            while data := stream.pread(_BLOCK, at):
                self._stop_if_asked()
                yield data
                at += len(data)
            stream.check()

        yield from aes.encrypt_stream(content(), password)


def _offset(place: _Place) -> int:
    return place.member.offset


def _is_ours(member: Member) -> bool:
    """Whether a member is encrypted as we do it: by AES-256, without a CRC-32; folders are not."""
    if member.kind == FOLDER:
        return not (member.is_encrypted or member.size or member.stored_size)
    packing = packing_of(member) if member.is_encrypted else None
    return packing is not None and packing.salt_size == aes.SALT_SIZE and not packing.has_crc


def _data_of(source: Source, member: Member) -> range:
    """Give where a member's data lies. Raises ArchiveError if its header is not there."""
    size = zr.LOCAL.size + len(member.raw_name)
    head = pread_all(source, size, member.offset)
    fields = zr.LOCAL.unpack_from(head)
    if (
        fields[0] != zr.LOCAL_SIGNATURE
        or fields[2] & zr.FLAG_DESCRIPTOR
        or (fields[2], fields[3]) != (member.flags, member.method)
        or fields[9] != len(member.raw_name)
        or head[zr.LOCAL.size :] != member.raw_name
    ):
        raise ArchiveError(
            f"{printable(member.name)} is not where the directory says; check it with verify"
        )
    start = member.offset + size + int(fields[10])
    return range(start, start + member.stored_size)


def _retold(member: Member, fact: FullFact, offset: int) -> tuple[bytes, bytes]:
    """Give local header and directory record for a member's data under another name."""
    packing = packing_of(member)
    assert packing is not None, "was looked at"
    dos = zr.dos_time(fact.mtime_ns // 1_000_000_000)
    times = zr.time_extras(fact.mtime_ns)
    flags = zr.name_flags(fact.name)
    local = zr.local_header(
        fact.name, method=packing.method, crc=member.crc, stored_size=member.stored_size,
        size=member.size, dos=dos, extra=times + zr.owner_extra(fact.uid, fact.gid), flags=flags,
        encrypted=packing.is_encrypted,
    )  # fmt: skip
    record = zr.central_record(
        fact.name, method=packing.method, crc=member.crc, stored_size=member.stored_size,
        size=member.size, offset=offset, dos=dos, extra=times, flags=flags,
        mode=stat.S_IFREG | stat.S_IMODE(fact.mode), encrypted=packing.is_encrypted,
    )  # fmt: skip
    return local, record


def _record(member: Member, offset: int) -> bytes:
    """Give a member's directory record for another place."""
    packing = packing_of(member)
    assert packing is not None, "was looked at"
    told = (zr.EXTRA_ZIP64, zr.EXTRA_AES)
    extra = b"".join(
        kind.to_bytes(2, "little") + len(data).to_bytes(2, "little") + data
        for kind, data in zr.extra_fields(member.extra)
        if kind not in told
    )
    return zr.central_record(
        member.raw_name, method=packing.method, crc=member.crc, stored_size=member.stored_size,
        size=member.size, offset=offset, dos=zr.DosTime(member.dos_time, member.dos_date),
        extra=extra, flags=member.flags, mode=member.mode, encrypted=packing.is_encrypted,
    )  # fmt: skip


def _slices(facts: Iterable[FullFact], wanted: Wanted, most: int) -> Iterator[_Slice]:
    """Yield what is taken, so many members at once."""
    some = _Slice()
    for fact in facts:
        if fact.path is None:
            continue
        name = fact.name
        if name in wanted.names:
            some.names.add(name)
            some.lines.append(line_of(fact))
        for one in wanted.told.get(name, ()):
            new = as_told(fact, one)
            some.told.setdefault(name, []).append(new)
            some.lines.append(line_of(new))
        if len(some.lines) >= most:
            yield some
            some = _Slice()
    if some.lines:
        yield some
