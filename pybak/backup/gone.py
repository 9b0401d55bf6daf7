"""What a snapshot loses: members of its base that are not there any more.

Gone is what was in the base, is not kept now, and lies under nothing that could not be listed: a
missing source, a folder that can't be read, a disk that is not mounted, a file that failed keep
what was known of all below them. What the rules leave out now is gone.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from pybak.backup.base import Base
from pybak.entries import FOLDER, Entry, Root, read_entries
from pybak.problems import SOURCE_MISSING, UNSUPPORTED, VANISHED, Problem

WITHOUT_DISK: Final = (
    "it is empty, and no longer a device of its own, as if a disk were not mounted; what was in it "
    "is kept (--allow-empty: it was deleted)"
)
"""What is said of a mount point without its disk. History tells such by these words."""

_NOT_THERE = frozenset({VANISHED, UNSUPPORTED})
_MASK64 = (1 << 64) - 1


class Guarded:
    """Member names at and below which nothing is gone."""

    def __init__(self, names: Iterable[bytes] = ()) -> None:
        self._names = set(names)

    def add(self, name: bytes) -> None:
        """Guard one more name; the empty one guards all."""
        self._names.add(name)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._names)

    def __contains__(self, name: bytes) -> bool:
        """Whether `name` is one of these."""
        return name in self._names

    def covers(self, name: bytes) -> bool:
        """Whether `name` is one of these or below one."""
        names = self._names
        if not names:
            return False
        while name not in names:
            if not name:
                return False
            name = name.rpartition(b"/")[0]
        return True

    def keep_out(self, names: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the names that are not guarded."""
        if not self._names:
            yield from names
            return
        for name in names:
            if not self.covers(name):
                yield name


def guard_unlisted(
    roots: Sequence[Root], missing: Sequence[Root], problems: Iterable[Problem]
) -> Guarded:
    """Guard what a walk could not see: missing sources, and where its problems were.

    What vanished during the walk was seen to be gone. A source may have had another name when
    there were other sources beside it.
    """
    guarded = Guarded(name for root in missing for name in _names_ever(root))
    for problem in problems:
        if problem.code not in _NOT_THERE:
            for name in member_names(roots, os.fsencode(problem.path)):
                guarded.add(name)
    return guarded


def _names_ever(root: Root) -> Iterator[bytes]:
    """Yield the names that a source may have, whatever others there are: ends of its path."""
    yield root.member
    for path in (root.member, root.source.lstrip(b"/")):
        while path:
            yield path
            path = path.partition(b"/")[2]


def member_names(roots: Sequence[Root], path: bytes) -> Iterator[bytes]:
    """Yield the member names of a path on disk: one for each source that it lies in."""
    for root in roots:
        top = root.source.rstrip(b"/")
        if path == root.source:
            yield root.member
        elif path.startswith(top + b"/"):
            yield root.member_name(path[len(top) + 1 :])


def guard_failed(roots: Sequence[Root], absent: Iterable[tuple[int, bytes, str]]) -> Guarded:
    """Guard the files that failed when they were to be packed."""
    return Guarded(
        roots[root].member_name(path) for root, path, code in absent if code not in _NOT_THERE
    )


def kept_as(base: Base, guarded: Guarded) -> dict[bytes, tuple[object, ...]]:
    """Give what a snapshot has at and below guarded names, but for the folders of these names."""
    if not guarded:
        return {}
    # The racy flag and the row's number say nothing about the file.
    return {
        name: state[:-2]
        for name, state in base.states()
        if guarded.covers(name) and not (state[0] == FOLDER and name in guarded)
    }


def empty_folders(kept: Path, roots: Sequence[Root]) -> dict[bytes, Entry]:
    """Give the folders below which nothing is kept, by name."""
    found: dict[bytes, Entry] = {}
    last: tuple[bytes, Entry] | None = None
    for entry in read_entries(kept):
        name = roots[entry.root].member_name(entry.path)
        if last is not None and not _is_below(name, last[0]):
            found[last[0]] = last[1]
        last = (name, entry) if entry.kind == FOLDER else None
    if last is not None:
        found[last[0]] = last[1]
    return found


def _is_below(name: bytes, folder: bytes) -> bool:
    return name.startswith(folder + b"/") if folder else name != b""


def holders(folders: Container[bytes], names: Iterable[bytes]) -> set[bytes]:
    """Give those of `folders` that one of these names lies below."""
    seen: set[bytes] = set()
    for name in names:
        above = name
        while above:
            above = above.rpartition(b"/")[0]
            if above in seen:
                break
            seen.add(above)
    return {name for name in seen if name in folders}


def unmounted(
    folders: Mapping[bytes, Entry], base: Base, roots: Sequence[Root]
) -> Iterator[tuple[bytes, Problem]]:
    """Find the folders from which a disk was taken away; give their names, each with a problem.

    `folders` hold nothing now. One is taken for a mount point without its disk where it held
    something in `base`, on another device than the folder above it, and is on the same one now. Of
    a source nothing is above: its own device and inode must both be others. Device numbers alone
    prove nothing, as they may change with every start of a machine.
    """
    if not folders:
        return
    wanted = {*folders, *(name.rpartition(b"/")[0] for name in folders)}
    known: dict[bytes, tuple[int, int]] = {}

    def names() -> Iterator[bytes]:
        for name, state in base.states():
            if name in wanted and state[0] == FOLDER:
                known[name] = ((state[5] or 0) & _MASK64, state[4] & _MASK64)
            yield name

    for name in sorted(holders(folders, names())):
        entry = folders[name]
        if name in known and _lost_its_disk(
            entry, roots[entry.root], known[name], known.get(name.rpartition(b"/")[0])
        ):
            path = os.fsdecode(roots[entry.root].disk_path(entry.path))
            yield name, Problem(path, SOURCE_MISSING, WITHOUT_DISK)


def still_without_disk(
    told: Container[bytes], kept: Path, roots: Sequence[Root]
) -> Iterator[Problem]:
    """Find the folders that were told to be without their disks, and that nothing has changed.

    `told` are their paths on disk. They still are empty, and on the device of the folder above.
    """
    for entry in empty_folders(kept, roots).values():
        path = roots[entry.root].disk_path(entry.path)
        if path in told:
            try:
                is_mounted = os.stat(os.path.dirname(path)).st_dev & _MASK64 != (
                    entry.device & _MASK64
                )
            except OSError:
                is_mounted = False
            if not is_mounted:
                yield Problem(os.fsdecode(path), SOURCE_MISSING, WITHOUT_DISK)


def _lost_its_disk(
    entry: Entry, root: Root, known: tuple[int, int], above: tuple[int, int] | None
) -> bool:
    """Tell by device and inode of a folder, and of the one above it, as they were."""
    device, inode = known
    now = entry.device & _MASK64
    if not device:
        return False
    if not entry.path:
        return device != now and inode != entry.inode & _MASK64
    if above is None or not above[0]:
        return device != now
    if device == above[0]:
        return False
    try:
        upper = os.stat(root.disk_path(entry.path.rpartition(b"/")[0]))
    except OSError:
        return True
    return upper.st_dev & _MASK64 == now
