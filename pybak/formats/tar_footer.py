"""The block that tells where the manifest of a tar archive lies.

It ends the content of the archive's last member, the manifest, and is itself an empty gzip member
(RFC 1952 §2.3) of one tar block, so the manifest stays a gzip file that any program unpacks. What
it tells is in the subfield `PB` of the extra field, little-endian: see `Footer`; then a CRC-32 of
these 40 bytes, then zeros. No I/O: values in, bytes out, and back.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

BLOCK: Final = 512
"""Bytes of a footer block, and of a tar block."""

_MAGIC = b"PBFT"
_VERSION = 1
_FIELDS = struct.Struct("<4sHHQQQQ")  # magic, version, reserved, then the four of Footer
_CRC = struct.Struct("<I")
_EMPTY_TAIL = b"\x03\x00" + bytes(8)  # an empty final deflate block, CRC-32 and size of nothing
_GZIP_HEAD = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"  # FLG.FEXTRA, no time, OS unknown
_SUBFIELD = BLOCK - len(_GZIP_HEAD) - 2 - 4 - len(_EMPTY_TAIL)
_HEAD = _GZIP_HEAD + struct.pack("<H2sH", _SUBFIELD + 4, b"PB", _SUBFIELD)
_MOST = 2**64 - 1


class Footer(NamedTuple):
    """Where the manifest lies, in bytes.

    `stored_at` and `stored_size`: its compressed piece or pieces in the archive file, up to the
    start of the last piece, which holds the footer block. `head`: the manifest member's first
    header block in the unpacked stream. `content_size`: the length of the member's content, the
    footer block included.
    """

    stored_at: int
    stored_size: int
    head: int
    content_size: int


def footer_block(footer: Footer) -> bytes:
    """Give the block of exactly 512 bytes. Numbers must be in 0 … 2^64-1 (ValueError)."""
    if not all(0 <= number <= _MOST for number in footer):
        raise ValueError(f"no place for {footer} in a footer block")
    fields = _FIELDS.pack(_MAGIC, _VERSION, 0, *footer)
    told = fields + _CRC.pack(zlib.crc32(fields))
    return _HEAD + told.ljust(_SUBFIELD, b"\0") + _EMPTY_TAIL


def read_footer(block: bytes) -> Footer | None:
    """Read a block back; None if it is no footer block of this version, or a damaged one."""
    if len(block) != BLOCK or not block.startswith(_HEAD):
        return None
    magic, version, _, *numbers = _FIELDS.unpack_from(block, len(_HEAD))
    if magic != _MAGIC or version != _VERSION:
        return None
    footer = Footer(*numbers)
    return footer if block == footer_block(footer) else None
