"""Where requests may have files read or written: below the roots of the settings, nowhere else.

Paths are judged by what they really are: links are followed, and the flow gets the resolved path,
so that the path that was judged is the one that is used; where a link has come into its way when
the flow begins, that refuses it. Addresses of storages are judged by their parts. Paths are looked
up on the host of the service; where flows run on others, these should have the same folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from pybak.api.problems import Problem
from pybak.errors import PlanError
from pybak.portable import from_portable, to_portable
from pybak.storage.opening import is_remote

_MOST_CHARACTERS: Final = 4096


class Roots:
    """The roots of one kind: of sources, of destinations, of restores."""

    def __init__(self, what: str, roots: Iterable[str]) -> None:
        """Take what people call them, and paths or addresses of folders. Raises PlanError."""
        self._what = what
        self._folders: list[str] = []
        self._storages: list[tuple[str, ...]] = []
        for root in roots:
            if is_remote(root):
                parts = _parts(root)
                if parts is None:
                    raise PlanError(f"{root}: is no address of a folder in a storage")
                self._storages.append(parts)
            elif os.path.isabs(root):
                self._folders.append(root)
            else:
                raise PlanError(f"{root}: is no absolute path; write it from / on")

    def check(self, place: str) -> str:
        """Give a place as flows may have it: really below a root. Raises Problem."""
        if not place or len(place) > _MOST_CHARACTERS or "\0" in place:
            raise self._outside()
        if is_remote(place):
            parts = _parts(place)
            if parts is None or not any(parts[: len(root)] == root for root in self._storages):
                raise self._outside()
            return place
        path = from_portable(place)
        if not os.path.isabs(path):
            raise self._outside()
        try:
            real = os.path.realpath(path)
            if any(_is_below(real, os.path.realpath(root)) for root in self._folders):
                return to_portable(real)
        except (OSError, ValueError, PlanError):
            pass
        raise self._outside()

    def _outside(self) -> Problem:
        # The same words for all, so that they don't tell what is there.
        return Problem(
            403, "outside-roots",
            f"this is not below a folder that {self._what} are limited to; give an absolute path "
            "or an address below one",
        )  # fmt: skip


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _parts(address: str) -> tuple[str, ...] | None:
    """Take an address apart; None if it is no plain one.

    `s3://bucket/a/b` gives `s3:`, `bucket`, `a`, `b`; `block:NAME/a` gives `block:NAME`, `a`.
    """
    scheme, _, rest = address.partition(":")
    if scheme == "block":
        parts = rest.rstrip("/").split("/")
        # `block:TYPE/NAME` names the type, too, so the first two may be one block's name.
        found = (f"block:{parts[0]}", *parts[1:])
    else:
        if not rest.startswith("//"):
            return None
        found = (f"{scheme}:", *rest[2:].rstrip("/").split("/"))
    plain = not any(part in ("", ".", "..") for part in found[1:])
    printable = address.isprintable() and not any(char in address for char in "\\?#%@")
    return found if plain and printable and found[0] != "block:" else None
