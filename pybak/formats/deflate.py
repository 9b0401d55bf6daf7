"""Raw deflate at nine levels, as whole streams and as pieces that join into one.

A piece ends on a byte boundary with a sync flush and never has the final bit set, so pieces made
side by side are one stream when laid end to end and closed with `END` (RFC 1951 §3.2.3, §3.2.4).

Which engine serves a level was chosen by measurement (`benchmarks/levels.py`, `docs/formats.md`):
isal is several times faster than anything else at its sizes, libdeflate gives the smallest
whole files per second but can't make a stream that goes on, zlib-ng does the pieces there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import deflate as libdeflate
from isal import isal_zlib
from zlib_ng import zlib_ng

END: Final = b"\x03\x00"
"""An empty final block: closes a run of pieces."""

WHOLE_LIMIT: Final = 8 << 20
"""Files up to this many bytes are compressed in one call, larger ones piece by piece."""

PIECE: Final = 1 << 20
"""Bytes of input that make one piece; against one stream it costs 0.1 to 0.2 % in size."""

SLOW_PIECE: Final = 4 << 20
"""The same for the slow levels, where that much size is a good part of a level."""

Buffer: TypeAlias = bytes | bytearray | memoryview

_RAW = -15
_SYNC_FLUSH = 2
_MAX_STORED_BLOCK = 65535
_STORED_HEADER = struct.Struct("<BHH")
_SAMPLES = 8
_SAMPLE_BYTES = 8 << 10
_HOPELESS = 0.98

crc32 = isal_zlib.crc32
crc32_combine = isal_zlib.crc32_combine


@dataclass(frozen=True)
class Deflater:
    """One level's way to compress: `whole` streams, and `piece`s that can be joined."""

    level: int
    whole: Callable[[Buffer], bytes]
    piece: Callable[[Buffer], bytes]
    piece_bytes: int
    slow: bool
    """Whether it pays to look at a sample before trying what may not compress."""


def _isal_whole(level: int) -> Callable[[Buffer], bytes]:
    compress = isal_zlib.compress
    return lambda data: compress(data, level, _RAW)


def _isal_piece(level: int) -> Callable[[Buffer], bytes]:
    def piece(data: Buffer) -> bytes:
        stream = isal_zlib.compressobj(level, 8, _RAW)
        return stream.compress(data) + stream.flush(_SYNC_FLUSH)

    return piece


def _libdeflate_whole(level: int, small_level: int) -> Callable[[Buffer], bytes]:
    compress = libdeflate.deflate_compress
    return lambda data: bytes(compress(data, level if len(data) > _SMALL else small_level))


def _zlib_ng_piece(level: int) -> Callable[[Buffer], bytes]:
    def piece(data: Buffer) -> bytes:
        stream = zlib_ng.compressobj(level, zlib_ng.DEFLATED, _RAW)
        return stream.compress(data) + stream.flush(_SYNC_FLUSH)

    return piece


_ISAL = {1: 1, 2: 2, 3: 3}
_LIBDEFLATE = {4: 2, 5: 4, 6: 6, 7: 7, 8: 8, 9: 9}
_LIBDEFLATE_SMALL = {9: 10}  # near-optimal parsing: 2 % smaller, four times slower
_SMALL = 64 << 10
_ZLIB_NG = {4: 3, 5: 5, 6: 6, 7: 7, 8: 8, 9: 9}


@cache
def deflater(level: int) -> Deflater:
    """Give the engines for a level from 1 to 9."""
    if level in _ISAL:
        whole, piece = _isal_whole(_ISAL[level]), _isal_piece(_ISAL[level])
        return Deflater(level, whole, piece, PIECE, slow=False)
    plain = _LIBDEFLATE[level]
    whole = _libdeflate_whole(plain, _LIBDEFLATE_SMALL.get(level, plain))
    return Deflater(level, whole, _zlib_ng_piece(_ZLIB_NG[level]), SLOW_PIECE, slow=True)


def engine_name(level: int) -> str:
    """Name the engines of a level for people: `isal 2`, `libdeflate 6 / zlib-ng 6`."""
    if level in _ISAL:
        return f"isal {_ISAL[level]}"
    return f"libdeflate {_LIBDEFLATE[level]} / zlib-ng {_ZLIB_NG[level]}"


def looks_incompressible(data: Buffer) -> bool:
    """Judge by the fastest level on samples from all over the data; 0.1 ms at most.

    One that compresses is enough: in a piece of many files, some of which are packed already, a
    single sample in the middle cost 2 % of an archive.
    """
    return all(size > _HOPELESS * plain for plain, size in _samples(data))


def packed_share(data: Buffer) -> float:
    """Estimate what compressing leaves of the data, by the same samples; 0 if there is none."""
    found = list(_samples(data))
    return sum(size for _, size in found) / max(1, sum(plain for plain, _ in found))


def _samples(data: Buffer) -> Iterator[tuple[int, int]]:
    """Yield the bytes of each sample, and how many the fastest level makes of it."""
    count = max(1, min(_SAMPLES, len(data) // _SAMPLE_BYTES))
    stride = len(data) // count
    skip = max(0, stride - _SAMPLE_BYTES) // 2
    for at in range(skip, skip + count * stride, stride or 1):
        sample = data[at : at + min(stride, _SAMPLE_BYTES)]
        yield len(sample), len(isal_zlib.compress(sample, 1, _RAW))


def stored_blocks(data: Buffer) -> bytes:
    """Wrap bytes that don't compress as a piece of stored blocks (RFC 1951 §3.2.4)."""
    view = memoryview(data)
    pieces: list[Buffer] = []
    for at in range(0, len(view), _MAX_STORED_BLOCK):
        block = view[at : at + _MAX_STORED_BLOCK]
        pieces += (_STORED_HEADER.pack(0, len(block), len(block) ^ 0xFFFF), block)
    return b"".join(pieces)
