"""Names of owner ids, as this machine knows them."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from functools import lru_cache
from pathlib import Path

from pybak.entries import read_entries


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


def owners_of(listed: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Give the names of the users and groups of a file of entries, by their ids."""
    uids, gids = set(), set()
    for entry in read_entries(listed):
        uids.add(entry.uid)
        gids.add(entry.gid)
    users, groups = {}, {}
    for uid in uids:
        with contextlib.suppress(KeyError):
            users[str(uid)] = pwd.getpwuid(uid).pw_name
    for gid in gids:
        with contextlib.suppress(KeyError):
            groups[str(gid)] = grp.getgrgid(gid).gr_name
    return users, groups
