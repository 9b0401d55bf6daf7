"""Patterns for names, each judged in the time that its length and the name's allow.

A pattern is a row of steps, and a name is gone through once: after each character stands the set
of places in the pattern that what was read can have come to, as the bits of a number. So nothing
is tried twice, however many stars there are. `pybak.overview.matching` tells what patterns mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final

SPECIAL: Final = re.compile(r"(\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\])")
"""What stands for something else in a pattern; a split by it keeps it."""
_STARS: Final = ("**", "**/", "*")
_MOST_KEPT: Final = 10_000


class Glob:
    """A pattern, in any case. Not for several threads at once."""

    def __init__(self, pieces: Sequence[str]) -> None:
        """Take a pattern as `SPECIAL` splits it. Raises re.error for a set that can't be."""
        self._literals: dict[str, int] = {}
        sets: dict[str, int] = {}
        self._any = self._stays = self._inside = self._skips = stars = 0
        bit = 1
        for step in _steps(pieces):
            if step == "**/":
                # Two places: before it, which may be left at once, and within its folders.
                self._skips |= bit
                bit <<= 1
                self._inside |= bit
            elif step == "**":
                self._stays |= bit
            elif step == "*":
                stars |= bit
            elif step == "?":
                self._any |= bit
            elif len(step) > 1:
                sets[step] = sets.get(step, 0) | bit
            else:
                key = _folded(step)
                self._literals[key] = self._literals.get(key, 0) | bit
            bit <<= 1
        self._end = bit
        self._free = stars | self._stays
        self._tests = [(_test(step), bits) for step, bits in sets.items()]
        self._first = self._spread(1)
        self._by_char: dict[str, tuple[int, int]] = {}
        self._known: dict[tuple[int, str], int] = {}

    def matches(self, name: str) -> bool:
        """Whether it is a pattern of the whole name."""
        at, known = self._first, self._known
        for char in name:
            following = known.get((at, char))
            at = self._after(at, char) if following is None else following
            if not at:
                return False
        return bool(at & self._end)

    def _after(self, at: int, char: str) -> int:
        """Give the places after `char`, and keep them in mind."""
        bits = self._by_char.get(char)
        if bits is None:
            bits = self._by_char[char] = self._bits(char)
        taken, stays = bits
        following = self._spread((at & taken) << 1 | (at & stays))
        if len(self._known) >= _MOST_KEPT:
            self._known.clear()
        self._known[at, char] = following
        return following

    def _bits(self, char: str) -> tuple[int, int]:
        """Give the places that `char` leads on from, and those where it may stay."""
        taken = self._literals.get(_folded(char), 0)
        for test, bits in self._tests:
            if test(char) is not None:
                taken |= bits
        if char == "/":
            return taken | self._inside, self._stays | self._inside
        return taken | self._any, self._free | self._inside

    def _spread(self, at: int) -> int:
        """Add the places that are come to without reading; no more than two follow each other."""
        while True:
            skipped = at & self._skips
            more = at | (at & self._free) << 1 | skipped << 1 | skipped << 2
            if more == at:
                return at
            at = more


def _steps(pieces: Sequence[str]) -> Iterator[str]:
    """Yield what a pattern consists of; stars that follow each other are made few."""
    for is_stars, some in groupby(filter(None, pieces), _STARS.__contains__):
        if is_stars:
            stars = list(some)
            # A single one is the last: two would be another thing.
            yield from ("**",) if "**" in stars else dict.fromkeys(stars)
            continue
        for piece in some:
            yield from (piece,) if SPECIAL.fullmatch(piece) else piece


def _test(piece: str) -> Callable[[str], object]:
    """Give what tells if a character is in a set: `[a-c]`, or `[!a]`, which has no slash."""
    inside = piece[1:-1]
    negated = inside[:1] in ("!", "^")
    body = inside[1:] if negated else inside
    body = body.replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]").replace("&&", r"&\&")
    return re.compile(f"[{'^/' if negated else ''}{body}]", re.IGNORECASE).match


def _folded(char: str) -> str:
    """Give what is the same for a character in any case, as `re.IGNORECASE` has it."""
    return "i" if char in "\u0130\u0131" else char.casefold()
