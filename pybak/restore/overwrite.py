"""What to do with something that is there already where a member goes."""

from __future__ import annotations

import os
import stat
from typing import Final

from pybak.entries import BLOCK_DEVICE, CHAR_DEVICE, FIFO, FILE, HARD_LINK
from pybak.restore.items import Item

NEVER: Final = "never"
IF_NEWER: Final = "if-newer"
IF_CHANGED: Final = "if-changed"
ALWAYS: Final = "always"
OVERWRITE: Final = (NEVER, IF_NEWER, IF_CHANGED, ALWAYS)


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
    if abs(age_ns) < item.precision and _is_alike(item, status):
        return "exists already, with the same size and time"
    return None


def _is_alike(item: Item, status: os.stat_result) -> bool:
    """Whether both are of one kind and, as far as that can be seen from outside, the same."""
    mode = status.st_mode
    if item.kind in (FILE, HARD_LINK):
        return stat.S_ISREG(mode) and item.member.size == status.st_size
    if item.kind == FIFO:
        return stat.S_ISFIFO(mode)
    if item.kind in (CHAR_DEVICE, BLOCK_DEVICE) and item.device is not None:
        is_kind = stat.S_ISCHR if item.kind == CHAR_DEVICE else stat.S_ISBLK
        return is_kind(mode) and status.st_rdev == os.makedev(*item.device)
    return False
