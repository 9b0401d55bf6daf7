"""Names of owner ids, as this machine knows them."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Iterable
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


def owner_names(uids: Iterable[int], gids: Iterable[int]) -> tuple[dict[str, str], dict[str, str]]:
    """Give the names of users and of groups by their ids, as far as they have any."""
    users, groups = {}, {}
    for uid in uids:
        with contextlib.suppress(KeyError):
            users[str(uid)] = pwd.getpwuid(uid).pw_name
    for gid in gids:
        with contextlib.suppress(KeyError):
            groups[str(gid)] = grp.getgrgid(gid).gr_name
    return users, groups
