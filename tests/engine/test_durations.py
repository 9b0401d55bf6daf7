"""Lengths of time as people write them."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybak.units import Duration, parse_duration

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", Duration(seconds=90)),
        ("15m", Duration(seconds=900)),
        ("24h", Duration(seconds=86_400)),
        ("7d", Duration(days=7)),
        ("4w", Duration(days=28)),
        ("6mo", Duration(months=6)),
        ("2y", Duration(months=24)),
        ("1y6mo", Duration(months=18)),
        (" 1Y 2w 3d 4h ", Duration(months=12, days=17, seconds=14_400)),
        ("1000y", Duration(months=12_000)),
    ],
)
def test_durations_are_read(text: str, duration: Duration) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    ["", "7", "d", "7x", "7 days", "-7d", "1.5d", "1d1d", "0d", "0y0s", "1001y", "9" * 13 + "s",
     "1d\n2", "\N{ARABIC-INDIC DIGIT SEVEN}x"],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@given(st.integers(0, 11_000), st.integers(0, 10_000), st.integers(0, 10**8))
def test_a_duration_is_written_as_it_is_read(months: int, days: int, seconds: int) -> None:
    duration = Duration(months, days, seconds)
    if duration.total_seconds:
        assert parse_duration(str(duration)) == duration


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        ("1mo", "2026-03-31 12:00", "2026-02-28 12:00"),
        ("1y", "2028-02-29 12:00", "2027-02-28 12:00"),
        ("13mo", "2026-01-15 12:00", "2024-12-15 12:00"),
        ("1d", "2026-10-25 12:00", "2026-10-24 12:00"),  # 25 hours
        ("24h", "2026-10-25 12:00", "2026-10-24 13:00"),
        ("1d", "2026-03-29 12:00", "2026-03-28 12:00"),  # 23 hours
        ("1mo1d12h", "2026-03-31 12:00", "2026-02-27 00:00"),
    ],
)
def test_days_and_months_are_counted_on_the_calendar(text: str, moment: str, expected: str) -> None:
    """(case 108)"""
    at = datetime.fromisoformat(moment).replace(tzinfo=BERLIN)
    then = parse_duration(text).before(at, BERLIN)
    assert then == datetime.fromisoformat(expected).replace(tzinfo=BERLIN).astimezone(UTC)


def test_before_the_first_year_there_is_nothing() -> None:
    at = datetime(500, 1, 1, tzinfo=UTC)
    assert parse_duration("1000y").before(at, UTC) == datetime.min.replace(tzinfo=UTC)
