"""How often Python looks for garbage that refers to itself."""

from __future__ import annotations

import gc

_NEW_OBJECTS = 20_000
_YOUNG_TO_OLD = 20


def collect_seldom() -> None:
    """Look for cycles after 20 000 new objects rather than 700.

    What a command imports are 190 000 objects that stay, for which Python would look 500 times; and
    a run lists files by the hundred thousand. What it saves stands in docs/performance.md.
    """
    gc.set_threshold(_NEW_OBJECTS, _YOUNG_TO_OLD, _YOUNG_TO_OLD)
