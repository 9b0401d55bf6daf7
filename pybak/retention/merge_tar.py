"""One tar archive made of members of others: pieces are copied, packed, where all of them is taken.

Batches stay what they are, less what is not taken; how, tells `pybak.retention.tar_edit`. The
manifest is written anew, with where each member lies now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pybak.backup.assemble_tar import TarBook
from pybak.backup.output import Output
from pybak.display import printable
from pybak.entries import FILE
from pybak.errors import ArchiveError
from pybak.formats import manifest
from pybak.formats.archive import Archive
from pybak.formats.decoders import GZIP, PLAIN
from pybak.formats.listing import Spot
from pybak.formats.manifest_facts import FullFact
from pybak.formats.manifest_reader import Stream
from pybak.formats.sparse import data_size
from pybak.formats.streams import GZIP_HEADER, Codec
from pybak.formats.streams import Piece as NewPiece
from pybak.formats.tar_index import PieceIndex
from pybak.formats.tar_reader import TarFile
from pybak.formats.tar_records import member_header
from pybak.formats.tar_tail import find_tail
from pybak.retention.reading import Stop, manifest_of, naming
from pybak.retention.taking import Taken, Wanted, find_heirs, target_of
from pybak.retention.tar_copy import Made, PieceMaker, in_order
from pybak.retention.tar_edit import Choice, Run, Unit, batches, edit, units

Owners = Mapping[str, str]
"""Names of users or groups by their numbers, as manifests list them."""


class _BatchEnd(NamedTuple):
    """That a batch is complete, with the manifest's lines of its members."""

    lines: list[str]


class TarMerger:
    """Lays members of archives down in `output`, and enters them in `book`.

    `owners` are names of users and of groups that members may come to belong to.
    """

    def __init__(
        self,
        book: TarBook,
        how: Codec,
        output: Output,
        *,
        owners: tuple[Owners, Owners],
        workers: int,
        stop_if_asked: Stop,
    ) -> None:
        self._book = book
        self._how = how
        self._output = output
        self._owners = owners
        self._workers = workers
        self._stop_if_asked = stop_if_asked

    def take(self, archive: Archive, wanted: Wanted) -> Taken:
        """Take what is wanted of an archive; raises ArchiveError if some of it is not there."""
        if not isinstance(archive, TarFile):
            raise ArchiveError(f"{archive.label}: is no tar archive")
        with naming(archive.label):
            return self._take(archive, wanted)

    def _take(self, archive: TarFile, wanted: Wanted) -> Taken:
        index = _IndexMaker(archive)
        heirs = find_heirs(index.passing(manifest_of(archive)), wanted.names)
        choice = Choice(wanted, heirs)
        headers = _Headers(archive, index.finished(), *self._owners)
        stream = manifest_of(archive)
        taken = Taken()

        def work() -> Iterator[Unit | _BatchEnd]:
            for batch in batches(stream.lines(pieces=True)):
                edited = edit(batch, choice, headers.make)
                taken.members += len(edited.lines)
                taken.rewritten += edited.rewritten
                yield from units(edited.cuts, headers.index, self._how.piece_bytes)
                if edited.lines:
                    yield _BatchEnd(edited.lines)

        maker = PieceMaker(archive.source, archive.compression, self._how)

        def made(unit: Unit | _BatchEnd) -> Made | _BatchEnd:
            return unit if isinstance(unit, _BatchEnd) else maker.make(unit)

        self._output.append_stream(self._entered(in_order(made, work(), workers=self._workers)))
        taken.users, taken.groups = stream.users, stream.groups
        if taken.members != len(wanted):
            raise ArchiveError(
                f"holds {taken.members} members of the {len(wanted)} that it should; "
                "check it with verify"
            )
        return taken

    def _entered(self, made: Iterator[Made | _BatchEnd]) -> Iterator[bytes]:
        """Yield packed bytes, and enter each batch when it is complete."""
        pieces: list[NewPiece] = []
        for one in made:
            self._stop_if_asked()
            if isinstance(one, _BatchEnd):
                text = manifest.pieces_line(pieces) + "".join(one.lines)
                self._book.enter(pieces, manifest.pack_lines(text))
                pieces = []
                continue
            for packed, piece in one:
                pieces.append(piece)
                yield packed


class _IndexMaker:
    """Collects the pieces of an archive while the lines of its manifest go by."""

    def __init__(self, archive: TarFile) -> None:
        self._archive = archive
        self._is_plain = archive.compression == PLAIN
        start = len(GZIP_HEADER) if archive.compression == GZIP else 0
        self._index = PieceIndex(stored_at=start, is_own=True)

    def passing(self, stream: Stream) -> Iterator[FullFact]:
        """Yield the lines of members."""
        for line in stream.lines(pieces=True):
            for stored, plain, crc in line.pieces or ():
                if not stored or not plain:
                    raise ArchiveError("the manifest lists an empty piece; it is damaged")
                self._index.add(plain if self._is_plain else stored, plain, crc)
            if line.path is not None:
                yield line

    def finished(self) -> PieceIndex:
        """Give the index. Raises ArchiveError if it does not fit the archive."""
        tail = find_tail(self._archive.source, self._archive.compression)
        assert tail is not None, "the manifest was found by it"
        stored_end = tail.footer.head if self._is_plain else tail.footer.stored_at
        if (self._index.stored_end, self._index.plain_end) != (stored_end, tail.footer.head):
            raise ArchiveError("the manifest lists pieces that do not fit the archive")
        return self._index


class _Headers:
    """Makes headers of members that are told in other words than the archive has them."""

    def __init__(self, archive: TarFile, index: PieceIndex, users: Owners, groups: Owners) -> None:
        self.index = index
        self._users = users
        self._groups = groups
        self._tar = TarFile(archive.source, archive.compression, name=archive.name, index=index)

    def make(self, old: FullFact, place: Run, new: FullFact, is_link: bool) -> bytes:
        """Give what stands before the content of a member.

        A link that becomes the file has its attributes too; others have none.
        """
        assert old.at is not None
        content = place.start + old.at[1] - old.at[0]
        is_file = old.type == FILE
        size = old.size if is_file else 0
        stored = size if old.sparse is None else data_size(old.sparse)
        spot = Spot(old.name, place.start, content, stored, size, old.type)
        entry = self._tar.entry(spot)
        if entry is None:
            raise ArchiveError(f"lacks the headers of {printable(old.name)}; it is damaged")
        return member_header(
            new.name, new.type, mode=new.mode, uid=new.uid, gid=new.gid, mtime_ns=new.mtime_ns,
            size=new.size,
            user=entry.user if new.uid == entry.uid else _owner(self._users, new.uid),
            group=entry.group if new.gid == entry.gid else _owner(self._groups, new.gid),
            link=target_of(new) if new.link is not None else b"",
            attributes=self._tar.attributes(spot).xattrs if is_link else {},
            data_map=new.sparse,
        )  # fmt: skip


def _owner(names: Owners, number: int) -> bytes:
    return names.get(str(number), "").encode("utf-8", "surrogateescape")
