"""Sizes and times as people write and read them."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_FACTORS: Final = {
    "": 1, "b": 1,
    "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "t": 10**12, "tb": 10**12, "p": 10**15, "pb": 10**15,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_SECONDS: Final = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_MONTH_SECONDS: Final = 2_629_746  # a twelfth of the Gregorian year of 365.2425 days
_LONGEST_SECONDS: Final = 12_000 * _MONTH_SECONDS
_STEP = re.compile(r"(\d{1,12})(mo|[ywdhms])")


def parse_size(text: str | int) -> int:
    """Turn `100MB`, `4.7 GB`, `64MiB` or a bare number into bytes.

    Decimal units are powers of 1000, the `i` ones of 1024, as SI and IEC define them.
    Raises ValueError, with what is accepted, for anything else and for zero.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        size = text
    else:
        match = _SIZE.fullmatch(str(text))
        factor = _FACTORS.get(match[2].lower()) if match else None
        if match is None or factor is None:
            raise ValueError(f"{text!r} is no size; write it like 500kB, 100MB, 4.7GB or 64MiB")
        size = int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor
    if size <= 0:
        raise ValueError(f"{text!r} is no size; it must be more than zero")
    return size


def format_size(size_bytes: float) -> str:
    """Give a size with three figures and a decimal unit: `999 B`, `1.25 MB`, `5.89 GB`."""
    value = float(size_bytes)
    for unit in _DECIMAL:
        if abs(value) < 999.5 or unit == _DECIMAL[-1]:
            break
        value /= 1000
    if unit == "B":
        return f"{value:.0f} B"
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f} {unit}"


def format_count(count: int, noun: str, plural: str | None = None) -> str:
    """Give a count with its noun: `1 file`, `21 304 files`."""
    word = noun if count == 1 else plural or noun + "s"
    return f"{count:,}".replace(",", "\N{NO-BREAK SPACE}") + f" {word}"


def format_duration(seconds: float) -> str:
    """Give a duration: `0.8 s`, `42 s`, `3 min 07 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass(frozen=True)
class Duration:
    """A length of time by the calendar: months, then days, are as long as they are.

    `seconds` pass as they do everywhere; so 24 hours are not always a day.
    """

    months: int = 0
    days: int = 0
    seconds: int = 0

    def before(self, moment: datetime, timezone: tzinfo | None = None) -> datetime:
        """Give the time, in UTC, that lies this far before `moment` (aware).

        Months and days are counted on the calendar of `timezone`, by default of this machine; a
        day that the month lacks becomes its last one. What lies before the year 1 becomes that.
        """
        passed = moment.astimezone(UTC)
        try:
            if self.months or self.days:
                passed = self._by_calendar(moment.astimezone(timezone), timezone)
            return passed - timedelta(seconds=self.seconds)
        except (OverflowError, ValueError):
            return datetime.min.replace(tzinfo=UTC)

    def _by_calendar(self, local: datetime, timezone: tzinfo | None) -> datetime:
        year, month = divmod(local.year * 12 + local.month - 1 - self.months, 12)
        day = min(local.day, calendar.monthrange(year, month + 1)[1])
        wall = local.replace(year=year, month=month + 1, day=day, tzinfo=None)
        wall -= timedelta(days=self.days)
        return (wall if timezone is None else wall.replace(tzinfo=timezone)).astimezone(UTC)

    @property
    def total_seconds(self) -> int:
        """About how long it is: a month counts as a twelfth of a year, a day as 24 hours."""
        return self.months * _MONTH_SECONDS + self.days * _SECONDS["d"] + self.seconds

    def __str__(self) -> str:
        """Give it as `parse_duration` reads it, in the largest units: `1y6mo`, `7d`, `15m`."""
        years, months = divmod(self.months, 12)
        hours, rest = divmod(self.seconds, _SECONDS["h"])
        minutes, seconds = divmod(rest, _SECONDS["m"])
        values = {
            "y": years, "mo": months, "d": self.days, "h": hours, "m": minutes, "s": seconds,
        }  # fmt: skip
        return "".join(f"{value}{unit}" for unit, value in values.items() if value) or "0s"


def parse_duration(text: str) -> Duration:
    """Turn `90s`, `15m`, `24h`, `7d`, `4w`, `6mo`, `2y` or several, such as `1y6mo`, into a value.

    `m` are minutes, `mo` months. Raises ValueError, with what is accepted, for anything else, for
    nothing, for the same unit twice and for more than a thousand years.
    """
    compact = "".join(text.split()).lower()
    found = _STEP.findall(compact)
    steps = {unit: int(number) for number, unit in found}
    if "".join(number + unit for number, unit in found) != compact or len(steps) != len(found):
        raise ValueError(
            f"{text!r} is no duration; write it like 90s, 15m, 24h, 7d, 4w, 6mo, 2y or 1y6mo"
        )
    duration = Duration(
        months=steps.get("y", 0) * 12 + steps.get("mo", 0),
        days=steps.get("w", 0) * 7 + steps.get("d", 0),
        seconds=sum(steps.get(unit, 0) * _SECONDS[unit] for unit in "hms"),
    )
    if not 0 < duration.total_seconds <= _LONGEST_SECONDS:
        raise ValueError(f"{text!r} is no duration; it must be more than zero and at most 1000y")
    return duration
