"""What a tar archive of ours holds, by the manifest at its end.

The manifest is believed where it can be true: its pieces fill the archive, its members fill the
pieces. Whatever does not fit is an ArchiveError.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from pybak.display import printable
from pybak.entries import FILE, HARD_LINK, LINK
from pybak.errors import ArchiveError
from pybak.formats.archive import MAX_ID, Limits, check_ratio
from pybak.formats.decoders import GZIP, PLAIN
from pybak.formats.listing import NO_OWNER, Listed, Listing, Spot, bounded_time
from pybak.formats.manifest_bounds import Bounds
from pybak.formats.manifest_facts import Fact
from pybak.formats.manifest_reader import Manifest, read_manifest
from pybak.formats.source import Source
from pybak.formats.tar_index import PieceIndex
from pybak.formats.tar_records import BLOCK, KIND_OF_TYPE, sparse_map_block
from pybak.formats.tar_stream import TarStream
from pybak.formats.tar_tail import ManifestContent, Tail, frame_damage
from pybak.formats.volume_probe import probe_tar, probe_volumes
from pybak.problems import DAMAGED, Problem

_GZIP_HEADER_SIZE = 10
_BYTES_A_LINE = 4  # that a line of our manifest takes at least, packed
_KINDS = frozenset(KIND_OF_TYPE.values())


def list_ours(
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


def read_tar_manifest(
    source: Source,
    content: Iterable[bytes],
    most: int,
    names: AbstractSet[bytes] | None = None,
) -> Manifest[Fact]:
    """Read a manifest of at most so many lines, or those of `names`; errors name the archive."""
    try:
        return read_manifest(content, Bounds(most, source.size), names)
    except ArchiveError as error:
        if str(error).startswith(source.label):
            raise
        raise ArchiveError(f"{source.label}: {error}") from error


def _check_end(source: Source, compression: str, index: PieceIndex, stored_at: int) -> None:
    if compression != PLAIN and index.stored_end != stored_at:
        raise ArchiveError(f"{source.label}: the manifest's pieces do not fit the archive")


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
            manifest = read_tar_manifest(source, content, most, names)
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
    listing = Listing(
        members, True, [], [], False, manifest.head, manifest.references, manifest.status,
        manifest.users, manifest.groups,
    )  # fmt: skip
    return listing, index


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
    uid, gid = known_owner(line.uid, line.gid)
    link = os.fsencode(line.link) if line.link is not None else None
    return Listed(
        name, kind, size, bounded_time(line.mtime_ns), 1,
        Spot(name, head, data, stored_size, size, kind), 0,
        line.mode & 0o7777, uid, gid, manifest.users.get(uid, ""), manifest.groups.get(gid, ""),
        link if kind in (LINK, HARD_LINK) else None, line.device, line.sha256 or "", line.parts,
        line.sparse, line.sparse is not None or line.holes,
    )  # fmt: skip


def known_owner(uid: int, gid: int) -> tuple[int, int]:
    """Give the numbers of user and group, or none where a system can't have them."""
    if 0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID:
        return uid, gid
    return NO_OWNER, NO_OWNER
