"""How much a manifest may say, told by the archive that it is of."""

from __future__ import annotations

from typing import Final, NamedTuple

from pybak.errors import ArchiveError
from pybak.formats.manifest import LINE_NAMES
from pybak.formats.manifest_facts import Fact

_MAX_LINE: Final = 16 << 20
"""The map of a sparse file or the pieces of a batch can be this long; names are far shorter."""
_MAX_NAME: Final = 64 << 10
_SMALLEST_PIECE: Final = 8
"""Bytes that a piece takes in the archive at least, in any format."""


class Bounds(NamedTuple):
    """How much a manifest may say, told by the archive that it is of.

    `members` is how many the archive can hold at most, `size` its bytes; `has_pieces` is whether
    its format has pieces at all.
    """

    members: int
    size: int
    has_pieces: bool = True

    @property
    def text(self) -> int:
        """Bytes that the lines may have in all: honest ones have 200 and a name each."""
        return (16 << 20) + 512 * self.members + 64 * self.size

    @property
    def line(self) -> int:
        """Bytes that a line may have: two names, or lists that say something of the archive."""
        return min((1 << 20) + 16 * self.size, _MAX_LINE)

    @property
    def pieces(self) -> int:
        """How many pieces there may be."""
        return self.size // _SMALLEST_PIECE + 1 if self.has_pieces else 0

    @property
    def entries(self) -> int:
        """How many runs and parts of files there may be; each takes some bytes to be told."""
        return 100_000 + self.size


def trusting(size: int) -> Bounds:
    """Give the bounds of a manifest of our own that is `size` bytes long, packed."""
    return Bounds(size * 1000, size * 1000)


_ENDLESS_NAME: Final = "the manifest holds an endless name; it is damaged"


class Count:
    """What the lines so far list, compared with what they may."""

    def __init__(self, bounds: Bounds) -> None:
        self.members = 0
        self._bounds = bounds
        self._lines = self._pieces = self._entries = 0

    def add(self, line: Fact) -> None:
        """Count a line. Raises ArchiveError for a name that is longer than any system takes."""
        if line.gone is not None or line.errors is not None:
            self._add_names([*(line.gone or ()), *(path for path, _, _ in line.errors or ())])
            return
        if line.reference is not None:
            self._entries += len(line.reference.parts)
            self._add_names([line.reference.path, line.reference.member or ""])
            return
        self._lines += 1
        if line.path is not None:
            self.members += 1
            self._entries += len(line.parts) + len(line.sparse or ())
            if max(len(line.path), len(line.link or "")) > _MAX_NAME:
                raise ArchiveError(_ENDLESS_NAME)
        else:
            self._pieces += len(line.pieces or ())
            if not self._bounds.has_pieces:
                raise ArchiveError("the manifest lists pieces, which a ZIP has not; it is damaged")

    def pass_over(self, members: int) -> None:
        """Count the lines of members that are not looked at."""
        self.members += members
        self._lines += members

    def _add_names(self, names: list[str]) -> None:
        """Look at a line of what is gone or failed, of which the text bounds how many there are."""
        if len(names) > LINE_NAMES:
            raise ArchiveError("the manifest lists too much in one line; it is damaged")
        if max(map(len, names), default=0) > _MAX_NAME:
            raise ArchiveError(_ENDLESS_NAME)

    def check(self) -> None:
        """Raise ArchiveError if there are more than the archive can hold."""
        bounds = self._bounds
        if (
            self.members > bounds.members
            or self._lines > 2 * bounds.members + 1000
            or self._pieces > bounds.pieces
            or self._entries > bounds.entries
        ):
            raise ArchiveError("the manifest lists far more than the archive holds; it is damaged")
