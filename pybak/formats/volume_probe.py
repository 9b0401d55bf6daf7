"""Whether the volumes of an archive belong together: a look into each of them.

The archive's end tells where members or pieces start. One that lies in each volume is compared
with what the end tells of it, so that a volume of another archive, or one that was swapped or
damaged, is named before anything is unpacked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from isal import isal_zlib

from pybak.formats.manifest import VOLUME_START
from pybak.formats.source import JoinedSource, Source
from pybak.formats.zip_directory import Directory

if TYPE_CHECKING:
    from pybak.formats.tar_index import Piece, PieceIndex
    from pybak.formats.tar_stream import TarStream
    from pybak.formats.zip_reader import ZipFile

_SIDE_BY_SIDE = 8  # volumes whose starts are read at the same time
_LOOKED_AT = 64  # pieces of a volume among which the smallest is taken


def probe_volumes(
    source: Source, split: int | None, starts: Sequence[int], look: Callable[[], list[str]]
) -> list[str]:
    """Say of each volume that is not the one that was written that it is not.

    `split` and `starts` are the manifest's: how volumes begin. `look` looks into each of them, in
    one of the ways below, as far as that does not tell; but not where volumes must be fetched,
    unless it tells nothing.
    """
    found = _probe_starts(source, split, starts)
    is_far = any(one.version for one in source.identity)
    if found or (found is not None and is_far):
        return found
    return look()


def _probe_starts(source: Source, split: int | None, starts: Sequence[int]) -> list[str] | None:
    """Compare how volumes begin; None for a set that was cut anew, or of which nothing is known."""
    volumes = _volumes(source)
    if len(volumes) < 2 or not split or not starts:
        return None
    compared = list(zip(starts, volumes, strict=False))
    if any(start != number * split for number, (_, (_, start, _)) in enumerate(compared)):
        return None
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        heads = pool.map(lambda one: source.pread(VOLUME_START, one[1][1]), compared)
        crcs = [isal_zlib.crc32(head) for head in heads]
    return [
        _stranger(name, starts.index(crc) if crc in starts else None, volumes)
        for crc, (expected, (name, _, _)) in zip(crcs, compared, strict=True)
        if crc != expected
    ]


def _stranger(name: str, other: int | None, volumes: Sequence[tuple[str, int, int]]) -> str:
    if other is None or other >= len(volumes):
        return f"{name} does not belong here: it is of another archive or damaged"
    place = volumes[other][0].rpartition("/")[2]
    return f"{name} does not belong here: it holds what {place} should; swap them back"


def probe_zip(archive: ZipFile, directory: Directory) -> list[str]:
    """Say of each volume of a ZIP archive that does not fit the directory that it does not.

    The first and the last member that start in a volume are looked at; a volume in which none
    starts is not looked at. Empty for an archive that is one file.
    """
    volumes = _volumes(archive.source)
    if len(volumes) < 2:
        return []
    members, limits = directory.members, directory.limits
    order = sorted(range(len(members)), key=lambda index: members[index].offset)
    offsets = [members[index].offset for index in order]
    verdicts: list[tuple[str, bool]] = []
    for name, start, stop in volumes:
        first, end = bisect_left(offsets, start), bisect_left(offsets, stop)
        if first < end:
            chosen = {order[first], order[end - 1]}
            fits = all(archive.has_header(members[index], limits[index]) for index in chosen)
            verdicts.append((name, fits))
    return _sentences(verdicts, volumes[-1][0])


def probe_tar(stream: TarStream, source: Source, index: PieceIndex) -> list[str]:
    """Say of each volume of a tar archive of ours that does not fit the manifest that it does not.

    A piece that lies in the volume is unpacked; a volume without a whole one is not looked at.
    """
    volumes = _volumes(source)
    if len(volumes) < 2:
        return []
    verdicts: list[tuple[str, bool]] = []
    for name, start, stop in volumes:
        piece = _smallest(index, start, stop)
        if piece is not None:
            verdicts.append((name, stream.fits(piece)))
    return _sentences(verdicts, volumes[-1][0])


def _volumes(source: Source) -> tuple[tuple[str, int, int], ...]:
    return source.volumes if isinstance(source, JoinedSource) else ()


def _smallest(index: PieceIndex, start: int, stop: int) -> Piece | None:
    first = bisect_left(range(len(index)), start, key=lambda number: index[number].stored_at)
    pieces = []
    for number in range(first, min(first + _LOOKED_AT, len(index))):
        piece = index[number]
        if piece.stored_end > stop:
            break
        pieces.append(piece)
    return min(pieces, key=lambda piece: piece.plain_end - piece.plain_at, default=None)


def _sentences(verdicts: Iterable[tuple[str, bool]], last: str) -> list[str]:
    verdicts = list(verdicts)
    bad = [name for name, fits in verdicts if not fits]
    others = [fits for name, fits in verdicts if name != last]
    if len(others) > 1 and not any(others):
        # The end of the archive is what all were compared with.
        return [f"{last} does not belong to the others: it is of another archive or damaged"]
    return [
        f"{name} does not belong here: it is of another archive, swapped or damaged" for name in bad
    ]
