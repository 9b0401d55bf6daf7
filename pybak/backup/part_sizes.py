"""How large the parts of a file in a storage are, so that their numbers suffice."""

from __future__ import annotations

from typing import Final

from pybak.errors import StorageError
from pybak.storage.protocol import PartLimits

PART_BYTES: Final = 16 << 20
"""What parts have where the storage takes less and the archive is no giant."""
WHOLE_BYTES: Final = 64 << 20
"""An archive up to this size is written at once, and has one digest."""
_SPARE: Final = 1.1  # compressed data can be larger than what it was made of
_USED: Final = 0.85  # of the numbers, if all goes as expected
_GROWS_AT: Final = 0.9
_MIB: Final = 1 << 20


class PartSizes:
    """How many bytes each part of a file has, so that its numbers suffice.

    `expected` is what the file is thought to have at most.
    """

    def __init__(self, limits: PartLimits, expected: int, *, part_bytes: int | None = None) -> None:
        self._limits = limits
        part_bytes = part_bytes or PART_BYTES
        wanted = int(expected * _SPARE / (limits.count * _USED))
        if wanted > part_bytes:
            wanted = -(-wanted // _MIB) * _MIB
        self._first = max(limits.least, part_bytes, wanted)

    def size(self, number: int) -> int:
        """Give the bytes of part `number`, counted from 1; doubles again and again near the end.

        Raises StorageError when there is none any more.
        """
        count = self._limits.count
        if number > count:
            raise StorageError(
                f"the storage takes {count} parts of a file, and all are used; give --split"
            )
        over = number - int(count * _GROWS_AT)
        doublings = -(-over // max(1, count // 50)) if over > 0 else 0
        return min(self._first << doublings, self._limits.most)
