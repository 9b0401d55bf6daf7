"""What came of a part of a restore."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

import msgspec

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Outcome(msgspec.Struct, frozen=True):
    """Counts of files and links, and bytes written. `stopped` means that someone asked to stop.

    `deleted` counts files and folders that were removed because the archive does not hold them.

    `problems_file` holds what `pybak.problems.read_problems` reads; None if nothing was written.
    """

    restored: int = 0
    skipped: int = 0
    failed: int = 0
    size: int = 0
    stopped: bool = False
    problems_file: Path | None = None
    deleted: int = 0


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left for more."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL
