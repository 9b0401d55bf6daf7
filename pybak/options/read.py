"""What a restore and a check can be told."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from pybak.options import shared
from pybak.options.fields import FilterOptions, cli
from pybak.options.notices import NoticeOptions

_LEAST_PERCENT: Final = 0.01


def _percent_text(value: object) -> object:
    """Check a percentage and give it with its sign."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    text = str(value).strip().removesuffix("%").rstrip()
    try:
        percent = float(text)
    except ValueError as error:
        raise ValueError(f"{value!r} is no percentage; write it like 5%") from error
    if not _LEAST_PERCENT <= percent <= 100 or not math.isfinite(percent):
        raise ValueError(f"{value!r} is no percentage from {_LEAST_PERCENT} to 100")
    return f"{text}%"


def _moment_text(value: object) -> object:
    """Check a time and give it in ISO 8601 with its offset, so that it means the same anywhere."""
    if isinstance(value, datetime):  # YAML knows times
        value = value.isoformat()
    elif isinstance(value, date):
        value = str(value)
    if not isinstance(value, str):
        return value
    from pybak.moment import parse_moment

    return parse_moment(value).isoformat()


Percent = Annotated[str, BeforeValidator(_percent_text)]
"""A share as text with its sign: `5%`, `0.5%`; `5` is understood."""

Moment = Annotated[str, BeforeValidator(_moment_text)]
"""A time as ISO 8601 with an offset; without one it is local, and a date is the end of its day."""


def percent_number(text: str) -> float:
    """Give the number of a `Percent`."""
    return float(text.removesuffix("%"))


class ReadOptions(NoticeOptions):
    """What commands that read archives share."""

    workers: int | None = shared.workers(
        "How many members are read side by side. Empty: the program picks."
    )
    cluster: str = Field(
        default="auto",
        pattern=r"^(auto|threads|processes)$",
        title="Cluster",
        description="auto, threads or processes.",
        json_schema_extra=cli("--cluster", metavar="auto|threads|processes"),
    )
    password_block: str | None = shared.password_block(
        "The Prefect block that holds the password of encrypted archives."
    )
    max_ratio: float | None = Field(
        default=None,
        ge=1,
        allow_inf_nan=False,
        title="Highest ratio",
        description="Refuse what unpacks to more than this many times its size (250).",
        json_schema_extra=cli("--max-ratio", metavar="TIMES"),
    )
    max_members: int | None = Field(
        default=None,
        ge=1,
        title="Most members",
        description="Refuse archives that hold more members than this (20 million).",
        json_schema_extra=cli("--max-members", metavar="N"),
    )


class RestoreOptions(ReadOptions, FilterOptions):
    """How an archive or a snapshot is unpacked."""

    cluster: str = Field(
        default="auto",
        pattern=r"^(auto|threads|helpers|processes)$",
        title="Cluster",
        description="auto, threads, helpers (plain processes) or processes (of Dask).",
        json_schema_extra=cli("--cluster", metavar="auto|threads|helpers|processes"),
    )
    at: Moment | None = Field(
        default=None,
        title="At",
        description=(
            "Restore the job as its newest backup at this time has it, such as "
            "2026-11-20 14:00, in local time; a date means the end of that day."
        ),
        json_schema_extra=cli("--at", metavar="WHEN"),
    )
    overwrite: Literal["never", "if-newer", "if-changed", "always"] = Field(
        default="if-changed",
        title="Overwrite",
        description=(
            "What to do with files that are there already: never touch them, replace them if "
            "the archive's is newer, or if size or time differ, or always."
        ),
        json_schema_extra=cli("--overwrite"),
    )
    delete: bool = Field(
        default=False,
        title="Delete",
        description=(
            "Remove what the archive does not hold from the folders that are restored; with "
            "include and exclude, only what they choose."
        ),
        json_schema_extra=cli("--delete"),
    )
    owner: Literal["auto", "number", "name", "none"] = Field(
        default="auto",
        title="Owner",
        description=(
            "Whose the files become: by user and group number, by name where it exists here, "
            "nobody else's, or by number if root restores (auto)."
        ),
        json_schema_extra=cli("--owner"),
    )
    dry_run: bool = shared.dry_run("Show what would be done and write nothing.")


class VerifyOptions(ReadOptions):
    """How an archive is checked."""

    sample: Percent | None = Field(
        default=None,
        title="Sample",
        description=(
            "Read only this share of the content, such as 5%, the next one each time, so that "
            "enough checks reach every member. Empty: all of it."
        ),
        json_schema_extra=cli("--sample", metavar="PERCENT"),
    )
