"""What the models of options are made of: sizes, choices of files, looks on a command line."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pybak.units import parse_duration, parse_size


def _size_text(value: object) -> object:
    """Check a size and keep it as it was written, so that forms and files show it that way."""
    if isinstance(value, str | int):
        parse_size(value)
        return str(value)
    return value


Size = Annotated[str, BeforeValidator(_size_text)]
"""A number of bytes as text with a unit: `500kB`, `100MB`, `4.7GB`, `64MiB`."""


def _duration_text(value: object) -> object:
    """Check a duration and keep it as it was written."""
    if isinstance(value, str):
        parse_duration(value)
    return value


DurationText = Annotated[str, BeforeValidator(_duration_text)]
"""A length of time as text with units: `90s`, `15m`, `24h`, `7d`, `4w`, `6mo`, `1y6mo`."""


def cli(*names: str, metavar: str | None = None) -> dict[str, Any]:
    """Give the schema extra that says how a field looks on the command line."""
    return {"cli": {"names": list(names), "metavar": metavar}}


class Options(BaseModel):
    """What every model of options is."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=False)


class FilterOptions(Options):
    """Which files to take; shared by every command that chooses among files."""

    include: list[str] = Field(
        default_factory=list,
        title="Include",
        description="Only files that match one of these patterns (gitignore syntax).",
        examples=[["*.py", "/docs/"]],
        json_schema_extra=cli("--include", metavar="PATTERN"),
    )
    exclude: list[str] = Field(
        default_factory=list,
        title="Exclude",
        description="Leave out what matches (gitignore syntax; `!name` takes it back).",
        examples=[["*.tmp", "**/cache/", "!keep.log"]],
        json_schema_extra=cli("--exclude", metavar="PATTERN"),
    )
