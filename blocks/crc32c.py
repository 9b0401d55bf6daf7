"""CRC-32C (RFC 3720, B.4) of bytes laid end to end, from those of the pieces.

Google's library computes it, but does not combine; this is the arithmetic of zlib's
`crc32_combine` over the other polynomial.
"""

from __future__ import annotations

import base64
from functools import cache
from typing import BinaryIO, Final

_POLYNOMIAL: Final = 0x82F63B78  # reflected
_ONE: Final = 1 << 31  # x^0: the highest bit has the lowest power
_READ_BYTES: Final = 1 << 20


def combine(first: int, second: int, second_size: int) -> int:
    """Give the CRC of two runs of bytes laid end to end; `second_size` in bytes."""
    return _multiply(_power_of_bytes(second_size), first) ^ second


def of_stream(stream: BinaryIO) -> int:
    """Give the CRC of what is left to read. Raises OSError."""
    import google_crc32c

    crc = 0
    while block := stream.read(_READ_BYTES):
        crc = google_crc32c.extend(crc, block)
    return int(crc)


def from_text(text: str) -> int:
    """Read it as Google writes it: base64 of four bytes, the highest first."""
    return int.from_bytes(base64.b64decode(text), "big")


def _multiply(a: int, b: int) -> int:
    """Multiply two polynomials modulo the CRC's."""
    product = 0
    at = _ONE
    while at:
        if a & at:
            product ^= b
        b = b >> 1 ^ _POLYNOMIAL if b & 1 else b >> 1
        at >>= 1
    return product


def _power_of_bytes(count: int) -> int:
    """Give x^(8 count): what shifts a CRC by `count` bytes of zeros."""
    power = _ONE
    square = 0
    while count:
        if count & 1:
            power = _multiply(_square(square), power)
        count >>= 1
        square += 1
    return power


@cache
def _square(times: int) -> int:
    """Give x^(8 * 2^times)."""
    if times == 0:
        return 1 << 23  # x^8
    half = _square(times - 1)
    return _multiply(half, half)
