"""What the formats have in common for whoever lays an archive together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

from pybak.backup.output import Output
from pybak.backup.segments import LaidDown, Segment, SegmentIndex
from pybak.entries import Entry
from pybak.formats import manifest

OnLines: TypeAlias = Callable[[bytes], object]
"""Is called with a batch's lines of the manifest, packed, as its members are entered."""


class MemberLines:
    """The manifest's lines of an archive's members, packed, in order; `on_lines` hears of each."""

    def __init__(self, on_lines: OnLines | None = None) -> None:
        self.all: list[bytes] = []
        self._on_lines = on_lines

    def add(self, lines: bytes) -> None:
        """Add the lines of a batch, or of a large file."""
        self.all.append(lines)
        if self._on_lines is not None:
            self._on_lines(lines)


class Book(Protocol):
    """What a format keeps about the members, and writes before, around and behind them."""

    def start(self, output: Output) -> None:
        """Write what the archive begins with."""

    def take(self, index: SegmentIndex, at: int) -> None:
        """Enter a segment of whole members that begins `at` this byte of the archive."""

    def lay_large(
        self, name: bytes, entry: Entry, segments: Iterator[tuple[SegmentIndex, Segment]],
        output: Output,
    ) -> LaidDown:  # fmt: skip
        """Lay the parts of one large file down. Raises what `segments` raises."""

    def enter_large(self, large: LaidDown, output: Output, *, changed: bool) -> None:
        """Complete the member that `lay_large` laid down last, and enter it."""

    def end(self, lines: manifest.Ends, output: Output) -> bytes:
        """Write the manifest and what ends the archive; give the manifest."""
