"""Pages of long lists, each with the cursor that the next one begins after.

A cursor is the sort key of the last row that was looked at, so a list that grows meanwhile neither
repeats nor skips what was there (keyset paging). To callers it is opaque text for a URL.

Work is bounded as well as length: a page may hold fewer items than asked for, even none, and still
have a `next`. A list is at its end only when `next` is None.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from pybak.errors import PlanError

LIMIT: Final = 50
MOST: Final = 500
"""How many items a page has if nothing is asked for, and at most."""

T = TypeVar("T")
Key = tuple[str | int | None, ...]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items of a list; `next` is the cursor of what follows, None at the end."""

    items: tuple[T, ...]
    next: str | None = None


def checked_limit(limit: int) -> int:
    """Give how many items a page may have. Raises PlanError for less than one."""
    if limit < 1:
        raise PlanError(f"limit {limit}: a page has between 1 and {MOST} items")
    return min(limit, MOST)


def to_cursor(*key: str | int | None) -> str:
    """Give the cursor for a sort key."""
    data = msgspec.json.encode(key)
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_cursor(cursor: str | None, kinds: Sequence[Any]) -> Key | None:
    """Give the sort key of a cursor, None for the start; `kinds` are the types of its parts.

    Raises PlanError for text that is no cursor of this list.
    """
    if cursor is None:
        return None
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key: Key = msgspec.json.decode(data, type=tuple[tuple(kinds)])  # type: ignore[misc]
    except (binascii.Error, ValueError) as error:
        raise PlanError("this is no cursor of this list; begin it again without one") from error
    if any(isinstance(part, int) and abs(part) >= 1 << 63 for part in key):
        raise PlanError("this is no cursor of this list; begin it again without one")
    if any(isinstance(part, str) and "\0" in part for part in key):
        raise PlanError("this is no cursor of this list; begin it again without one")
    return key


def page_of(items: Sequence[T], limit: int, keys: Sequence[Key]) -> Page[T]:
    """Make the page of up to `limit` items; one more says that others follow.

    `keys` are the sort keys of `items`.
    """
    if len(items) <= limit:
        return Page(tuple(items))
    return Page(tuple(items[:limit]), to_cursor(*keys[limit - 1]))
