"""The endings by which people and programs know an archive's format."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".zip": "zip",
        ".tar": "tar",
        ".tar.gz": "tar.gz",
        ".tgz": "tar.gz",
        ".tar.bz2": "tar.bz2",
        ".tbz2": "tar.bz2",
        ".tbz": "tar.bz2",
        ".tar.zst": "tar.zst",
        ".tzst": "tar.zst",
    }
)
"""Every ending of what is written here, in small letters, with its format."""


def format_of_name(name: str) -> str | None:
    """Give the format that a file's name tells, or None."""
    small = name.lower()
    return next((kind for ending, kind in FORMATS.items() if small.endswith(ending)), None)
