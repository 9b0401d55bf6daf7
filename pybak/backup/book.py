"""What the formats have in common for whoever lays an archive together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pybak.backup.output import Output
from pybak.backup.segments import LaidDown, Segment, SegmentIndex
from pybak.entries import Entry
from pybak.formats import manifest


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
