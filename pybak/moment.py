"""Moments as people write them: `2026-11-20 14:00`, `2026-11-20`, ISO 8601 with an offset."""

from __future__ import annotations

import re
from datetime import date, datetime, time, tzinfo
from typing import Final

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
