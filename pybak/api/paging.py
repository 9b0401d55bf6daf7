"""Parameters of lists: how long a page is, and where it begins."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator

from pybak.api import problems
from pybak.moment import parse_moment
from pybak.overview.paging import LIMIT, MOST


def moment_of(name: str, text: str | None) -> datetime | None:
    """Give the time that the parameter `name` says. Raises Problem for what is none."""
    if text is None:
        return None
    try:
        return parse_moment(text)
    except ValueError as error:
        raise problems.wrong(f"query/{name}", str(error)) from error


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
    Query(max_length=64, description="From this time on (ISO 8601).", examples=["2026-11-20"]),
]
Until = Annotated[
    str | None,
    Query(max_length=64, description="Up to this time (ISO 8601); a date is the end of its day."),
]
Text = Annotated[str, AfterValidator(_plain)]

__all__ = ["LIMIT", "Cursor", "Limit", "Since", "Text", "Until", "moment_of"]
