"""The text of a manifest, unpacked in blocks of whole lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from isal import igzip_lib, isal_zlib

from pybak.errors import ArchiveError
from pybak.formats.manifest_bounds import Bounds

_BLOCK: Final = 1 << 20


def text_blocks(packed: Iterable[bytes], bounds: Bounds) -> Iterator[bytes]:
    """Yield the text of all gzip members in `packed` in blocks of whole lines."""
    rest = b""
    left = bounds.text
    for block in inflate(packed):
        left -= len(block)
        if left < 0:
            raise ArchiveError("the manifest says far more than the archive holds; it is damaged")
        whole, newline, tail = block.rpartition(b"\n")
        if newline:
            yield b"%b%b\n" % (rest, whole)
            rest = tail
        else:
            rest += tail
        if len(rest) > bounds.line:
            raise ArchiveError("the manifest holds an endless line; it is damaged")
    if rest:
        raise ArchiveError("the manifest is cut short; the archive is damaged")


def inflate(packed: Iterable[bytes]) -> Iterator[bytes]:
    """Unpack gzip members laid end to end, at most _BLOCK bytes at once."""
    inflater: igzip_lib.IgzipDecompressor | None = None
    try:
        for chunk in packed:
            data = chunk
            while data or (inflater and not inflater.needs_input):
                if inflater is None:
                    inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
                made = inflater.decompress(data, _BLOCK)
                data = b""
                if inflater.eof:
                    data = inflater.unused_data
                    inflater = None
                if made:
                    yield made
    except (isal_zlib.error, EOFError, ValueError) as error:  # type: ignore[misc]
        message = f"the manifest can't be read ({error}); the archive is damaged"
        raise ArchiveError(message) from error
    if inflater is not None:
        raise ArchiveError("the manifest is cut short; the archive is damaged")
