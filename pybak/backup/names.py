"""Files of member names, one after the other with a NUL behind each: lists that stages pass on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

_READ_BYTES = 1 << 20


def write_names(path: Path, names: Iterable[bytes]) -> None:
    """Write names to `path`, replacing what was there."""
    with path.open("wb") as out:
        for name in names:
            out.write(name + b"\0")


def read_names(path: Path | None) -> Iterator[bytes]:
    """Yield the names that `write_names` wrote; no file holds none."""
    if path is None:
        return
    rest = b""
    with path.open("rb") as names:
        while block := names.read(_READ_BYTES):
            *whole, rest = (rest + block).split(b"\0")
            yield from whole
