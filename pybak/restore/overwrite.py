"""What to do with something that is there already where a member goes."""

from __future__ import annotations

import os
import stat
from typing import Final

from pybak.entries import FILE
from pybak.restore.items import Item

NEVER: Final = "never"
IF_NEWER: Final = "if-newer"
IF_CHANGED: Final = "if-changed"
ALWAYS: Final = "always"


def reason_to_leave(item: Item, status: os.stat_result, overwrite: str) -> str | None:
    """Say why what is there (`lstat` gave `status`) stays, or None if the member replaces it.

    Times are compared as exactly as the archive knows them. A folder in the way is never older
    or the same. Whether a link points to the same place is for the caller to find out.
    """
    if overwrite == NEVER:
        return "exists already"
    if overwrite == ALWAYS or stat.S_ISDIR(status.st_mode):
        return None
    age_ns = item.mtime_ns - status.st_mtime_ns
    if overwrite == IF_NEWER:
        return None if age_ns >= item.precision else "exists already and is not older"
    is_same = (
        item.kind == FILE
        and stat.S_ISREG(status.st_mode)
        and item.member.size == status.st_size
        and abs(age_ns) < item.precision
    )
    return "exists already, with the same size and time" if is_same else None
