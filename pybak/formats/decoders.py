"""The compressed streams that a tar archive can be, read from any place where one can start.

A stream is a run of parts that each can be unpacked without what is before them: gzip members
(RFC 1952), bzip2 streams, zstd frames (RFC 8878). Memory is bounded whatever the bytes say: at
most CHUNK bytes come out at once, and a zstd window is at most 128 MiB. Every failure is an
ArchiveError, after all that could be unpacked before it was given.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from isal import igzip_lib, isal_zlib

from pybak.errors import ArchiveError
from pybak.formats.archive import CHUNK
from pybak.formats.source import Source
from pybak.units import format_size

PLAIN: Final = "tar"
GZIP: Final = "gz"
BZIP2: Final = "bz2"
ZSTD: Final = "zst"
FORMATS: Final = {PLAIN: "tar", GZIP: "tar.gz", BZIP2: "tar.bz2", ZSTD: "tar.zst"}
"""The format of a tar archive by the compression of its stream."""

READ: Final = 256 << 10
"""Bytes that are read of an archive at once."""
_BLOCK = 512
_GZIP_MAGIC = b"\x1f\x8b\x08"
_BZIP2_MAGIC = b"BZh"
_BZIP2_STARTS = (b"1AY&SY", b"\x17rE8P\x90")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # behind a byte 50 to 5F
_ZSTD_MAX_WINDOW = 128 << 20
_ZSTD_MAX_BLOCK = 128 << 10

_ZSTD_RLE, _ZSTD_RESERVED = 1, 3
_FIRST_STEP = 4 << 10
_SMALL_STEP = 4 << 10
_Errors = tuple[type[Exception], ...]
_INFLATE_ERRORS: Final[_Errors] = (isal_zlib.error, EOFError, ValueError)  # type: ignore[assignment]

Note = Callable[[int], None]
"""Called with a place in the archive where a part starts, before what it holds is given."""


class _Engine(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


_Make = Callable[[], _Engine]


def find_compression(head: bytes) -> str | None:
    """Tell by the first 512 bytes what a stream is compressed with; None if it is no tar either.

    Zeros are taken for an empty tar; only the rest tells whether it is one.
    """
    if head.startswith(_GZIP_MAGIC):
        return GZIP
    if head.startswith(_BZIP2_MAGIC) and head[3:4].isdigit() and head[4:10] in _BZIP2_STARTS:
        return BZIP2
    if head.startswith(_ZSTD_MAGIC) or _is_skippable(head):
        return ZSTD
    from pybak.formats.tar_fields import is_header

    if len(head) == _BLOCK and (is_header(head) or not any(head)):
        return PLAIN
    return None


def _is_skippable(head: bytes) -> bool:
    return head[1:4] == _ZSTD_SKIPPABLE and 0x50 <= head[0] <= 0x5F


def decode(
    source: Source, compression: str, start: int, stop: int, note: Note | None = None
) -> Iterator[bytes]:
    """Yield what the parts from `start` up to `stop` hold, at most CHUNK bytes at once.

    `start` must be where a part starts. Raises ArchiveError where the stream is damaged or cut
    short. Zeros behind the last part are passed over, as gzip and bzip2 do.
    """
    read = _Input(source, start, stop)
    decoders = {GZIP: _gzip, BZIP2: _bzip2, ZSTD: _zstd, PLAIN: _plain}
    return decoders[compression](read, note or _ignore)


def inflate_piece(source: Source, start: int, stop: int) -> Iterator[bytes]:
    """Yield what a piece of raw deflate holds that is ended by a sync flush, not by a last block.

    Raises ArchiveError if it does not inflate, or ends its stream.
    """
    read = _Input(source, start, stop)
    yield from _part(read, _inflater, _INFLATE_ERRORS, "piece", is_open=True)


def _inflater() -> igzip_lib.IgzipDecompressor:
    return igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)


def _gunzipper() -> igzip_lib.IgzipDecompressor:
    return igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)


def _ignore(_: int) -> None:
    pass


class _Input:
    """The bytes from `at` to `stop` of a source, in order; `at` may be moved back and forth."""

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self.at = start
        self._source = source
        self._stop = min(stop, source.size)
        self._block = b""
        self._block_at = start

    def take(self, length: int) -> bytes:
        """Give `length` bytes, fewer only at the end."""
        length = min(length, self._stop - self.at)
        if length <= 0:
            return b""
        offset = self.at - self._block_at
        if not 0 <= offset <= len(self._block) - length:
            wanted = min(max(length, READ), self._stop - self.at)
            self._block, self._block_at, offset = self._source.pread(wanted, self.at), self.at, 0
        data = self._block[offset : offset + length]
        self.at += len(data)
        return data

    def reaches(self, at: int) -> bool:
        """Whether there are bytes up to `at`."""
        return at <= self._stop

    def is_zero(self) -> bool:
        """Whether nothing but zeros is left."""
        at = self.at
        while data := self.take(READ):
            if any(data):
                self.at = at
                return False
        return True

    def damaged(self, what: str, at: int | None = None) -> ArchiveError:
        """Make an error that names the place."""
        at = self.at if at is None else at
        place = self._source.place(max(min(at, self._source.size) - 1, 0), 1)
        return ArchiveError(f"{self._source.label}: {what} (at byte {at}{place})")


def _plain(read: _Input, note: Note) -> Iterator[bytes]:
    note(read.at)
    while data := read.take(CHUNK):
        yield data


def _gzip(read: _Input, note: Note) -> Iterator[bytes]:
    return _parts(read, note, _gunzipper, _INFLATE_ERRORS, _GZIP_MAGIC[:2], "gzip member")


def _bzip2(read: _Input, note: Note) -> Iterator[bytes]:
    errors = (OSError, ValueError, EOFError)
    return _parts(read, note, bz2.BZ2Decompressor, errors, _BZIP2_MAGIC, "bzip2 stream")


def _parts(
    read: _Input, note: Note, make: _Make, errors: _Errors, magic: bytes, what: str
) -> Iterator[bytes]:
    while head := read.take(len(magic)):
        read.at -= len(head)
        if head != magic:
            if read.is_zero():
                return
            raise read.damaged(f"holds bytes that are no {what}")
        note(read.at)
        yield from _part(read, make, errors, what)


def _part(
    read: _Input, make: _Make, errors: _Errors, what: str, *, is_open: bool = False
) -> Iterator[bytes]:
    """Unpack one part and leave `read` behind it; one that `is_open` goes on to the input's end."""
    start, given = read.at, 0
    try:
        for data in _unpack(read, make(), what, CHUNK, is_open=is_open):
            given += len(data)
            yield data
        return
    except errors as error:
        failure = read.damaged(f"holds a damaged {what}: {_reason(error)}")
        failure.__cause__ = error
    # What came out of the last step before the damage was lost with it: again, in small steps.
    read.at = start
    try:
        for data in _unpack(read, make(), what, _SMALL_STEP, is_open=is_open):
            if given >= len(data):
                given -= len(data)
            else:
                yield data[given:]
                given = 0
    except errors:
        raise failure from failure.__cause__
    raise failure


