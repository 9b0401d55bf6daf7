"""A member of an archive as one line for people and as one object for programs.

Sizes are in bytes, a ratio is size by stored size, dates are local for people and UTC in JSON.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pybak import entries
from pybak.display import printable
from pybak.moment import utc_text
from pybak.units import format_count, format_size

if TYPE_CHECKING:
    from pybak.catalog.facts import Version
    from pybak.formats.listing import Listed

HEADING: Final = "Mode           Size  Modified           Ratio  Name"
IN_HEADING: Final = "Mode           Size  Modified             In  Name"
UNKNOWN: Final = "-"
_LETTERS: Final = {entries.FILE: "-", entries.UNKNOWN: "?"}
_NS: Final = 10**9
_MOST_RATIO: Final = 9999


def line(member: Listed, ratio: float | None, link: bytes | None) -> str:
    """Give the line of a member, as wide as its name; nothing in it moves a cursor.

    `ratio` is None where the archive does not tell it.
    """
    size = size_of(member.kind, member.size)
    if member.device is not None:
        size = f"{member.device[0]}, {member.device[1]}"
    name = name_of(member.name, member.kind)
    if link is not None:
        name += f" -> {printable(link)}"
    return (
        f"{mode_of(member.kind, member.mode)} {size:>8}  {local(member.mtime_ns)}  "
        f"{_shown(ratio):>6}  {name}"
    )


def version_line(version: Version, place: str) -> str:
    """Give the line of a member that the catalog knows; `place` stands where else a ratio does."""
    return (
        f"{mode_of(version.kind, version.mode)} {size_of(version.kind, version.size):>8}  "
        f"{local(version.mtime_ns)}  {place:>6}  {name_of(version.path, version.kind)}"
    )


def size_of(kind: str, size: int) -> str:
    """Give a size for people; only files have one."""
    return format_size(size) if kind == entries.FILE else UNKNOWN


def name_of(name: bytes, kind: str) -> str:
    """Give a name that is safe to show; a folder's ends with a slash."""
    return printable(name) + ("/" if kind == entries.FOLDER else "")


def total_line(total: Mapping[str, Any], *, chosen: bool) -> str:
    """Give the line below a list: of the whole archive, or of what was `chosen` from it."""
    text = f"{format_count(total['members'], 'member')}, {format_size(total['size'])}"
    if total["stored_size"] is None:
        return text
    where = "stored" if chosen else "archive"
    ratio = f", ratio {_shown(total['ratio'])}" if total["ratio"] else ""
    return f"{text}, {where} {format_size(total['stored_size'])}{ratio}"


def as_json(member: Listed, stored_size: int | None, link: bytes | None) -> str:
    r"""Give the object of a member. Bytes of names that are no UTF-8 are `\udc80` to `\udcff`."""
    return json.dumps(
        {
            "path": os.fsdecode(member.name),
            "type": type_name(member.kind),
            "size": member.size,
            "stored_size": stored_size,
            "mtime": utc(member.mtime_ns),
            "mode": None if member.mode < 0 else f"{member.mode:04o}",
            "sha256": member.sha256 or None,
            "link": None if link is None else os.fsdecode(link),
        }
    )


def version_json(version: Version) -> dict[str, Any]:
    """Give the object of a member that the catalog knows, with the keys of `as_json`."""
    return {
        "path": os.fsdecode(version.path),
        "type": type_name(version.kind),
        "size": version.size,
        "stored_size": None,
        "mtime": utc(version.mtime_ns),
        "mode": f"{version.mode:04o}",
        "sha256": version.sha256,
        "link": None,
    }


def type_name(kind: str) -> str:
    """Give the name by which JSON calls a kind of file."""
    return entries.JSON_NAMES[kind]


@lru_cache(maxsize=512)
def mode_of(kind: str, mode: int) -> str:
    """Give kind and permissions as `ls -l` does."""
    letter = _LETTERS.get(kind, kind)
    return letter + (stat.filemode(mode)[1:] if mode >= 0 else "?" * 9)


def local(mtime_ns: int) -> str:
    """Give a time in the local zone, to the minute."""
    try:
        at = time.localtime(mtime_ns // _NS)
    except (OverflowError, OSError, ValueError):
        return f"{UNKNOWN:<16}"
    day = f"{at.tm_year:04d}-{at.tm_mon:02d}-{at.tm_mday:02d}"
    return f"{day} {at.tm_hour:02d}:{at.tm_min:02d}"


def utc(mtime_ns: int) -> str | None:
    """Give a time in ISO 8601, with as many decimals as it has."""
    return utc_text(mtime_ns)


def _shown(ratio: float | None) -> str:
    if ratio is None:
        return UNKNOWN
    if ratio >= _MOST_RATIO:  # a sparse file, or zeros
        return f">{_MOST_RATIO}"
    return f"{ratio:.2f}" if ratio < 99.995 else f"{ratio:.0f}"
