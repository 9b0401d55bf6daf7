"""Moments as people write them: `2026-11-20 14:00`, `2026-11-20`, ISO 8601 with an offset."""

from __future__ import annotations

import re
import time as clock
from datetime import date, datetime, time, tzinfo
from typing import Final

_NS: Final = 10**9
_BEFORE_OFFSET: Final = re.compile(r"\s+(?=[+-]\d|Z$)")


def parse_moment(text: str, zone: tzinfo | None = None) -> datetime:
    """Give the moment, aware, that `text` names; a date alone is the end of that day.

    What names no offset is in `zone`, by default the zone of this machine. Raises ValueError,
    with what is accepted, for anything else.
    """
    plain = _BEFORE_OFFSET.sub("", text.strip())
    try:
        try:
            moment = datetime.combine(date.fromisoformat(plain), time.max)
        except ValueError:
            moment = datetime.fromisoformat(plain)
        if moment.tzinfo is None and zone is not None:
            moment = moment.replace(tzinfo=zone)
        return moment.astimezone(moment.tzinfo)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{text!r} is no time; write it like '2026-11-20 14:00' or 2026-11-20T14:00+01:00"
        ) from error


def utc_text(time_ns: int) -> str | None:
    """Give nanoseconds since 1970 in ISO 8601, with as many decimals as they have.

    None for what no calendar has.
    """
    seconds, rest = divmod(time_ns, _NS)
    try:
        at = clock.gmtime(seconds)
    except (OverflowError, OSError, ValueError):
        return None
    decimals = f".{rest:09d}".rstrip("0") if rest else ""
    return (
        f"{at.tm_year:04d}-{at.tm_mon:02d}-{at.tm_mday:02d}T"
        f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d}{decimals}Z"
    )
