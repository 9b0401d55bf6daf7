"""One ZIP archive made of members of others, byte for byte: nothing is unpacked or compressed.

A member is its local header and its data, which stand behind each other (APPNOTE 4.3.7); only the
directory says where. So members are copied in runs, and get new places in a new directory. The
manifest is written anew from the lines of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from pybak.backup.output import ArchiveLayout, Output
from pybak.display import printable
from pybak.errors import ArchiveError, PlanError
from pybak.formats import manifest
from pybak.formats import zip_records as zr
from pybak.formats.deflate import crc32
from pybak.formats.manifest_reader import FullFact, Manifest, read_whole_manifest
from pybak.formats.opening import open_archive
from pybak.formats.source import Source, pread_all
from pybak.formats.zip_directory import Directory, Member
from pybak.formats.zip_listing import find_manifest
from pybak.formats.zip_reader import ZipFile
from pybak.problems import Problem

_BLOCK: Final = 4 << 20
_LINES: Final = 10_000

Stop = Callable[[], None]


class Portion(NamedTuple):
    """The members that are taken from one archive, whose files are `paths`, in order."""

    paths: Sequence[bytes]
    names: frozenset[bytes]


class _Run(NamedTuple):
    """Bytes of a source that are copied as they are."""

    start: int
    stop: int


def merge(
    portions: Iterable[Portion],
    last: Manifest[FullFact],
    header: manifest.Header,
    output: Output,
    *,
    now: int,
    stop_if_asked: Stop,
) -> int:
    """Write an archive of all these members; give how many they are.

    What is gone and failed, and how the run ended, comes from `last`, the manifest of the run's
    own archive. `now` is the manifest's time in seconds. Raises ArchiveError if a member is not
    there or damaged where that shows, PlanError for archives that are no ZIP or encrypted.
    """
    central: list[bytes] = []
    lines: list[bytes] = []
    users: dict[str, str] = {}
    groups: dict[str, str] = {}
    members = 0
    for portion in portions:
        stop_if_asked()
        with _opened(portion.paths) as archive:
            directory = archive.directory()
            listed = own_manifest(archive, directory)
            taken = _taken(archive, directory, portion.names)
            runs = _runs(archive.source, taken, output.size, central)
            output.append_stream(_contents(archive.source, runs, stop_if_asked))
            lines += _lines(listed, portion.names, archive.label)
            users |= {str(number): name for number, name in listed.users.items()}
            groups |= {str(number): name for number, name in listed.groups.items()}
            members += len(taken)
    starts: list[int] = []
    if header.split is not None and isinstance(output, ArchiveLayout):
        starts = output.volume_starts(header.split)
    trailer = manifest.Trailer(
        members=members, users=users, groups=groups, volume_starts=starts, status=last.status,
        counts=last.counts,
    )  # fmt: skip
    closing = manifest.pack_closing(
        (name.encode("utf-8", "surrogateescape") for name in last.gone),
        (Problem(*error) for error in last.errors),
    )
    text = manifest.Ends(header, trailer, closing).around(lines)
    _end(text, central, members, output, now)
    return members


def _opened(paths: Sequence[bytes]) -> ZipFile:
    archive = open_archive(paths)
    if not isinstance(archive, ZipFile):
        archive.close()
        raise PlanError(f"{archive.label}: is no ZIP archive, so its members can't be copied")
    return archive


def read_manifest_of(paths: Sequence[bytes]) -> Manifest[FullFact]:
    """Give the manifest of a ZIP archive; raises as `merge` does."""
    with _opened(paths) as archive:
        return own_manifest(archive, archive.directory())


def own_manifest(archive: ZipFile, directory: Directory) -> Manifest[FullFact]:
    """Read the whole manifest of an archive; raises as `merge` does."""
    index = find_manifest(directory)
    if index is None:
        raise ArchiveError(f"{archive.label}: has no manifest, so it can't be consolidated")
    member = directory.members[index]
    if member.is_encrypted:
        raise PlanError(f"{archive.label}: is encrypted, so its members can't be copied")
    return read_whole_manifest(b"".join(archive.chunks(member, directory.limits[index])))


def _taken(archive: ZipFile, directory: Directory, names: frozenset[bytes]) -> list[Member]:
    """Give the members that are wanted, as they lie in the file. All must be there, once."""
    found = [
        (member, number)
        for number, member in enumerate(directory.members)
        if member.name.rstrip(b"/") in names
    ]
    if len(found) != len(names):
        there = {member.name.rstrip(b"/") for member, _ in found}
        missing = min(names - there, default=b"")
        what = f"lacks {printable(missing)}" if missing else "holds a member twice"
        raise ArchiveError(f"{archive.label}: {what}; check it with verify")
    for member, number in found:
        if number in directory.clashes or not member.is_plain:
            what = "is damaged" if number in directory.clashes else "is encrypted"
            raise ArchiveError(f"{archive.label}: {printable(member.name)} {what}")
    return sorted((member for member, _ in found), key=lambda member: member.offset)


def _runs(source: Source, members: Sequence[Member], at: int, central: list[bytes]) -> list[_Run]:
    """Give the bytes of members, laid from `at` on, and add their records to `central`."""
    runs: list[_Run] = []
    for member in members:
        end = _end_of(source, member)
        if runs and runs[-1].stop == member.offset:
            runs[-1] = runs[-1]._replace(stop=end)
        else:
            runs.append(_Run(member.offset, end))
        central.append(_record(member, at))
        at += end - member.offset
    return runs


def _end_of(source: Source, member: Member) -> int:
    """Give where a member's data ends. Raises ArchiveError if its header is not there."""
    size = zr.LOCAL.size + len(member.raw_name)
    head = pread_all(source, size, member.offset)
    fields = zr.LOCAL.unpack_from(head)
    if (
        fields[0] != zr.LOCAL_SIGNATURE
        or fields[2] & zr.FLAG_DESCRIPTOR
        or fields[9] != len(member.raw_name)
        or head[zr.LOCAL.size :] != member.raw_name
    ):
        raise ArchiveError(
            f"{source.label}: {printable(member.name)} is not where the directory says; "
            "check it with verify"
        )
    return member.offset + size + int(fields[10]) + member.stored_size


