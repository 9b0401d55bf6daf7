"""Where the reading of a tar stream can start: the pieces that it was compressed in.

Three rows of numbers, so that an archive of a million pieces takes 20 MB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import msgspec

from pybak.errors import ArchiveError

_MOST = (1 << 63) - 1


class Piece(NamedTuple):
    """A run of the stream: where it lies in the archive, and in the plain stream, in bytes.

    `crc` is the CRC-32 of the plain bytes, None if unknown. What lies between its start and its
    end can be unpacked without what is before it.
    """

    stored_at: int
    stored_end: int
    plain_at: int
    plain_end: int
    crc: int | None


class _Rows(msgspec.Struct, frozen=True, array_like=True):
    stored: bytes
    plain: bytes
    crcs: bytes
    is_own: bool
    is_single: bool
    shared: list[tuple[int, dict[bytes, bytes]]]


class PieceIndex:
    """The pieces of a tar stream in order, each starting where the one before it ends.

    `is_own` tells that they are PyBak's: of known CRC-32, and raw deflate in a tar.gz, where the
    pieces of other programs are whole gzip members. `is_single` tells that the stream is one file
    and no tar. `shared` are the places where global headers changed what they say, and what they
    then say.
    """

    def __init__(self, *, stored_at: int = 0, is_own: bool = False) -> None:
        self.is_own = is_own
        self.is_single = False
        self.shared: list[tuple[int, dict[bytes, bytes]]] = []
        self._stored = array("Q", [stored_at])
        self._plain = array("Q", [0])
        self._crcs = array("I")

    def __len__(self) -> int:
        return len(self._stored) - 1

    @property
    def stored_end(self) -> int:
        """Where the last piece ends in the archive."""
        return self._stored[-1]

    @property
    def plain_end(self) -> int:
        """Where the last piece ends in the plain stream."""
        return self._plain[-1]

    @property
    def crcs(self) -> Iterable[tuple[int, int]]:
        """CRC-32 and plain length of each piece."""
        plain = self._plain
        return ((crc, plain[i + 1] - plain[i]) for i, crc in enumerate(self._crcs))

    @property
    def entry_points(self) -> int:
        """How many places there are where reading can start: more workers than that gain little."""
        return len(self)

    def add(self, stored: int, plain: int, crc: int = 0) -> None:
        """Append a piece of `stored` bytes that holds `plain` bytes."""
        if stored > _MOST - self._stored[-1] or plain > _MOST - self._plain[-1]:
            raise ArchiveError("the pieces are larger than any archive")
        self._stored.append(self._stored[-1] + stored)
        self._plain.append(self._plain[-1] + plain)
        self._crcs.append(crc)

    def find(self, plain_at: int) -> int:
        """Give the number of the piece that holds the plain byte `plain_at`, len(self) if none."""
        return bisect_right(self._plain, plain_at) - 1

    def __getitem__(self, number: int) -> Piece:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return Piece(
            self._stored[number], self._stored[number + 1], self._plain[number],
            self._plain[number + 1], self._crcs[number] if self.is_own else None,
        )  # fmt: skip

    def shared_at(self, head: int) -> dict[bytes, bytes]:
        """Give what global headers before the plain byte `head` say."""
        number = bisect_right(self.shared, head, key=_place)
        return self.shared[number - 1][1] if number else {}

    def __iter__(self) -> Iterator[Piece]:
        return (self[number] for number in range(len(self)))

    def to_bytes(self) -> bytes:
        """Pack it for another process on the same machine."""
        rows = (self._stored.tobytes(), self._plain.tobytes(), self._crcs.tobytes())
        return msgspec.msgpack.encode(_Rows(*rows, self.is_own, self.is_single, self.shared))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Unpack what `to_bytes` made."""
        rows = msgspec.msgpack.decode(data, type=_Rows)
        made = cls(is_own=rows.is_own)
        made.is_single, made.shared = rows.is_single, rows.shared
        made._stored, made._plain, made._crcs = array("Q"), array("Q"), array("I")
        made._stored.frombytes(rows.stored)
        made._plain.frombytes(rows.plain)
        made._crcs.frombytes(rows.crcs)
        return made


def _place(shared: tuple[int, dict[bytes, bytes]]) -> int:
    return shared[0]
