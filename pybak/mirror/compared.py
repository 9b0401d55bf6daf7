"""What a piece of a comparison is asked, and what it gives: counts, and names of files of rows."""

from __future__ import annotations

from collections import Counter

import msgspec

from pybak.mirror.rows import Batch


class Todo(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A folder to be compared; `state` is SAME, LOOKS, NEW or IN_THE_WAY."""

    path: bytes
    state: str
    is_included: bool = True


class Tally(msgspec.Struct):
    """Counts of a comparison. `found` are all but folders; `there` all that the target holds.

    `excluded` counts by reason; `skipped` and `failed` are those of `found` that can't be taken.
    `unlisted` are folders, of either side, that are not compared.
    """

    found: int = 0
    folders: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    there: int = 0
    unlisted: int = 0
    size: int = 0
    excluded: dict[str, int] = {}

    def add(self, other: Tally) -> None:
        """Add the counts of another part."""
        for name in self.__struct_fields__:
            if name != "excluded":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self.excluded = dict(Counter(self.excluded) + Counter(other.excluded))


class Compared(msgspec.Struct, kw_only=True):
    """What came of a piece of the tree; `rest` are folders that were not looked at.

    `late` are batches whose rows take the place of folders. The lists of `folders`, `linked` and
    `surplus` name files of rows. `temporaries` are what killed runs left, `problems` is packed.
    """

    rest: list[Todo]
    tally: Tally
    batches: list[Batch] = []
    late: list[Batch] = []
    folders: list[str] = []
    linked: list[str] = []
    surplus: list[str] = []
    surplus_count: int = 0
    temporaries: list[bytes] = []
    problems: bytes = b""
    unmatched: list[str] = []
