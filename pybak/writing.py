"""Write all of some bytes: one call may write fewer, as where a disk has little room left."""

from __future__ import annotations

import os
from typing import TypeAlias

Bytes: TypeAlias = bytes | bytearray | memoryview


def write_all(fd: int, data: Bytes) -> int:
    """Write all of `data`, bytes, at the file's position; give its length. Raises OSError."""
    size = len(data)
    written = os.write(fd, data) if size else 0
    while written < size:
        written += os.write(fd, memoryview(data)[written:])
    return size


def write_all_at(fd: int, data: Bytes, at: int) -> int:
    """Write all of `data`, bytes, at this offset; give its length. Raises OSError."""
    size = len(data)
    written = 0
    while written < size:
        written += os.pwrite(fd, memoryview(data)[written:], at + written)
    return size
