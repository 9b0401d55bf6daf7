"""The compressed streams that a tar archive can be: made of pieces, side by side.

A piece is a run of the tar stream, compressed by itself. Laid end to end between `start` and what
`end` gives, pieces are a stream that the stock tools read: bare bytes, one gzip member (RFC 1952)
of joined deflate parts, one bzip2 stream a piece, or one zstd frame a piece (RFC 8878). A reader
can begin at any piece.

Levels were chosen by measurement (`benchmarks/levels.py`, `docs/formats.md`).
"""

from __future__ import annotations

import bz2
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Final

import msgspec

from pybak.formats import deflate
from pybak.formats.deflate import (
    Buffer,
    crc32_combine,
    deflater,
    looks_incompressible,
    stored_blocks,
)

if TYPE_CHECKING:
    from zstandard import ZstdCompressor

TAR: Final = "tar"
TAR_GZ: Final = "tar.gz"
TAR_BZ2: Final = "tar.bz2"
TAR_ZST: Final = "tar.zst"
TAR_FORMATS: Final = (TAR, TAR_GZ, TAR_BZ2, TAR_ZST)

GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_MIB: Final = 1 << 20
# libbzip2 takes this many bytes of a level's block for itself (bzip2's compress.c, `nblockMAX`).
_BZIP2_SPARE: Final = 19
_BZIP2_BLOCK: Final = 100_000
# Its levels are block sizes. Against 600 kB the largest saves 0.5 % in size on trees of many files,
# a tenth on long text, and takes a sixth more time: its tables do not fit into the caches.
_BZIP2_LEVELS: Final = {1: 3, 2: 6} | dict.fromkeys(range(3, 10), 9)
_ZSTD_LEVELS: Final = {1: 1, 2: 2, 3: 3, 4: 5, 5: 7, 6: 9, 7: 12, 8: 15, 9: 19}
_ZSTD_FAST: Final = {1: 22, 2: 22}
"""Levels that look back over all of a piece, by log2 of the window; the library's are 19 and 20."""
_ZSTD_LONG: Final = {7: 25, 8: 25, 9: 25}
"""Levels that look further back, by log2 of the window: all of a piece of 32 MiB."""
_ZSTD_STORING_LEVEL: Final = 1
_SEEK_ENTRY = struct.Struct("<II")
_SEEK_FOOTER = struct.Struct("<IBI")
_SKIPPABLE: Final = 0x184D2A5E
_SEEKABLE: Final = 0x8F92EAB1
_MOST_SEEK_FRAMES: Final = 0x8000000


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A piece's bytes in the archive, its bytes in the tar stream, and the CRC-32 of the latter."""

    stored: int
    plain: int
    crc: int


@dataclass(frozen=True)
class Codec:
    """How one format and level makes pieces.

    `pack` compresses a piece of `piece_bytes` or fewer; `store` does the same for what is
    compressed already. `start` is what the archive begins with.
    """

    pack: Callable[[Buffer], bytes]
    store: Callable[[Buffer], bytes]
    end: Callable[[Sequence[Piece]], bytes]
    piece_bytes: int
    start: bytes = b""


@cache
def codec(archive_format: str, level: int) -> Codec:
    """Give the codec of a tar format at a level from 1 to 9."""
    match archive_format:
        case "tar":
            return Codec(bytes, bytes, lambda _pieces: b"", _MIB)
        case "tar.gz":
            engine = deflater(level)
            pack = partial(_deflate, engine)
            return Codec(pack, stored_blocks, _gzip_end, engine.piece_bytes, GZIP_HEADER)
        case "tar.bz2":
            blocks = _BZIP2_LEVELS[level]
            pack = partial(_bzip2, blocks)
            return Codec(pack, pack, lambda _pieces: b"", blocks * _BZIP2_BLOCK - _BZIP2_SPARE)
        case "tar.zst":
            piece_bytes = 32 * _MIB if level in _ZSTD_LONG else 4 * _MIB
            return Codec(partial(_zstd, level), _zstd_store, seek_table, piece_bytes)
    raise AssertionError(archive_format)


def memory_bytes(archive_format: str, level: int) -> int:
    """Give about what compressing takes in a worker, besides a piece and its compressed form."""
    if archive_format == TAR_ZST and level in _ZSTD_LONG:
        return 192 * _MIB  # tables for a long look back, and several copies of a long piece
    return 8 * _MIB if archive_format == TAR_BZ2 else 0


def engine_name(archive_format: str, level: int) -> str:
    """Name what compresses, for people: `zstd 5`, `isal 2`."""
    match archive_format:
        case "tar":
            return "nothing"
        case "tar.gz":
            return deflate.engine_name(level).rpartition(" / ")[2]
        case "tar.bz2":
            return f"bzip2 {_BZIP2_LEVELS[level]}"
        case "tar.zst":
            log = (_ZSTD_FAST | _ZSTD_LONG).get(level)
            window = f", window 2^{log}" if log else ""
            return f"zstd {_ZSTD_LEVELS[level]}{window}"
    return deflate.engine_name(level)


def _deflate(engine: deflate.Deflater, data: Buffer) -> bytes:
    if engine.slow and looks_incompressible(data):
        return stored_blocks(data)
    packed = engine.piece(data)
    return packed if len(packed) < len(data) else stored_blocks(data)


def _gzip_end(pieces: Sequence[Piece]) -> bytes:
    """End the deflate stream; the trailer has CRC-32 and size of the whole (RFC 1952 §2.3.1)."""
    crc = size = 0
    for piece in pieces:
        crc = crc32_combine(crc, piece.crc, piece.plain)
        size += piece.plain
    return deflate.END + struct.pack("<II", crc, size & 0xFFFFFFFF)


def _bzip2(level: int, data: Buffer) -> bytes:
    return bz2.compress(data, level)


@cache
def _zstd_parameters(level: int) -> object:
    import zstandard

    more: dict[str, int] = {}
    if level in _ZSTD_FAST:
        more = {"window_log": _ZSTD_FAST[level]}
    if level in _ZSTD_LONG:
        more = {"window_log": _ZSTD_LONG[level], "enable_ldm": True}
    return zstandard.ZstdCompressionParameters.from_level(
        _ZSTD_LEVELS[level], write_content_size=True, write_checksum=True, **more
    )


class _Compressors(threading.local):
    """A context is not to be shared by threads; one that is used again has its tables ready."""

    def __init__(self) -> None:
        self.compressors: dict[int, ZstdCompressor] = {}


_own = _Compressors()


def _zstd(level: int, data: Buffer) -> bytes:
    import zstandard

    made = _own.compressors.get(level)
    if made is None:
        made = zstandard.ZstdCompressor(compression_params=_zstd_parameters(level))  # type: ignore[arg-type]
        if level not in _ZSTD_LONG:  # these hold 100 MB
            _own.compressors[level] = made
    return made.compress(data)


def _zstd_store(data: Buffer) -> bytes:
    return _zstd(_ZSTD_STORING_LEVEL, data)


def seek_table(pieces: Sequence[Piece]) -> bytes:
    """Give the table of all frames in a skippable frame, by zstd's seekable format 0.1.0.

    Empty if there are more frames than such a table can list.
    """
    if len(pieces) > _MOST_SEEK_FRAMES:
        return b""
    body = b"".join(_SEEK_ENTRY.pack(piece.stored, piece.plain) for piece in pieces)
    body += _SEEK_FOOTER.pack(len(pieces), 0, _SEEKABLE)
    return _SEEK_ENTRY.pack(_SKIPPABLE, len(body)) + body
