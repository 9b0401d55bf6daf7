"""Sizes and times as people write and read them."""

from __future__ import annotations

import re
from typing import Final

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_FACTORS: Final = {
    "": 1, "b": 1,
    "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "t": 10**12, "tb": 10**12, "p": 10**15, "pb": 10**15,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


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
