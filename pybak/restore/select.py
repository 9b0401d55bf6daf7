"""Which members are wanted: gitignore patterns on the member's name.

What is included and not excluded is kept. Patterns that take no member are remembered, because
an include that matches nothing is most likely a mistyped one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pybak.errors import PlanError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


class Selector:
    """Decides by name. Raises PlanError, naming the pattern, if one is no gitignore pattern."""

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = _compile(include) if include else None
        self._exclude = _compile(exclude) if exclude else None
        self._unmatched = {
            pattern: _compile([pattern])
            for pattern in include
            if pattern.strip() and not pattern.startswith(("!", "#"))
        }

    @property
    def takes_all(self) -> bool:
        """Whether there is nothing to decide."""
        return self._include is None and self._exclude is None

    def wants(self, path: bytes, *, is_folder: bool) -> bool:
        """Whether to take the member at `path`, given without slashes at its ends."""
        name = os.fsdecode(path) + ("/" if is_folder else "")
        if self._unmatched:
            for pattern in [p for p, spec in self._unmatched.items() if spec.match_file(name)]:
                del self._unmatched[pattern]
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
