"""A batch of a tar archive without the members that are not taken: which bytes of it go on.

A batch is a run of pieces with whole members in it, as its run wrote them. What is left of it is
told as cuts: runs of the old plain stream, and new bytes for headers that say something else. A
piece that lies in one cut from its start to its end is copied; what is left of others is packed
anew (`units`). No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from pybak.display import printable
from pybak.entries import FILE, HARD_LINK
from pybak.errors import ArchiveError
from pybak.formats.manifest_facts import FullFact
from pybak.formats.tar_index import Piece, PieceIndex
from pybak.formats.tar_records import BLOCK, sparse_map_block
from pybak.retention.taking import Told, Wanted, as_told, line_of, target_of


class Run(NamedTuple):
    """Bytes of the old plain stream, from `start` to before `stop`."""

    start: int
    stop: int


Cut = Run | bytes


class Batch(NamedTuple):
    """Members and the pieces that hold them: plain bytes from `start` to before `stop`."""

    start: int
    stop: int
    lines: list[FullFact]


class Edited(NamedTuple):
    """What is left of a batch: its bytes, and the manifest's lines of the members in them.

    `rewritten` are those that are something else than they were.
    """

    cuts: list[Cut]
    lines: list[str]
    rewritten: list[FullFact]


def batches(lines: Iterable[FullFact]) -> Iterator[Batch]:
    """Yield the batches of a manifest whose lines come with their pieces. Raises ArchiveError."""
    start = stop = 0
    members: list[FullFact] = []
    for line in lines:
        if line.pieces is not None:
            if members:
                yield Batch(start, stop, members)
            start, members = stop, []
            stop += sum(plain for _, plain, _ in line.pieces)
        elif line.path is not None:
            if start == stop:
                raise ArchiveError("the manifest does not say where members lie; it is damaged")
            members.append(line)
    if members:
        yield Batch(start, stop, members)


Header = Callable[[FullFact, Run, FullFact, bool], bytes]
"""Gives what stands before the content of a member that is told in other words.

It gets the old line, where the member lies, the new line, and whether that is a link's.
"""


class Choice(NamedTuple):
    """What is taken of an archive, and by their files' names the links that become files."""

    wanted: Wanted
    heirs: Mapping[bytes, FullFact]

    def told(self, name: bytes) -> Iterator[Told]:
        """Yield what is told of the content of this member."""
        if (heir := self.heirs.get(name)) is not None:
            yield Told(heir, is_link=True)
        yield from self.wanted.told.get(name, ())


def edit(batch: Batch, choice: Choice, header: Header) -> Edited:
    """Leave in a batch what is taken of it; what is told anew stands where its content stood.

    Raises ArchiveError where the manifest can't be true.
    """
    names, heirs = choice.wanted.names, choice.heirs
    cuts: list[Cut] = []
    lines: list[str] = []
    rewritten: list[FullFact] = []
    at = 0
    for line, place in zip(batch.lines, _places(batch), strict=True):
        name = line.name
        assert line.at is not None
        content = Run(batch.start + line.at[1], place.stop)
        news: list[tuple[FullFact, bytes]] = []
        if name in names:
            heir = heirs.get(target_of(line)) if line.type == HARD_LINK else None
            if heir is None:
                _add(cuts, place)
                lines.append(line_of(line, (at, at + content.start - place.start)))
                at += place.stop - place.start
            elif heir.path != line.path:  # else it stands where the file stood
                new = msgspec.structs.replace(line, link=heir.path)
                news.append((new, header(line, place, new, False)))
        for told in choice.told(name):
            new = as_told(line, told)
            rewritten.append(new)
            news.append((new, header(line, place, new, told.is_link)))
        for new, head in news:
            cuts.append(head)
            _add(cuts, content)
            lines.append(line_of(new, (at, at + len(head))))
            at += len(head) + content.stop - content.start
    return Edited(cuts, lines, rewritten)


def _add(cuts: list[Cut], run: Run) -> None:
    if run.start == run.stop:
        return
    if cuts and isinstance(cuts[-1], Run) and cuts[-1].stop == run.start:
        cuts[-1] = Run(cuts[-1].start, run.stop)
    else:
        cuts.append(run)


def _places(batch: Batch) -> Iterator[Run]:
    """Yield where each member lies, headers and padding included; nothing may be between them."""
    at = batch.start
    for line in batch.lines:
        if line.at is None or batch.start + line.at[0] != at or line.at[1] <= line.at[0]:
            raise ArchiveError(f"the manifest misplaces {printable(line.name)}; it is damaged")
        stop = batch.start + line.at[1] + _content_bytes(line)
        stop += -stop % BLOCK
        yield Run(at, stop)
        at = stop
    if at != batch.stop:
        raise ArchiveError("the manifest lists pieces that do not fit their members; it is damaged")


def _content_bytes(line: FullFact) -> int:
    if line.type != FILE:
        return 0
    if line.sparse is None:
        return line.size
    try:
        return len(sparse_map_block(line.sparse, line.size)) + sum(n for _, n in line.sparse)
    except ValueError as error:
        message = f"the manifest has an impossible map of {printable(line.name)}; it is damaged"
        raise ArchiveError(message) from error


class Copied(NamedTuple):
    """A piece that goes on as it is."""

    piece: Piece


class Packed(NamedTuple):
    """Plain bytes that are packed anew: new ones, and from others of a piece these."""

    parts: list[bytes | tuple[Piece, int, int]]


Unit = Copied | Packed


def units(cuts: Sequence[Cut], index: PieceIndex, piece_bytes: int) -> Iterator[Unit]:
    """Yield what the cuts of a batch are made of, in order.

    What is left of several pieces is put into one of `piece_bytes` as far as it fits.
    """
    parts: list[bytes | tuple[Piece, int, int]] = []
    size = 0
    last = -1
    for cut in cuts:
        if isinstance(cut, bytes):
            parts.append(cut)
            size += len(cut)
            continue
        at = cut.start
        while at < cut.stop:
            piece = index[index.find(at)]
            stop = min(cut.stop, piece.plain_end)
            is_whole = (at, stop) == (piece.plain_at, piece.plain_end)
            is_full = last != piece.plain_at and size + stop - at > piece_bytes
            if parts and (is_whole or is_full):
                yield Packed(parts)
                parts, size = [], 0
            if is_whole:
                yield Copied(piece)
            else:
                parts.append((piece, at - piece.plain_at, stop - piece.plain_at))
                size += stop - at
                last = piece.plain_at
            at = stop
    if parts:
        yield Packed(parts)
