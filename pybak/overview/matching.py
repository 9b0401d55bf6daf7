"""What people type to find a file: a part of its name, or a pattern.

- `report` is a part of a name, `2026/report` of a whole path; upper and lower case are the same.
- With `*`, `?` or `[` it is a pattern: `*.odt` of a name, `docs/**/*.odt` of a whole path. `*` and
  `?` stop at a slash, `**` does not.

The database drops nearly all that does not match, by LIKE; what is left is judged here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from pybak.catalog.models import escaped
from pybak.errors import PlanError
from pybak.overview.globs import SPECIAL, Glob

_NAME: Final = "substr({0}, length(rtrim({0}, replace({0}, '/', ''))) + 1)"
_MOST: Final = 1000


class Matcher(NamedTuple):
    """A search. `like` is the LIKE pattern of what can match, with `!` as its escape."""

    like: str
    of_name: bool
    matches: Callable[[str], bool]

    def where(self, path: str, *, postgres: bool) -> tuple[str, tuple[str, ...]]:
        """Give the condition on a column of paths, as stored, and its parameters."""
        # By bytes: what other collations know of upper and lower case takes twice the time.
        operator = 'COLLATE "C" ILIKE' if postgres else "LIKE"
        condition = f"{path} {operator} ? ESCAPE '!'"
        if not self.of_name:
            return condition, (self.like,)
        return f"{condition} AND {_NAME.format(path)} {operator} ? ESCAPE '!'", (self.like,) * 2


def matcher(text: str) -> Matcher:
    """Give what `text` looks for. Raises PlanError for nothing, and for too much."""
    wanted = text.strip().removeprefix("./").strip("/") if text.strip("/ ") else ""
    if not wanted or "\0" in wanted:
        raise PlanError("nothing to look for; write a part of a name, or a pattern such as *.odt")
    if len(wanted) > _MOST:
        raise PlanError(f"{len(wanted)} characters to look for; write at most {_MOST}")
    of_name = "/" not in wanted
    pieces = SPECIAL.split(wanted)
    if len(pieces) == 1:
        matches = _within(wanted)
        like = f"%{_like(wanted)}%"
    else:
        try:
            matches = Glob(pieces).matches
        except re.error as error:
            raise PlanError(f"{wanted}: this is no pattern ({error.msg})") from error
        like = "".join(
            "%" if SPECIAL.fullmatch(piece) else _like(piece) for piece in pieces if piece
        )
        like = like if of_name is False else f"%{like}"
    return Matcher(like, of_name, _of_name(matches) if of_name else matches)


def _within(wanted: str) -> Callable[[str], bool]:
    find = re.compile(re.escape(wanted), re.IGNORECASE).search
    return lambda name: find(name) is not None


def _of_name(matches: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda path: matches(path.rpartition("/")[2])


def _like(text: str) -> str:
    """Give the LIKE pattern of a text as the catalog stores it, in any case."""
    return "".join(map(_like_char, text))


def _like_char(char: str) -> str:
    if char in "!%_":
        return "!" + char
    if char.isascii():
        return escaped(char)
    if char.lower() == char.upper():
        return escaped(char)
    # SQLite's LIKE knows the case of ASCII only.
    return "_" if len(char.lower()) == len(char.upper()) == 1 else "%"
