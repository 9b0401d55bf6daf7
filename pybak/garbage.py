"""How often Python looks for garbage that refers to itself."""

from __future__ import annotations

import gc

_NEW_OBJECTS = 20_000
_YOUNG_TO_OLD = 20


def collect_seldom() -> None:
    """Look for cycles after 20 000 new objects rather than 700.

    Importing Prefect makes a million objects that stay, and a run lists files by the hundred
    thousand; hardly any of it is a cycle. A command takes 7 to 9 % less processor time so, and no
    more memory (docs/performance.md).
    """
    gc.set_threshold(_NEW_OBJECTS, _YOUNG_TO_OLD, _YOUNG_TO_OLD)
