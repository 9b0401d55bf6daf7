"""Whose a restored file becomes: by number, by name, or nobody else's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from pybak.formats.listing import Listed

AUTO: Final = "auto"
NUMBER: Final = "number"
NAME: Final = "name"
NONE: Final = "none"
OWNERS: Final = (AUTO, NUMBER, NAME, NONE)


class OwnerNames(NamedTuple):
    """What the ids of users and of groups meant to a run."""

    users: Mapping[int, str] = {}
    groups: Mapping[int, str] = {}


FindOwner = Callable[[Listed], tuple[int, int]]
"""Gives the user and group id that a member's owner means here; -1 for unknown."""


def sets_owner(owner: str, *, is_root: bool) -> bool:
    """Whether files are given away at all."""
    return owner in (NUMBER, NAME) or (owner == AUTO and is_root)


def finder(owner: str) -> FindOwner:
    """Give how owners are found: with NAME by name, where there is such a name here."""
    return _by_name if owner == NAME else _by_number


def _by_number(listed: Listed) -> tuple[int, int]:
    return listed.uid, listed.gid


def _by_name(listed: Listed) -> tuple[int, int]:
    uid = _user_id(listed.user) if listed.user else None
    gid = _group_id(listed.group) if listed.group else None
    return listed.uid if uid is None else uid, listed.gid if gid is None else gid


@lru_cache(maxsize=4096)
def _user_id(name: str) -> int | None:
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


@lru_cache(maxsize=4096)
def _group_id(name: str) -> int | None:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None
