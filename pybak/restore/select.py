"""Which members are wanted: gitignore patterns on the member's name.

What is included and not excluded is kept. Patterns that take no member are remembered, because
an include that matches nothing is most likely a mistyped one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pybak.errors import PlanError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_WILD: Final = re.compile(r"[*?]+")


class Selector:
    """Decides by name. Raises PlanError, naming the pattern, if one is no gitignore pattern."""

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = _compile(include) if include else None
        self._exclude = _compile(exclude) if exclude else None
        self._unmatched = {pattern: _compile([pattern]) for pattern in filter(_is_taking, include)}
        self._fragments = _fragments(include) if include else None

    @property
    def fragments(self) -> list[bytes]:
        """Bytes of which one stands in every path that is wanted; none if that can't be told."""
        return self._fragments or []

    @property
    def takes_all(self) -> bool:
        """Whether there is nothing to decide."""
        return self._include is None and self._exclude is None

    def wants(self, path: bytes, *, is_folder: bool) -> bool:
        """Whether to take the member at `path`, given without slashes at its ends."""
        if not self._has_fragment(path):
            return False
        name = os.fsdecode(path) + ("/" if is_folder else "")
        if self._unmatched:
            for pattern in [p for p, spec in self._unmatched.items() if spec.match_file(name)]:
                del self._unmatched[pattern]
        return self._takes(name)

    def may_want(self, path: bytes) -> bool:
        """Whether to take what is at `path`, if it is a file or if it is a folder.

        Not remembered as a match.
        """
        if not self._has_fragment(path):
            return False
        name = os.fsdecode(path)
        return self._takes(name) or self._takes(name + "/")

    def _has_fragment(self, path: bytes) -> bool:
        # Nearly no path has one where one file is meant; patterns take a hundred times as long.
        return self._fragments is None or any(map(path.__contains__, self._fragments))

    def _takes(self, name: str) -> bool:
        if self._include is not None and not self._include.match_file(name):
            return False
        return self._exclude is None or not self._exclude.match_file(name)

    def unmatched(self) -> list[str]:
        """Give the include patterns that no name so far has matched."""
        return list(self._unmatched)


def _compile(patterns: Sequence[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    for pattern in patterns:
        try:
            GitIgnoreSpec.from_lines([pattern])
        except ValueError as error:
            message = f"{pattern!r} is no pattern; see the pattern format of gitignore"
            raise PlanError(message) from error
    return GitIgnoreSpec.from_lines(patterns)


def _is_taking(pattern: str) -> bool:
    """Whether a line is a pattern, and one that takes rather than leaves out."""
    return bool(pattern.strip()) and not pattern.startswith(("!", "#"))


def _fragments(patterns: Sequence[str]) -> list[bytes] | None:
    """Give bytes of which one stands in every path that `patterns` can take; None if unknown."""
    found = []
    for pattern in filter(_is_taking, patterns):
        text = pattern.strip()
        if "\\" in text or "[" in text or "//" in text:
            return None
        longest = max((run.strip("/") for run in _WILD.split(text)), key=len)
        try:
            found.append(os.fsencode(longest))
        except UnicodeEncodeError:
            return None
    return found if all(found) else None
