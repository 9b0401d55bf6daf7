"""How much a mirror may delete in one run."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_USUAL_SHARE: Final = 50.0
_LEAST: Final = 20


class MaxDelete(NamedTuple):
    """How much may be deleted: a number of entries, or a part of all and a few in any case."""

    text: str
    entries: int
    part: float

    def of(self, total: int, *, is_all: bool = False) -> int:
        """Give how many entries may go of so many that are there.

        `is_all` tells that nothing would remain: then a share is a share.
        """
        part = int(total * self.part)
        return part if is_all and self.part else max(self.entries, part)


def max_delete(text: str | None) -> MaxDelete:
    """Give what a limit says; None is the default. Raises ValueError for what is none.

    `50%` is a share of the entries that the destination holds, and lets 20 go in any case.
    """
    if text is None:
        return MaxDelete(f"{_USUAL_SHARE:g}%", _LEAST, _USUAL_SHARE / 100)
    compact = text.strip()
    number = compact.removesuffix("%")
    is_number = re.fullmatch(r"\d+(\.\d+)?" if number != compact else r"\d+", number, re.ASCII)
    if is_number is None or (number != compact and float(number) > 100):
        raise ValueError(f"{text!r} is neither a number of entries nor a share such as 25%")
    if number == compact:
        return MaxDelete(compact, int(number), 0.0)
    return MaxDelete(compact, _LEAST if float(number) else 0, float(number) / 100)
