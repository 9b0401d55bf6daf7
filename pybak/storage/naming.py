"""What archives are called, wherever they lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from pybak.errors import PlanError

NAME_BYTES: Final = 255
"""What file systems take."""
_ROOM: Final = 5
"""For a number, should a default name be taken."""
_UNSAFE_IN_NAME = re.compile(r"[^\w.-]+")


def default_name(job: str | None, now: datetime, suffix: str) -> str:
    """Give `backup_20261121_101500.zip`, or the job's name in front; `now` in local time."""
    return f"{_stem(job)}_{now:%Y%m%d_%H%M%S}.{suffix}"


def _stem(job: str | None) -> str:
    return (_UNSAFE_IN_NAME.sub("-", job).strip("-.") if job else "") or "backup"


def own_names(job: str | None) -> re.Pattern[str]:
    """Give what all default names of this job match: archives, volumes, checksum files."""
    stem = re.escape(_stem(job))
    return re.compile(
        rf"{stem}_\d{{8}}_\d{{6}}(_\d+)?\.(zip|tar|tar\.gz|tar\.bz2|tar\.zst)"
        r"(\.\d+)?(\.zip)?(\.sha256|\.md5)?"
    )


def hidden_start(run_id: str) -> str:
    """Give what the names begin with of files that a run has in a storage for a moment only."""
    return f".pybak-{run_id}-"


def hidden(start: str, stretch: int, kind: str, number: int, token: str) -> str:
    """Give the name of such a file: of a stretch, by one try at it that `token` tells apart."""
    return f"{start}{stretch:07d}.{kind}{number}-{token}"


HIDDEN_NAMES: Final = re.compile(r"\.pybak-[0-9a-f-]{36}-\d{7}\.(held|tail)\d+(-\w+)?")


def numbered(name: str, suffix: str, number: int) -> str:
    """Give the name with `_2` and so on before its suffix; `name` has `number` - 1 by now."""
    stem = name.removesuffix(f".{suffix}")
    if number > 2:
        stem = stem.removesuffix(f"_{number - 1}")
    return f"{stem}_{number}.{suffix}"


def check_length(name: str, output: str | None, endings: Iterable[str]) -> None:
    """Raise PlanError if a name with any of its endings is too long; `output` was asked for."""
    longest = longest_of(endings)
    if output is not None:
        if len(os.fsencode(name)) + longest > NAME_BYTES:
            raise PlanError(f"{output}: leaves no room for the endings of its files; shorten it")
        return
    too_long = len(os.fsencode(name)) + max(_ROOM, longest) - NAME_BYTES
    if too_long > 0:
        raise PlanError(
            f"--job: makes the archive's name {too_long} bytes too long; shorten it, or name "
            "the archive with --output"
        )


def longest_of(endings: Iterable[str]) -> int:
    """Give the length of the longest."""
    return max((len(ending) for ending in endings), default=0)


def volumes_of(name: str) -> re.Pattern[str]:
    """Give what the names of an archive's volumes match."""
    return re.compile(re.escape(name) + r"\.\d{3,}(\.zip)?")


def sum_lines(kind: str, files: Sequence[tuple[str, dict[str, str]]]) -> bytes:
    """Give the lines that `sha256sum` would print for files with these digests (GNU coreutils)."""
    lines = []
    for name, found in files:
        raw = os.fsencode(name)
        escaped = raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        mark = b"\\" if escaped != raw else b""
        lines.append(mark + found[kind].encode() + b"  " + escaped + b"\n")
    return b"".join(lines)
