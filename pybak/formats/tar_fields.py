"""The fields of a tar header's block: numbers, texts and the checksum.

After POSIX.1-2017 "ustar Interchange Format" and the GNU tar manual's "Tar Internals" (base-256
numbers). What is tolerated is what GNU tar and libarchive tolerate. No I/O.
"""

from __future__ import annotations

from typing import Final
from zlib import adler32

from pybak.errors import ArchiveError

MAX_SIZE: Final = (1 << 63) - 1

_CHECKSUM = slice(148, 156)


def is_header(block: bytes) -> bool:
    """Whether a block's checksum fits, so that it is a header of some tar."""
    said = octal(block[_CHECKSUM])
    if said is None:
        return False
    # Adler-32 sums up ten times as fast as Python; it begins with 1 and counts modulo 65521.
    plain = (adler32(block) & 0xFFFF) - 1 - sum(block[_CHECKSUM]) + 8 * 0x20
    if not (said - plain) % 65521:
        return True
    # Old programs added up signed bytes.
    large = sum(byte > 127 for byte in block[: _CHECKSUM.start] + block[_CHECKSUM.stop :])
    return not (said - plain + 256 * large) % 65521


def text(field: bytes) -> bytes:
    """Give what stands before the first NUL."""
    return field.partition(b"\0")[0]


def owner_name(block: bytes, at: int) -> bytes:
    """Give the name of user or group, which old headers have not."""
    return text(block[at : at + 32]) if block[257:262] == b"ustar" else b""


def octal(field: bytes) -> int | None:
    """Read a number: octal digits between blanks, or base 256; None if it is neither."""
    if field[:1] and field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:]) if field[0] < 0xC0 else None
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0 if not field.strip(b" \0") else None
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:
        return None


def lenient(field: bytes) -> int:
    """Read a number that may be negative, or be no number, which counts as 0."""
    if field[:1] and field[0] & 0xC0 == 0xC0:
        return int.from_bytes(field, signed=True)
    return octal(field) or 0


def member_size(block: bytes) -> int:
    """Give how many bytes follow a header. Raises ArchiveError for what can be no size."""
    size = octal(block[124:136])
    if size is None or size > MAX_SIZE:
        raise ArchiveError("holds a member of an impossible size")
    return size
