"""The lines of a manifest's copy on the disk, by what they are (`pybak.formats.manifest`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pybak.formats.manifest import Reference
from pybak.formats.manifest_facts import FullFact
from pybak.formats.manifest_reader import Stream, unpack_lines

_READ_BYTES: Final = 1 << 20


class ManifestLines:
    """Members, references, names gone and errors of a manifest.

    Each kind is asked for at most once, in this order.
    """

    def __init__(self, lines: Iterator[FullFact]) -> None:
        self._lines = lines
        self._next: FullFact | None = None

    def members(self) -> Iterator[FullFact]:
        """Yield what the manifest says of each member."""
        for line in self._lines:
            if line.path is None:
                self._next = line
                return
            yield line

    def references(self) -> Iterator[Reference]:
        """Yield the members that older archives hold."""
        while self._next is not None and self._next.reference is not None:
            yield self._next.reference
            self._next = next(self._lines, None)

    def gone(self) -> Iterator[str]:
        """Yield the names that earlier archives of the chain hold and the snapshot lacks."""
        while self._next is not None and self._next.gone is not None:
            yield from self._next.gone
            self._next = next(self._lines, None)

    def errors(self) -> Iterator[tuple[str, str, str]]:
        """Yield path, code and message of what could not be saved."""
        while self._next is not None:
            yield from self._next.errors or ()
            self._next = next(self._lines, None)


@contextmanager
def manifest_lines(copy: Path) -> Iterator[ManifestLines]:
    """Open the copy of a manifest to read its lines. Raises OSError."""
    with copy.open("rb") as file:
        blocks = iter(lambda: file.read(_READ_BYTES), b"")
        yield ManifestLines(Stream(blocks, copy.stat().st_size).lines())


def closing_lines(packed: bytes) -> ManifestLines:
    """Give what stands behind the members, as `manifest.pack_closing` packed it."""
    lines = ManifestLines(unpack_lines(packed))
    for _ in lines.members():  # there are none; the others come once these were asked for
        pass
    return lines
