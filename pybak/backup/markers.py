"""Files in a folder that say what of it a run leaves out: ignore files, `.nobackup`, cache tags."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from pybak.backup.gitignore import Patterns
from pybak.errors import PlanError
from pybak.problems import UNREADABLE, Problem

IGNORE_FILE: Final = ".pybakignore"
"""A file that holds gitignore patterns for what lies below its folder."""
NO_BACKUP: Final = ".nobackup"
"""A folder that holds this keeps itself and this."""
CACHE_TAG: Final = "CACHEDIR.TAG"
CACHE_SIGNATURE: Final = b"Signature: 8a477f597d28d172789f06886806bc55"
"""What a `CACHE_TAG` starts with (https://bford.info/cachedir/)."""
MARKERS: Final = frozenset({IGNORE_FILE, NO_BACKUP, CACHE_TAG})

IgnoreChain = tuple[tuple[int, Patterns], ...]
"""The ignore files in force, nearest first: where paths below their folder begin, patterns."""


def marked(fd: int, names: set[str]) -> tuple[set[str], str] | None:
    """Give those of its `names` that the folder `fd` keeps, and the marker that says so.

    None if it keeps all.
    """
    kept = {NO_BACKUP} & names
    reason = NO_BACKUP
    if CACHE_TAG in names and _is_cache_tag(fd):
        kept.add(CACHE_TAG)
        reason = CACHE_TAG
    return (kept, reason) if kept else None


def _is_cache_tag(fd: int) -> bool:
    """Whether the tag in the folder `fd` is a regular file that starts with the signature."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        tag = os.open(CACHE_TAG, flags, dir_fd=fd)
    except OSError:
        return False
    with open(tag, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(tag).st_mode):
            return False
        try:
            return file.read(len(CACHE_SIGNATURE)) == CACHE_SIGNATURE
        except OSError:
            return False


def with_ignore_file(fd: int, disk: bytes, path: bytes, chain: IgnoreChain) -> IgnoreChain:
    """Put the ignore file of the folder `fd` in front; it lies at `disk`, and `path` in its root.

    Raises OSError if it can't be read, and PlanError, which quotes it, for what is no pattern.
    """
    patterns = Patterns.of_file(_read_ignore_file(fd), _ignore_file(disk))
    start = len(path) + 1 if path else 0
    return ((start, patterns), *chain) if patterns else chain


def ignored_by(path: bytes, chain: IgnoreChain, end: str = "") -> str | None:
    """Give the pattern that leaves `path` out, None if none does; `end` is a folder's slash.

    The nearest file that has a pattern for it decides, as in git.
    """
    for start, patterns in chain:
        hit = patterns.last_match(os.fsdecode(path[start:]) + end)
        if hit >= 0:
            return patterns.texts[hit] if patterns.takes[hit] else None
    return None


def _read_ignore_file(fd: int) -> bytes:
    """Read the ignore file of the folder `fd`, which may be a link to a regular file."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(IGNORE_FILE, flags, dir_fd=fd), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read()


def ignore_file_problem(disk: bytes, error: OSError | PlanError) -> Problem:
    """Say why the ignore file of the folder `disk` is not used."""
    if isinstance(error, PlanError):
        why = str(error)
    elif error.errno == errno.ELOOP:
        why = "its links lead in a circle"
    else:
        why = error.strerror or str(error)
    return Problem(_ignore_file(disk), UNREADABLE, f"none of its patterns is used: {why}")


def _ignore_file(disk: bytes) -> str:
    return os.fsdecode(disk.rstrip(b"/") + b"/") + IGNORE_FILE
