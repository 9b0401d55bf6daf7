"""Parameters of lists: how long a page is, and where it begins."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Annotated, Final

from fastapi import Query
from pydantic import AfterValidator

from pybak.api import problems
from pybak.moment import parse_moment
from pybak.overview.paging import LIMIT, MOST

# Further away than anything that ran, and nearer than the ends of what databases know.
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(2999, 12, 31, tzinfo=UTC)


def since_of(text: str | None) -> datetime | None:
    """Give the time that `since` says, a date as its first moment. Raises Problem for none."""
    if text is not None and (day := _day(text)) is not None:
        return _within(datetime.combine(day, time.min, UTC))
    return _moment("since", text)


def until_of(text: str | None) -> datetime | None:
    """Give the time that `until` says, a date as its last moment. Raises Problem for none."""
    return _moment("until", text)


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return _within(parse_moment(text, UTC).astimezone(UTC))
    except (ValueError, OverflowError) as error:
        raise problems.wrong(f"query/{name}", str(error)) from error


def _within(when: datetime) -> datetime:
    return min(max(when, _FIRST), _LAST)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        return None


def _plain(text: str) -> str:
    if "\0" in text or not _is_utf8(text):
        raise ValueError("holds characters that no name has")
    return text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


Cursor = Annotated[
    str | None,
    Query(max_length=8192, description="The `next` of the page before; without it the first one."),
]
Limit = Annotated[int, Query(ge=1, le=MOST, description="How many items at most.")]
Since = Annotated[
    str | None,
    Query(
        max_length=64,
        description="From this time on (ISO 8601, UTC unless it says so); a date is its start.",
        examples=["2026-11-20"],
    ),
]
Until = Annotated[
    str | None,
    Query(
        max_length=64,
        description="Up to this time (ISO 8601, UTC unless it says so); a date is its end.",
    ),
]
Text = Annotated[str, AfterValidator(_plain)]

__all__ = ["LIMIT", "Cursor", "Limit", "Since", "Text", "Until", "since_of", "until_of"]
