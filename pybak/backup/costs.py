"""What packing costs, in seconds of one core.

The numbers are those of the machine in docs/decisions/0006; only their ratio and their order of
magnitude matter.
"""

from __future__ import annotations

_SECONDS_A_FILE = 60e-6
_DEFLATE_SECONDS_A_BYTE = {
    1: 3e-9,
    2: 3e-9,
    3: 5e-9,
    4: 9e-9,
    5: 11e-9,
    6: 15e-9,
    7: 19e-9,
    8: 33e-9,
    9: 45e-9,
}
_ZSTD_SECONDS_A_BYTE = {
    1: 2.4e-9,
    2: 2.7e-9,
    3: 4.2e-9,
    4: 8e-9,
    5: 12e-9,
    6: 17e-9,
    7: 40e-9,
    8: 120e-9,
    9: 300e-9,
}
_BZIP2_SECONDS_A_BYTE = 60e-9
_COPY_SECONDS_A_BYTE = 1.5e-9
_AES_SECONDS_A_BYTE = 1.5e-9
_AES_SECONDS_A_FILE = 600e-6
"""Deriving a key: 1000 rounds for every member."""
LOCKED_SECONDS_A_FILE = 55e-6
"""The part of a file's cost that holds the interpreter lock, and what waiting for it costs."""


def seconds_of(
    archive_format: str, level: int, *, files: int, size_bytes: int, encrypted: bool
) -> float:
    """Estimate how long one core works on a backup."""
    match archive_format:
        case "tar":
            a_byte = _COPY_SECONDS_A_BYTE
        case "tar.bz2":
            a_byte = _BZIP2_SECONDS_A_BYTE
        case "tar.zst":
            a_byte = _ZSTD_SECONDS_A_BYTE[level]
        case _:
            a_byte = _DEFLATE_SECONDS_A_BYTE[level]
    a_file = _SECONDS_A_FILE
    if encrypted:
        a_byte, a_file = a_byte + _AES_SECONDS_A_BYTE, a_file + _AES_SECONDS_A_FILE
    return files * a_file + size_bytes * a_byte
