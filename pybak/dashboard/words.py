"""Times, sizes and states as the pages say them. Nothing here reads anything."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Final

from pybak.overview import states
from pybak.overview.facts import TrendPoint
from pybak.units import format_duration, format_size

_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
NONE: Final = "\N{EN DASH}"

_NOW_SECONDS: Final = 45.0

STATES: Final = {
    "good": "Safe", "running": "Running", "late": "Late", "problem": "Problem", "never": "Never",
}  # fmt: skip
"""A job's state in a word."""

_STATUSES: Final = {
    "success": ("Complete", "good"), "unchanged": ("Nothing new", "good"),
    "completed": ("Complete", "good"), "partial": ("Partial", "late"),
    "failed": ("Failed", "problem"), "crashed": ("Crashed", "problem"),
    "died": ("Died", "problem"), "locked": ("Locked", "late"),
    "cancelled": ("Cancelled", "never"), "cancelling": ("Stopping", "running"),
    "running": ("Running", "running"), "finishing": ("Finishing", "running"),
    "pending": ("Starting", "running"), "scheduled": ("Waiting", "running"),
    "paused": ("Paused", "late"),
}  # fmt: skip


def status(name: str) -> tuple[str, str]:
    """Give the word for a run's status, and the state whose colour it has."""
    return _STATUSES.get(name, (name.capitalize(), "never"))


def moment(at: datetime, zone: tzinfo) -> str:
    """Give a time (aware) in a zone: `22 Nov 2026, 01:10`."""
    local = at.astimezone(zone)
    return f"{local.day} {_MONTHS[local.month - 1]} {local.year}, {local:%H:%M}"


def clock(at: datetime, zone: tzinfo) -> str:
    """Give the time of day to the second, for logs."""
    return f"{at.astimezone(zone):%H:%M:%S}"


def ago(at: datetime, now: datetime) -> str:
    """Give how long ago something was, as a job's state says it, or in how long it is due."""
    seconds = (now - at).total_seconds()
    if seconds >= 0:
        return states.ago(seconds)
    return "now" if seconds > -_NOW_SECONDS else f"in {_span(-seconds)}"


def _span(seconds: float) -> str:
    """Give a length of time roughly, in one unit: `3 hours`."""
    for unit, length in (("day", 86400), ("hour", 3600)):
        if seconds >= length * 1.5:
            return count(round(seconds / length), unit)
    minutes = max(round(seconds / 60), 1)
    return "1 hour" if minutes == 60 else count(minutes, "minute")


def size(size_bytes: float | None) -> str:
    """Give a size; a dash for none."""
    return NONE if size_bytes is None else format_size(size_bytes)


def duration(seconds: float | None) -> str:
    """Give a duration; a dash for none."""
    return NONE if seconds is None else format_duration(seconds)


def ratio(read: int | None, stored: int | None) -> str:
    """Give what of the files' size the archive takes: `38 %`."""
    if not read or stored is None:
        return NONE
    share = 100 * stored / read
    return f"{share:.0f} %" if share >= 1 else "< 1 %"


def newest_ratio(trend: tuple[TrendPoint, ...]) -> str:
    """Give the ratio of the last run that stored anything."""
    for point in reversed(trend):
        if point.bytes_read and point.bytes_stored:
            return ratio(point.bytes_read, point.bytes_stored)
    return NONE


def count(number: int, noun: str) -> str:
    """Give a number of things: `1 file`, `2,400 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def safety(jobs: list[str]) -> tuple[str, str]:
    """Give how all jobs are in a sentence, and the worst state of them."""
    bad = [one for one in jobs if one in ("problem", "late", "never")]
    if not jobs:
        return "There are no backups yet.", "never"
    if not bad:
        few = {1: "The only job is safe.", 2: "Both jobs are safe."}
        return few.get(len(jobs), f"All {len(jobs)} jobs are safe."), "good"
    verb = "needs" if len(bad) == 1 else "need"
    worst = next(one for one in ("problem", "late", "never") if one in bad)
    return f"{len(bad)} of {count(len(jobs), 'job')} {verb} a look.", worst
