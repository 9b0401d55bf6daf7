"""References that a run makes, kept in a small file until its manifest is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from pybak.formats.manifest import Reference


class ReferenceWriter:
    """Writes references to a file, replacing what was there; a context manager that closes it.

    `runs` are those whose archives are referred to, `uids` and `gids` the owners and groups.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, None] = {}
        self.uids: set[int] = set()
        self.gids: set[int] = set()
        self._out = path.open("w", encoding="ascii")

    def add(self, reference: Reference) -> None:
        """Append one."""
        self.runs[reference.run] = None
        self.uids.add(reference.uid)
        self.gids.add(reference.gid)
        # msgspec refuses what is no UTF-8 in a path.
        self._out.write(json.dumps(msgspec.to_builtins(reference)) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._out.close()


def read_references(path: Path | None) -> Iterator[Reference]:
    """Yield what `ReferenceWriter` wrote; no file holds none."""
    if path is None:
        return
    with path.open(encoding="ascii") as lines:
        for line in lines:
            yield msgspec.convert(json.loads(line), Reference)
