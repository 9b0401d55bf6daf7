"""The plain bytes of a tar stream, read from any place, with as little unpacking as can be.

Reading forward unpacks every piece once; a jump begins at the nearest piece start before it. A
piece of ours that was unpacked from its start to its end is compared with the length and the
CRC-32 that the manifest tells.
"""

from __future__ import annotations

from collections.abc import Iterator

from isal import isal_zlib

from pybak.errors import ArchiveError
from pybak.formats.archive import CHUNK, Limits, check_ratio
from pybak.formats.decoders import GZIP, PLAIN, READ, decode, inflate_piece
from pybak.formats.source import Source
from pybak.formats.tar_index import Piece, PieceIndex

_FAR = 1 << 63
_WORTH = 128 << 10  # plain bytes; of fewer nobody need be told beforehand
_LITTLE = 512 << 10  # bytes of a piece that are not worth to be left out
_READ_ON = READ + (128 << 10)  # what is read beyond the last byte: a step, and a block to check
_NOTE_EVERY = 256 << 10  # plain bytes; closer places to start at are not worth their memory


class TarStream:
    """The stream that `source` holds, `at` the place of the next byte.

    With an index it can `seek`; without one it is read through once, to its end, and makes one.
    `damage` collects what is wrong with pieces although they could be unpacked. Not for use by
    several threads at once.
    """

    def __init__(
        self,
        source: Source,
        compression: str,
        index: PieceIndex | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.at = 0
        self.damage: list[str] = []
        self._source = source
        self._compression = compression
        self._index = index
        self._limits = limits
        self._blocks: Iterator[bytes] = iter(())
        self._block = b""
        self._block_at = 0
        self._piece_end = 0
        self._range_end = _FAR
        self._failed = (0, 0, "")
        self._damaged_pieces: dict[str, int] = {}
        self._is_over = False  # the blocks ended in an error
        self._seen: PieceIndex | None = None
        self._seen_at = (0, 0)
        if index is None:
            self._blocks = decode(source, compression, 0, source.size, self._note)
        else:
            self._start(0)

    # -- reading

    def read(self, length: int) -> bytes:
        """Give `length` bytes, fewer only at the end."""
        data = self.some(length)
        if len(data) == length or not data:
            return data
        pieces = [data]
        missing = length - len(data)
        while missing and (data := self.some(missing)):
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)

    def some(self, most: int) -> bytes:
        """Give at least one byte and at most `most`, none only at the end."""
        offset = self.at - self._block_at
        while offset >= len(self._block):
            offset -= len(self._block)
            if not self._advance():
                return b""
        data = self._block[offset : offset + most]
        self.at += len(data)
        return data

    def unread(self, data: bytes) -> None:
        """Take back what `read` gave last."""
        self._block = data + self._block[self.at - self._block_at :]
        self.at -= len(data)
        self._block_at = self.at

    def drain(self) -> None:
        """Read to the end; raise ArchiveError if the stream is damaged."""
        while self._advance():
            pass
        self.at = self._block_at

    @property
    def made(self) -> int:
        """How far the stream was unpacked, in plain bytes."""
        return self._block_at + len(self._block)

    def _advance(self) -> bool:
        """Unpack the next block. False at the end."""
        self._block_at += len(self._block)
        self._block = b""
        try:
            self._block = next(self._blocks, b"")
        except ArchiveError as error:
            # What follows in this piece can't be had either; it need not be unpacked to learn it.
            self._is_over = True
            self._failed = self._block_at, self._range_end, str(error)
            raise
        if self._limits is not None:
            check_ratio(self._source, self.made, self._limits)
        return bool(self._block)

    def seek(self, at: int) -> None:
        """Go to the byte `at`. What lies between is unpacked unless a piece starts there."""
        since, until, why = self._failed
        if since < at < until:
            raise ArchiveError(why)
        if self._index is not None and (self._is_over or not self._is_near(at)):
            self._start(at)
        self.at = at

    def expect(self, start: int, stop: int) -> None:
        """Say that the plain bytes from `start` to `stop` will be read next."""
        index = self._index
        if stop - start < _WORTH or index is None or not index.is_own or start >= index.plain_end:
            return
        first, last = index[index.find(start)], index[index.find(min(stop, index.plain_end) - 1)]
        if self._compression == PLAIN:
            self._source.expect(stop - start, first.stored_at + start - first.plain_at)
            return
        # Where in the last piece can only be guessed.
        part = (stop - last.plain_at) / (last.plain_end - last.plain_at)
        end = last.stored_at + int(part * (last.stored_end - last.stored_at)) + _READ_ON
        if end > last.stored_end - _LITTLE:
            end = last.stored_end
        self._source.expect(end - first.stored_at, first.stored_at)

    def _is_near(self, at: int) -> bool:
        """Whether going on from here is the shortest way to `at`."""
        if at < self._block_at or self._index is None:
            return False
        end = self._block_at + len(self._block)
        if at <= end:
            return True
        if self._compression == PLAIN:
            return at < end + CHUNK
        number = self._index.find(at)
        return number < len(self._index) and self._index[number].plain_at <= end

    def finish(self) -> None:
        """Unpack what is left of the piece that was begun, so that it is checked as a whole."""
        while self._block_at + len(self._block) < self._piece_end:
            if not self._advance():
                return

    def again(self) -> None:
        """Unpack anew whatever is read from now on; only with an index."""
        self._failed = (0, 0, "")
        self._is_over = True
        self._block, self._blocks = b"", iter(())
        self._piece_end = 0

    def is_sound(self, damage: str) -> bool:
        """Whether the piece that one of `damage` told of is right when it is read once more."""
        number = self._damaged_pieces.get(damage)
        return number is not None and self._index is not None and self.fits(self._index[number])

    def fits(self, piece: Piece) -> bool:
        """Whether a piece of ours unpacks to what the manifest tells of it."""
        size = crc = 0
        try:
            for block in self.unpack(piece):
                size += len(block)
                crc = isal_zlib.crc32(block, crc)
                if size > piece.plain_end - piece.plain_at:
                    return False
        except ArchiveError:
            return False
        return (size, crc) == (piece.plain_end - piece.plain_at, piece.crc)

    # -- with an index

    def _start(self, at: int) -> None:
        index = self._index
        assert index is not None
        self._block = b""
        self._is_over = False
        self._range_end = _FAR
        number = min(index.find(at), len(index) - 1)
        if number < 0 or (at >= index.plain_end and index.is_own):
            self._block_at, self._piece_end, self._blocks = at, 0, iter(())
            return
        piece = index[number]
        if not index.is_own and self._compression == PLAIN:
            self._block_at = at
            self._blocks = decode(self._source, PLAIN, at, self._source.size)
        elif index.is_own:
            skipped = at - piece.plain_at if self._compression == PLAIN else 0
            self._block_at = piece.plain_at + skipped
            self._blocks = self._pieces(number, skipped)
        else:
            self._block_at = piece.plain_at
            self._blocks = decode(
                self._source, self._compression, piece.stored_at, self._source.size
            )

    def _pieces(self, number: int, skipped: int) -> Iterator[bytes]:
        """Yield what pieces of ours hold, from `number` on; the first without `skipped` bytes."""
        index = self._index
        assert index is not None
        while number < len(index):
            piece = index[number]
            length = piece.plain_end - piece.plain_at
            self._range_end = piece.plain_end
            self._piece_end = 0 if skipped else piece.plain_end
            made, crc, held = skipped, 0, b""
            try:
                for block in self._explained(piece, skipped):
                    made += len(block)
                    crc = isal_zlib.crc32(block, crc)
                    if made > length:
                        raise self._bad(piece, "holds more than the manifest says")
                    if held:
                        yield held
                    held = block
            except ArchiveError as error:
                if made != length:
                    yield held
                    raise
                # All that it should hold came out of it, and members have digests of their own.
                self._note_damage(str(error).removeprefix(f"{self._source.label}: "), number)
            if made == length and not skipped and crc != piece.crc:
                where = self._where(piece)
                self._note_damage(f"is damaged: the CRC-32 of a piece ({where}) is wrong", number)
            yield held
            if made != length:
                raise self._bad(piece, "holds less than the manifest says")
            number += 1
            skipped = 0

    def _explained(self, piece: Piece, skipped: int) -> Iterator[bytes]:
        try:
            yield from self.unpack(piece, skipped)
        except ArchiveError as error:
            reason = str(error).removeprefix(f"{self._source.label}: ")
            raise self._bad(piece, f"can't be unpacked: it {reason}") from error

    def unpack(self, piece: Piece, skipped: int = 0) -> Iterator[bytes]:
        """Yield what a piece of ours holds, unchecked; `skipped` is for plain streams only."""
        if self._compression == GZIP:
            return inflate_piece(self._source, piece.stored_at, piece.stored_end)
        start = piece.stored_at + skipped
        return decode(self._source, self._compression, start, piece.stored_end)

    def _where(self, piece: Piece) -> str:
        size = piece.stored_end - piece.stored_at
        return f"{size} bytes at {piece.stored_at}{self._source.place(piece.stored_at, size)}"

    def _bad(self, piece: Piece, what: str) -> ArchiveError:
        return ArchiveError(
            f"{self._source.label}: is damaged: a piece ({self._where(piece)}) {what}"
        )

    def _note_damage(self, text: str, number: int) -> None:
        self._damaged_pieces[text] = number
        if text not in self.damage:
            self.damage.append(text)

    # -- without one

    def _note(self, stored_at: int) -> None:
        """Remember that reading can start at `stored_at`, where the next block comes from."""
        plain_at = self.made
        if self._seen is None:
            self._seen = PieceIndex(stored_at=stored_at)
            self._seen_at = stored_at, plain_at
        elif plain_at - self._seen_at[1] >= _NOTE_EVERY:
            self._seen.add(stored_at - self._seen_at[0], plain_at - self._seen_at[1])
            self._seen_at = stored_at, plain_at

    def made_index(self) -> PieceIndex:
        """Give the index of what was read through."""
        made = self._seen or PieceIndex()
        made.add(max(self._source.size - self._seen_at[0], 0), max(self.made - self._seen_at[1], 0))
        return made
