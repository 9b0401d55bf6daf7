"""Which files repeat one that lies at the destination already.

A file is a duplicate only of a copy that is at all places of the round, byte for byte as it was
stored there: each copy is read once before a source is removed for its sake, and from then on
looked at. Within a round the first by path is stored, and the others are its duplicates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from pybak.inbox.encode import Read
from pybak.inbox.journal import Identity, Journal, Stored
from pybak.inbox.places import Place

MOST_DIGESTS: Final = 1000
"""So many digests of one size are handed to workers, which hash before they pack then."""
_MOST_COPIES: Final = 3
"""So many copies of one content are looked for, the newest first."""


class Original(msgspec.Struct, frozen=True):
    """What a duplicate repeats: a row, the path it had in its inbox, its name at the destination.

    Size and digest are those of the copy there. `is_itself` says that the file was stored before
    itself, and kept then.
    """

    row: int
    path: bytes
    name: str
    stored_size: int
    stored_sha256: str
    is_itself: bool = False


class Originals:
    """Finds what files repeat at the places of a round; the catalog knows them by the first."""

    def __init__(self, journal: Journal, places: Sequence[Place]) -> None:
        self._journal = journal
        self._places = places
        self._here: dict[str, Original] = {}
        self._whole: set[int] = set()
        self._bad: set[int] = set()

    @property
    def _address(self) -> str:
        return self._places[0].address

    def digests(self, sizes: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """Give the digests of what was stored and has one of these sizes."""
        found = self._journal.of_sizes(self._address, sizes, MOST_DIGESTS)
        return {size: tuple(sorted(digests)) for size, digests in found.items()}

    def of(self, digests: Iterable[str]) -> dict[str, Original]:
        """Give for each digest the newest file with it whose copies are still there.

        Raises CatalogError, and StorageError where that can't be told.
        """
        wanted = set(digests)
        found = {digest: self._here[digest] for digest in wanted if digest in self._here}
        known = self._journal.of_digests(self._address, wanted - found.keys())
        for digest, candidates in known.items():
            for one in candidates[:_MOST_COPIES]:
                original = _original(one)
                if self._is_there(original):
                    found[digest] = original
                    break
        return found

    def themselves(self, digests: Iterable[str]) -> dict[tuple[Identity, str], Original]:
        """Give the files of this inbox that were stored and kept, by what they are and digest.

        Raises CatalogError, StorageError.
        """
        found: dict[tuple[Identity, str], Original] = {}
        known = self._journal.known(self._address, sorted(set(digests)))
        for identity, stored in known.items():
            original = msgspec.structs.replace(_original(stored), is_itself=True)
            if stored.path == identity[0] and self._is_there(original):
                found[identity, stored.sha256] = original
        return found

    def is_whole(self, original: Original) -> bool:
        """Whether its copy is at all places as it was stored; one that is not counts no more.

        Raises StorageError where that can't be told.
        """
        if original.row in self._whole:
            if self._is_there(original):
                return True
        else:
            expected = Read(original.stored_size, original.stored_sha256)
            if all(place.holds(original.name, expected) for place in self._places):
                self._whole.add(original.row)
                return True
        self._bad.add(original.row)
        self.drop(original.row)
        return False

    def _is_there(self, original: Original) -> bool:
        return original.row not in self._bad and all(
            place.size(original.name) == original.stored_size for place in self._places
        )

    def add(self, originals: Mapping[str, Original]) -> None:
        """Remember what this run stored, by digest."""
        for digest, original in originals.items():
            self._here.setdefault(digest, original)

    def drop(self, row: int) -> None:
        """Forget a file that was taken back."""
        self._here = {digest: one for digest, one in self._here.items() if one.row != row}
        self._whole.discard(row)


def known_files(journal: Journal, destination: str, place: Place | None) -> set[Identity]:
    """Give the files that were stored and kept; with a place, those whose copy is still there.

    Raises CatalogError, and StorageError where that can't be told.
    """
    known = journal.known(destination)
    if place is None:
        return set(known)
    return {identity for identity, one in known.items() if place.size(one.name) == one.stored_size}


def _original(stored: Stored) -> Original:
    return Original(stored.row, stored.path, stored.name, stored.stored_size, stored.stored_sha256)
