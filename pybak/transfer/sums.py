"""The files of checksums that lie beside an archive: found by their names, known by their lines."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Final

SUFFIXES: Final = (".sha256", ".md5")
MOST_BYTES: Final = 16 << 20
"""A larger file is none that was made here."""

_WRAPPED: Final = ".zip"
_ESCAPED = re.compile(rb"\\([\\nr])")
_PLAIN: Final = {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}


def names_of_sums(archive: str) -> tuple[str, ...]:
    """Give what files of checksums beside an archive of this name (without a folder) are called."""
    stems = dict.fromkeys((archive, archive.removesuffix(_WRAPPED)))
    return tuple(stem + suffix for stem in stems for suffix in SUFFIXES)


def lists(data: bytes, names: Collection[str]) -> bool:
    """Whether this is what `sha256sum` or `md5sum` prints for these files and no others."""
    listed = set()
    for line in data.splitlines():
        _, separator, name = line.partition(b"  ")
        if not separator:
            return False
        if line.startswith(b"\\"):
            name = _ESCAPED.sub(lambda found: _PLAIN[found[1]], name)
        listed.add(name)
    return listed == set(map(os.fsencode, names))
