"""Times as people write them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybak.moment import parse_moment
from pybak.options import RestoreOptions

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20 14:00", datetime(2026, 11, 20, 13, 0, tzinfo=UTC)),
        ("  2026-11-20T14:00 ", datetime(2026, 11, 20, 13, 0, tzinfo=UTC)),
        ("2026-07-20 14:00:30", datetime(2026, 7, 20, 12, 0, 30, tzinfo=UTC)),
        ("2026-11-20 14:00:30.25", datetime(2026, 11, 20, 13, 0, 30, 250_000, tzinfo=UTC)),
        ("2026-11-20T14:00Z", datetime(2026, 11, 20, 14, 0, tzinfo=UTC)),
        ("2026-11-20 14:00 Z", datetime(2026, 11, 20, 14, 0, tzinfo=UTC)),
        ("2026-11-20 14:00 +05:30", datetime(2026, 11, 20, 8, 30, tzinfo=UTC)),
        ("2026-11-20T14:00-08:00", datetime(2026, 11, 20, 22, 0, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20, 22, 59, 59, 999_999, tzinfo=UTC)),
        ("2026-10-25", datetime(2026, 10, 25, 22, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_a_time_is_local_unless_it_says_otherwise(text: str, expected: datetime) -> None:
    assert parse_moment(text, BERLIN) == expected


def test_without_a_zone_it_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Summer time included."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    assert parse_moment("2026-07-20 14:00") == datetime(2026, 7, 20, 12, 0, tzinfo=UTC)
    assert parse_moment("2026-11-20").isoformat() == "2026-11-20T23:59:59.999999+01:00"


@pytest.mark.parametrize(
    "text",
    ["", "now", "14:00", "2026-13-01", "2026-11-20 25:00", "20.11.2026", "2026-11-20 14:00 CET",
     "1699999999", "0001-01-01 00:00+14:00 x", "2026-11-20\0"],
)  # fmt: skip
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write it like '2026-11-20 14:00'"):
        parse_moment(text, BERLIN)


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31", "9999-12-31 23:59"])
def test_the_ends_of_the_calendar_do_no_harm(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            assert parse_moment(text).tzinfo is not None
        except ValueError as error:
            assert "write it like" in str(error)  # noqa: PT017 - either will do


@given(st.datetimes(timezones=st.just(timezone(timedelta(hours=2)))))
def test_iso_8601_reads_back(moment: datetime) -> None:
    assert parse_moment(moment.isoformat()) == moment


def test_the_option_means_the_same_on_any_machine() -> None:
    """What is local is turned into a time with an offset where it is typed."""
    option = RestoreOptions(at="2026-11-20 14:00").at
    assert option == "2026-11-20T14:00:00+00:00"
    assert RestoreOptions(at=option).at == option
    assert RestoreOptions(at=datetime(2026, 11, 20, 14, tzinfo=UTC)).at == option
    assert RestoreOptions().at is None
