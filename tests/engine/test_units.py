"""Sizes, counts and durations as people write and read them."""

from __future__ import annotations

import pytest

from pybak.units import format_count, format_duration, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        (1, 1),
        ("100MB", 100_000_000),
        ("100 mb", 100_000_000),
        ("4.7GB", 4_700_000_000),
        ("64MiB", 64 << 20),
        ("1KiB", 1024),
        ("1k", 1000),
        (" 2 TB ", 2 * 10**12),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "12q", "-1", "0", 0, "0.1", "1e3", "1,5GB", "1 MB 2", True, "NaN"]
)
def test_what_is_no_size_is_refused_with_what_it_was(text: str | int) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.4, "999 B"),
        (999.6, "1.00 kB"),
        (1000, "1.00 kB"),
        (1_250_000, "1.25 MB"),
        (9_994_000, "9.99 MB"),
        (9_996_000, "10.0 MB"),
        (99_960_000, "100 MB"),
        (999_600_000, "1.00 GB"),
        (5_890_000_000, "5.89 GB"),
        (10**21, "1000 EB"),
    ],
)
def test_a_size_is_shown_with_three_figures(size: float, text: str) -> None:
    assert format_size(size) == text


def test_a_shown_size_is_within_half_a_percent_of_the_real_one() -> None:
    for size in [1, 7, 999, 1001, 123_456, 1_005_000, 99_949_999, 8_765_432_109]:
        assert parse_size(format_size(size)) == pytest.approx(size, rel=0.005)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 files"), (1, "1 file"), (999, "999 files"), (21304, "21\xa0304 files")],
)
def test_a_count_goes_with_its_noun(count: int, text: str) -> None:
    assert format_count(count, "file") == text
    assert format_count(2, "batch", "batches") == "2 batches"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.84, "0.8 s"),
        (42.4, "42 s"),
        (59.6, "1 min 00 s"),
        (187, "3 min 07 s"),
        (7500, "2 h 05 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_a_duration_is_as_exact_as_it_needs_to_be(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