def _record(member: Member, offset: int) -> bytes:
    """Give a member's directory record for another place."""
    extra = b"".join(
        kind.to_bytes(2, "little") + len(data).to_bytes(2, "little") + data
        for kind, data in zr.extra_fields(member.extra)
        if kind != zr.EXTRA_ZIP64
    )
    return zr.central_record(
        member.raw_name, method=member.method, crc=member.crc, stored_size=member.stored_size,
        size=member.size, offset=offset, dos=zr.DosTime(member.dos_time, member.dos_date),
        extra=extra, flags=member.flags, mode=member.mode,
    )  # fmt: skip


def _contents(source: Source, runs: Iterable[_Run], stop_if_asked: Stop) -> Iterator[bytes]:
    for run in runs:
        at = run.start
        while at < run.stop:
            stop_if_asked()
            size = min(_BLOCK, run.stop - at)
            yield pread_all(source, size, at)
            at += size


def _lines(listed: Manifest[FullFact], names: frozenset[bytes], label: str) -> Iterator[bytes]:
    """Yield the packed lines of the members that are taken."""
    found: list[str] = []
    count = 0
    for fact in listed.lines:
        if fact.path is None or fact.name not in names:
            continue
        found.append(_line(fact))
        count += 1
        if len(found) >= _LINES:
            yield manifest.pack_lines("".join(found))
            found.clear()
    if found:
        yield manifest.pack_lines("".join(found))
    if count != len(names):
        raise ArchiveError(f"{label}: the manifest lacks members; check it with verify")


def _line(fact: FullFact) -> str:
    return manifest.record_line(
        fact.name, fact.type, fact.size, fact.mtime_ns, fact.ctime_ns, fact.inode, fact.mode,
        fact.uid, fact.gid, sha256=fact.sha256, parts=fact.parts or None,
        link=None if fact.link is None else fact.link.encode("utf-8", "surrogateescape"),
        changed=fact.changed, device=fact.device, dev=fact.dev, holes=fact.holes,
    )  # fmt: skip


def _end(text: bytes, central: list[bytes], members: int, output: Output, now: int) -> None:
    """Write the manifest, stored, for it is compressed; then the directory and its end."""
    dos, crc, times = zr.dos_time(now), crc32(text), zr.time_extras(now * 1_000_000_000)
    at = output.size
    local = zr.local_header(
        manifest.MEMBER_NAME, method=zr.STORED, crc=crc, stored_size=len(text), size=len(text),
        dos=dos, extra=times, flags=zr.FLAG_UTF8,
    )  # fmt: skip
    central.append(
        zr.central_record(
            manifest.MEMBER_NAME, method=zr.STORED, crc=crc, stored_size=len(text),
            size=len(text), offset=at, dos=dos, extra=times, flags=zr.FLAG_UTF8, mode=0o100644,
        )
    )  # fmt: skip
    output.append(local + text)
    directory = b"".join(central)
    place = output.size
    output.append(directory + zr.end_records(members + 1, len(directory), place))
