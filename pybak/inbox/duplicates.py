"""Which files repeat one that lies at the destination already.

A file is a duplicate only of a copy that is at all places of the round, byte for byte as it was
stored there: each copy is read once before a source is removed for its sake, and from then on
looked at. Within a round the first by path is stored, and the others are its duplicates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from pybak.inbox.found import Identity
from pybak.inbox.history import History
from pybak.inbox.places import Place
from pybak.inbox.rows import Stored

MOST_DIGESTS: Final = 1000
"""So many digests of one size are handed to workers, which hash before they pack then."""
_MOST_COPIES: Final = 3
"""So many copies of one content are looked for, the newest first."""


class Originals:
    """Finds what files repeat at the places of a round."""

    def __init__(self, history: History, places: Sequence[Place]) -> None:
        self._history = history
        self._places = places
        self._here: dict[str, Stored] = {}
        self._whole: set[int] = set()
        self._bad: set[int] = set()

    def digests(self, sizes: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """Give the digests of what was stored and has one of these sizes."""
        found = self._history.of_sizes(sizes, MOST_DIGESTS)
        return {size: tuple(sorted(digests)) for size, digests in found.items()}

    def of(self, digests: Iterable[str]) -> dict[str, Stored]:
        """Give for each digest the newest file with it whose copies are still there.

        Raises CatalogError, and StorageError where that can't be told.
        """
        wanted = set(digests)
        found = {digest: self._here[digest] for digest in wanted if digest in self._here}
        known = self._history.of_digests(wanted - found.keys())
        for digest, candidates in known.items():
            for original in candidates[:_MOST_COPIES]:
                if self._is_there(original):
                    found[digest] = original
                    break
        return found

    def themselves(self, digests: Iterable[str]) -> dict[tuple[Identity, str], Stored]:
        """Give the files of this inbox that were stored and kept, by what they are and digest.

        Raises CatalogError, StorageError.
        """
        found: dict[tuple[Identity, str], Stored] = {}
        known = self._history.kept(sorted(set(digests)))
        for identity, stored in known.items():
            if stored.path == identity[0] and self._is_there(stored):
                itself = msgspec.structs.replace(stored, is_itself=True)
                found[identity, stored.sha256] = itself
        return found

    def is_whole(self, original: Stored) -> bool:
        """Whether its copy is at all places as it was stored; one that is not counts no more.

        Raises StorageError where that can't be told.
        """
        if original.row in self._whole:
            if self._is_there(original):
                return True
        else:
            if all(place.holds(original.name, original.expected) for place in self._places):
                self._whole.add(original.row)
                return True
        self._bad.add(original.row)
        self.drop(original.row)
        return False

    def _is_there(self, original: Stored) -> bool:
        return original.row not in self._bad and all(
            place.size(original.name) == original.expected.size for place in self._places
        )

    def add(self, originals: Iterable[Stored]) -> None:
        """Remember what this run stored; of equal files the first."""
        for original in originals:
            self._here.setdefault(original.sha256, original)

    def drop(self, row: int) -> None:
        """Forget a file that was taken back."""
        self._here = {digest: one for digest, one in self._here.items() if one.row != row}
        self._whole.discard(row)


def known_files(history: History, place: Place | None) -> set[Identity]:
    """Give the files that were stored and kept; with a place, those whose copy is still there.

    Raises CatalogError, and StorageError where that can't be told.
    """
    known = history.kept()
    if place is None:
        return set(known)
    return {
        identity for identity, one in known.items() if place.size(one.name) == one.expected.size
    }
