"""Long results for stdout: line by line for people, one JSON object made piece by piece."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pybak.cli.output import View, print_text
from pybak.display import columns, pad

_BLOCK_LINES: Final = 500


class Lines:
    """Lines for stdout, some hundred at a time; none with `--quiet`."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Append one line."""
        self._lines.append(line)
        if len(self._lines) >= _BLOCK_LINES:
            self.flush()

    def flush(self) -> None:
        """Print what has come together."""
        if self._lines and (self.view.json or not self.view.quiet):
            print_text("\n".join(self._lines) + "\n", sys.stdout)
        self._lines.clear()


def json_open(about: dict[str, Any], key: str) -> str:
    """Begin an object that ends with a list, whose items follow."""
    start = json.dumps(about)[:-1]
    return f'{start}{", " if about else ""}"{key}": ['


def json_close(rest: dict[str, Any]) -> str:
    """End the list and the object that `json_open` began; `rest` are its last keys."""
    return f"], {json.dumps(rest)[1:]}" if rest else "]}"


def table(
    heading: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[str]
) -> list[str]:
    """Give lines of columns as wide as their widest cell; those named in `right` end in line.

    The last column is never padded. Cells must be safe to show.
    """
    cells = [heading, *rows]
    widths = [max(map(columns, column)) for column in zip(*cells, strict=True)]
    last = len(heading) - 1
    lines = []
    for row in cells:
        parts = [
            " " * (width - columns(cell)) + cell
            if name in right
            else cell
            if number == last
            else pad(cell, width)
            for number, (name, cell, width) in enumerate(zip(heading, row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return lines
