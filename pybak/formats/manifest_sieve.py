"""A few lines of a long manifest found without decoding, or even looking at, all of them.

Lines are told apart by how they begin, as `pybak.formats.manifest.record_line` writes them. Other
JSON of the same meaning is not recognised, nor a line that is not about a member in the middle of
many that are. Whoever misses a name, or finds that the last line counts other members than were
met, reads the manifest as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii
from typing import Final

_START: Final = b'{"path":"'
_FEW: Final = 8  # names that are faster looked for one by one in a block than line by line


class Sieve:
    """Lets pass the lines of some members, and lines that are not about members."""

    def __init__(self, names: Iterable[bytes]) -> None:
        self._heads = frozenset(_head(_line(name)) for name in names)

    def sift(self, block: bytes) -> tuple[bytes, int]:
        """Give the lines of a block of whole lines that pass, and how many members did not."""
        if len(self._heads) > _FEW:
            lines = block.split(b"\n")
            kept = [line for line in lines if self._passes(line)]
            return b"\n".join(kept), len(lines) - len(kept)
        first, last = _members_of(block)
        found = sorted({line for head in self._heads for line in _find(head, block, first, last)})
        passed = block.count(b"\n", first, last) - len(found)
        middle = b"".join(block[start:end] for start, end in found)
        return block[:first] + middle + block[last:], passed

    def _passes(self, line: bytes) -> bool:
        return _head(line) in self._heads or not line.startswith(_START)


def _members_of(block: bytes) -> tuple[int, int]:
    """Give where the lines of members start and end, other lines being before and behind them."""
    first, last = 0, len(block)
    while first < last and not block.startswith(_START, first):
        first = block.index(b"\n", first) + 1
    while first < last:
        line_at = block.rfind(b"\n", first, last - 1) + 1
        if block.startswith(_START, max(line_at, first)):
            break
        last = max(line_at, first)
    return first, last


def _find(head: bytes, block: bytes, first: int, last: int) -> Iterable[tuple[int, int]]:
    """Yield start and end of the lines that begin like this."""
    at = block.find(head, first, last)
    while at >= 0:
        end = block.index(b"\n", at) + 1
        if not at or block[at - 1 : at] == b"\n":
            yield at, end
        at = block.find(head, end, last)


def _line(name: bytes) -> bytes:
    return b'{"path":' + encode_basestring_ascii(os.fsdecode(name)).encode("ascii")


def _head(line: bytes) -> bytes:
    # Up to the first quotation mark in or behind the name: too short a head lets too much pass.
    return line[: line.find(b'"', len(_START)) + 1]