def _unpack(
    read: _Input, engine: _Engine, what: str, most: int, *, is_open: bool
) -> Iterator[bytes]:
    # Many small parts would cost a copy of the rest each if all were fed at once.
    step = _FIRST_STEP
    while True:
        data = b""
        if engine.needs_input:
            data = read.take(step)
            step = min(step * 4, READ)
        made = engine.decompress(data, most)
        if engine.eof:
            read.at -= len(engine.unused_data)
        if made:
            yield made
        if engine.eof:
            if is_open:
                raise read.damaged(f"holds a {what} with an end where more must follow")
            return
        if not (data or made):
            if is_open:
                return
            raise read.damaged(f"is cut short: its last {what} does not end")


def _reason(error: Exception) -> str:
    return str(error).rstrip(".")


def _zstd(read: _Input, note: Note) -> Iterator[bytes]:
    """Read frames block by block (RFC 8878 §3.1.1), so that each step gives 128 KiB at most."""
    import zstandard

    engine = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW)
    while magic := read.take(4):
        start = read.at - len(magic)
        if _is_skippable(magic):
            size = int.from_bytes(_exactly(read, 4), "little")
            read.at += size
            if not read.reaches(read.at):
                raise read.damaged("is cut short in a skippable frame", start)
            continue
        if magic != _ZSTD_MAGIC:
            read.at = start
            raise read.damaged("holds bytes that are no zstd frame")
        note(start)
        head, has_checksum = _frame_head(read, start)
        frame = engine.decompressobj()
        try:
            made = frame.decompress(magic + head)
            is_last = False
            while not is_last:
                block, is_last = _zstd_block(read)
                made = frame.decompress(block)
                if made:
                    yield made
            if has_checksum:
                made = frame.decompress(_exactly(read, 4))
                if made:
                    yield made
        except zstandard.ZstdError as error:
            raise read.damaged(f"holds a damaged zstd frame: {_reason(error)}") from error
        if not frame.eof:
            raise read.damaged("holds a damaged zstd frame")


def _exactly(read: _Input, length: int) -> bytes:
    data = read.take(length)
    if len(data) < length:
        raise read.damaged("is cut short: its last zstd frame does not end")
    return data


def _frame_head(read: _Input, start: int) -> tuple[bytes, bool]:
    """Give a frame's header behind the magic number, and whether a checksum ends the frame."""
    descriptor = _exactly(read, 1)
    bits = descriptor[0]
    is_single = bits >> 5 & 1
    size_bytes = (is_single, 2, 4, 8)[bits >> 6]
    dictionary = _exactly(read, (0, 1, 2, 4)[bits & 3] + 1 - is_single)
    size = _exactly(read, size_bytes)
    if is_single:
        window = int.from_bytes(size, "little")
    else:
        exponent, mantissa = dictionary[0] >> 3, dictionary[0] & 7
        window = (1 << 10 + exponent) // 8 * (8 + mantissa)
    if bits & 3 and any(dictionary[1 - is_single :]):
        raise read.damaged("is compressed with a dictionary, which PyBak doesn't have", start)
    if window > _ZSTD_MAX_WINDOW:
        raise read.damaged(
            f"needs a zstd window of {format_size(window)}, PyBak allows "
            f"{format_size(_ZSTD_MAX_WINDOW)}; unpack it with zstd first",
            start,
        )
    return descriptor + dictionary + size, bool(bits >> 2 & 1)


def _zstd_block(read: _Input) -> tuple[bytes, bool]:
    head = _exactly(read, 3)
    bits = int.from_bytes(head, "little")
    kind, size = bits >> 1 & 3, bits >> 3
    if kind == _ZSTD_RESERVED or size > _ZSTD_MAX_BLOCK:
        raise read.damaged("holds a damaged zstd frame")
    return head + _exactly(read, 1 if kind == _ZSTD_RLE else size), bool(bits & 1)
