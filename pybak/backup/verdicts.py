"""What an entry is to a snapshot: new, changed, touched, unchanged; told by its state alone.

docs/decisions/0019 has the rule. Where the state can't tell, the verdict is that the content must
be looked at, or another name of the same file.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pybak.backup.base import KIND_CODES, Known, clamped
from pybak.entries import FILE, FOLDER, HARD_LINK, Entry

UNCHANGED: Final = 0
NEW: Final = 1
CHANGED: Final = 2
TOUCHED: Final = 3
"""A folder of which only the time moved."""
FAILING_NEW: Final = 4
FAILING_CHANGED: Final = 5
"""It could not be read by the run that made the base, and can't be now."""
CHECK: Final = 6
FOLLOW: Final = 7
"""Another name of a file that decides for it."""
STORED_NEW: Final = 8
STORED_CHANGED: Final = 9
"""Its content is in an archive of the base."""

MASK64: Final = (1 << 64) - 1


class How(NamedTuple):
    """What counts as a change, and whether known contents are stored again."""

    ignore_ctime: bool = False
    ignore_inode: bool = False
    by_content: bool = False
    allow_empty: bool = False
    dedupe: bool = False


def judge(entry: Entry, known: Known, how: How) -> int:
    """Compare an entry with what a snapshot knows of that name."""
    if entry.kind == FOLDER:
        return judge_folder(entry, known, ignore_ctime=how.ignore_ctime)
    is_other_name = known.kind == KIND_CODES[HARD_LINK] and entry.links > 1
    if (
        known.is_changed
        or not (is_other_name or known.kind == KIND_CODES[entry.kind])
        or (entry.kind == FILE and not is_other_name and known.size != entry.size)
        or known.mtime_ns != clamped(entry.mtime_ns)
        or not (how.ignore_ctime or known.ctime_ns == clamped(entry.ctime_ns))
        or not (how.ignore_inode or known.inode == entry.inode & MASK64)
    ):
        return CHANGED
    if known.is_racy and entry.kind != FILE:
        return CHANGED
    if (known.is_racy or how.ignore_ctime) and (known.mode, known.uid, known.gid) != (
        entry.mode, entry.uid, entry.gid,
    ):  # fmt: skip
        return CHANGED
    if is_other_name and known.inode != entry.inode & MASK64:
        return FOLLOW  # neither its size nor its kind can be compared
    if known.is_racy or (how.by_content and entry.kind == FILE):
        return FOLLOW if is_other_name else CHECK
    return UNCHANGED


def judge_folder(entry: Entry, known: Known, *, ignore_ctime: bool) -> int:
    """Compare a folder with what a snapshot knows of that name."""
    if known.kind != KIND_CODES[FOLDER] or (known.mode, known.uid, known.gid) != (
        entry.mode, entry.uid, entry.gid,
    ):  # fmt: skip
        return CHANGED
    if known.mtime_ns != clamped(entry.mtime_ns):
        return TOUCHED
    if not ignore_ctime and known.ctime_ns != clamped(entry.ctime_ns):
        return CHANGED
    return UNCHANGED
