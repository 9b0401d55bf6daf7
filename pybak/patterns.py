"""Patterns that mean one name and no other, in gitignore syntax."""

from __future__ import annotations

import os
import re

_SPECIAL = re.compile(r"[\\*?\[\]!#]")


def exact_pattern(name: bytes) -> str:
    """Give the pattern that takes the member `name`; of a folder, all below it too."""
    text = _SPECIAL.sub(r"\\\g<0>", os.fsdecode(name))
    kept = text.rstrip(" ")
    return "/" + kept + "\\ " * (len(text) - len(kept))
