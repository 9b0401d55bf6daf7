"""Names of owner ids, as this machine knows them."""

from __future__ import annotations

import grp
import os
import pwd
from functools import lru_cache


@lru_cache(maxsize=4096)
def user_name(uid: int) -> bytes:
    """Give a user's name, empty if there is none."""
    try:
        return os.fsencode(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return b""


@lru_cache(maxsize=4096)
def group_name(gid: int) -> bytes:
    """Give a group's name, empty if there is none."""
    try:
        return os.fsencode(grp.getgrgid(gid).gr_name)
    except (KeyError, OverflowError):
        return b""
