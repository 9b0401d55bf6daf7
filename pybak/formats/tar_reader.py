"""Tar archives read back: plain, gzip, bzip2 and zstd; and single files compressed so.

Our own archives are listed by their manifest, and a member is read by unpacking only the pieces
that hold it. Archives of others are read through once to list them; gzip members, bzip2 streams
and zstd frames are then where reading can start. Whatever is read of a member, its headers are
parsed again and must say what was listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from pybak.attributes import is_kept
from pybak.display import printable
from pybak.errors import ArchiveError
from pybak.formats.archive import CHUNK, Attributes, Limits, check_ratio
from pybak.formats.decoders import FORMATS, PLAIN
from pybak.formats.listing import Spot
from pybak.formats.source import Identity, Source
from pybak.formats.tar_attributes import attribute
from pybak.formats.tar_headers import Entry, HeaderReader, says_only
from pybak.formats.tar_index import PieceIndex
from pybak.formats.tar_stream import TarStream

if TYPE_CHECKING:
    from pybak.formats.listing import Listed, Listing, Locator

_SUFFIXES: Final = (b".gz", b".bz2", b".zst", b".gzip", b".bzip2", b".zstd", b".bz")


_SHORT = 1536  # bytes of headers: a block, perhaps with an extended header of one more


class _Found(NamedTuple):
    """The member that was looked at last."""

    spot: Spot
    data: int
    records: Mapping[bytes, bytes]


class TarFile:
    """An open archive. A context manager. Closing it closes the source.

    It holds the place where it last read, so each thread needs one of its own. Members are read
    fastest in the order of their offsets. `name` is the archive's file name; the member of a
    single compressed file is called like it. `index` is what another TarFile of the same archive
    found out; without it `listing` must come before anything is read.
    """

    def __init__(
        self,
        source: Source,
        compression: str,
        *,
        name: bytes,
        index: PieceIndex | None = None,
    ) -> None:
        self.source = source
        self.label = source.label
        self.compression = compression
        self.name = name
        self._index = index
        self._stream: TarStream | None = None
        self._last: _Found | None = None

    @property
    def format(self) -> str:
        """One of tar, tar.gz, tar.bz2 and tar.zst, or gz, bz2 and zst for a single file."""
        if self._index is not None and self._index.is_single:
            return self.compression
        return FORMATS[self.compression]

    @property
    def identity(self) -> tuple[Identity, ...]:
        """What each file behind it looked like when it was opened."""
        return self.source.identity

    @property
    def index(self) -> PieceIndex | None:
        """Where reading can start; None before `listing`."""
        return self._index

    def close(self) -> None:
        """Let go of the files."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def listing(self, limits: Limits, names: AbstractSet[bytes] | None = None) -> Listing:
        """List all members: by the manifest if there is a good one, else by reading through.

        With `names` only those called so, and what hard links among them stand for, may be listed.
        Raises ArchiveError for what is no tar and no single file either, and for a bomb.
        """
        from pybak.formats.tar_listing import list_tar

        listing, self._index = list_tar(
            self.source, self.compression, self.single_name(), limits, names
        )
        self._stream = self._last = None
        return listing

    def single_name(self) -> bytes:
        """Give the name of the member if this is a single compressed file."""
        stem, suffix = os.path.splitext(self.name)
        return stem if suffix.lower() in _SUFFIXES and stem else self.name

    def check_limits(self, members: Sequence[Listed], limits: Limits) -> None:
        """Raise ArchiveError if `members` would unpack to far more than the archive's size."""
        check_ratio(self.source, sum(one.locator.stored_size for one in members), limits)

    # -- members

    def read(self, locator: Locator, limit: int) -> bytes:
        """Give the whole content of a member of at most ONE_SHOT bytes; see `chunks`."""
        return b"".join(self.chunks(locator, limit))

    def chunks(self, locator: Locator, limit: int) -> Iterator[bytes]:  # noqa: ARG002
        """Yield a member's content in pieces of at most CHUNK bytes; of a sparse one its data.

        Raises ArchiveError if the headers contradict what was listed, or the stream is damaged.
        """
        spot, data, _ = self._find(locator)
        yield from self._content(spot, data, spot.stored_size)

    def _content(self, spot: Spot, at: int, size: int) -> Iterator[bytes]:
        stream = self._open()
        stop = at + size
        while at < stop:
            # Whoever takes the chunks may read something else in between.
            if stream.at != at:
                stream.seek(at)
            data = stream.some(min(CHUNK, stop - at))
            if not data:
                raise self._damaged(spot, "is cut short", at)
            at += len(data)
            yield data

    def attributes(self, locator: Locator) -> Attributes:
        """Give a member's extended attributes and ACLs, without those that belong to a machine."""
        records = self._find(locator).records
        xattrs: dict[bytes, bytes] = {}
        problems: list[str] = []
        for key, value in records.items():
            try:
                name, content = attribute(key, value)
            except ArchiveError as error:
                problems.append(str(error))
                continue
            if is_kept(name):
                xattrs[name] = content
        return Attributes(xattrs, tuple(problems))

    def entry(self, locator: Locator) -> Entry | None:
        """Give what a member's headers say; None for a single file, which has none."""
        spot = _spot(locator)
        assert self._index is not None
        return None if self._index.is_single else self._parse(spot)

    def owner(self, locator: Locator) -> tuple[int, int] | None:  # noqa: ARG002
        """Give nothing: the listing tells it."""
        return None

    def again(self) -> bool:
        """Have what is read from now on be fetched anew; False where it is not fetched at all."""
        if not self.source.forget():
            return False
        self._last = None
        if self._stream is not None:
            self._stream.again()
        return True

    def finish(self) -> list[str]:
        """Check the rest of the piece that was read last; say what is damaged beside contents."""
        if self._stream is None:
            return []
        self._stream.finish()
        found, self._stream.damage = self._stream.damage, []
        if found and self.again():
            found = [text for text in found if not self._stream.is_sound(text)]
        return [f"{self.label}: {text}" for text in found]

    def _open(self) -> TarStream:
        if self._stream is None:
            if self._index is None:
                raise ValueError("the archive was not listed")
            self._stream = TarStream(self.source, self.compression, self._index)
        return self._stream

    def _find(self, locator: Locator) -> _Found:
        """Compare a member's headers with what was listed."""
        spot = _spot(locator)
        stream = self._open()
        assert self._index is not None
        if self._index.is_single:
            return _Found(spot, 0, {})
        if self._last is not None and self._last.spot == spot:
            return self._last
        size = spot.stored_size
        stream.expect(spot.head, spot.data + size)
        if self._index.is_own and spot.size == size and 0 < spot.data - spot.head <= _SHORT:
            stream.seek(spot.head)
            head = stream.read(spot.data - spot.head)
            if says_only(head, spot.kind, spot.name, size):
                self._last = _Found(spot, spot.data, {})
                return self._last
            stream.unread(head)
        entry = self._parse(spot)
        self._last = _Found(spot, entry.data, entry.records)
        return self._last

    def _parse(self, spot: Spot) -> Entry:
        """Parse a member's headers and compare them with what was listed."""
        stream = self._open()
        assert self._index is not None
        stream.seek(spot.head)
        try:
            entry = HeaderReader(self._index.shared_at(spot.head)).next(stream, spot.head)
        except ArchiveError as error:
            if str(error).startswith(self.label):
                raise
            raise self._damaged(spot, f"can't be read: the archive {error}") from error
        if entry is None:
            raise self._damaged(spot, "is not where it was listed")
        name = entry.name if spot.name or entry.name != b"." else b""
        found = (name, entry.kind, entry.size, entry.stored_size)
        if found != (spot.name, spot.kind, spot.size, spot.stored_size):
            raise self._damaged(spot, "has a header that contradicts what was listed")
        if entry.fault:
            raise self._damaged(spot, entry.fault)
        return entry

    def _damaged(self, spot: Spot, what: str, at: int | None = None) -> ArchiveError:
        place = self._place(spot.head if at is None else at)
        return ArchiveError(f"{self.label}: member {printable(spot.name)}{place} {what}")

    def _place(self, at: int) -> str:
        """Name the volume that holds a byte of the stream, as ` (in x.tar.002)`."""
        if self._index is None or not len(self._index):
            return ""
        if self.compression == PLAIN:
            return self.source.place(at, 1)
        piece = self._index[min(self._index.find(at), len(self._index) - 1)]
        if not self._index.is_own:
            return ""
        return self.source.place(piece.stored_at, piece.stored_end - piece.stored_at)


def _spot(locator: Locator) -> Spot:
    if not isinstance(locator, Spot):
        raise TypeError("no locator of a tar archive")
    return locator
