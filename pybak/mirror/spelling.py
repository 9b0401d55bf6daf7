"""Match names of source and target where the target ignores case.

What the target has under another spelling is the same entry and keeps its spelling there: renaming
it would take two steps, for from one spelling to the other the kernel does nothing, and some file
systems keep no spelling but their own. Of two names that are one in the target, one is copied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from pybak.backup.rules import NOT_INCLUDED, Chooser
from pybak.display import printable
from pybak.mirror.findings import Findings
from pybak.problems import STORAGE
from pybak.restore.names import folded


class Spelling:
    """Settles the names of one folder after the other."""

    def __init__(self, chooser: Chooser | None, found: Findings) -> None:
        """What `chooser` leaves out clashes with nothing; clashes are told to `found`."""
        self._chooser = chooser
        self._found = found

    def settle(
        self,
        prefix: bytes,
        listing: list[os.DirEntry[str]],
        there: dict[str, os.stat_result],
        fd: int,
    ) -> list[os.DirEntry[str]]:
        """Give what can be copied of a folder; what is `there` gets the source's spelling.

        `prefix` is what paths in it begin with, `fd` its descriptor in the target, -1 if there is
        none, and then nothing is `there`.
        """
        items = {item.name: item for item in listing}
        clashing = match_names(
            items,
            there,
            is_seen=lambda name: _is_seen(name, fd),
            is_left_out=lambda name: self._is_left_out(prefix, items[name]),
        )
        if not clashing:
            return listing
        for name, other in clashing.items():
            self._tell(prefix, items[name], prefix + os.fsencode(other))
        return [item for item in listing if item.name not in clashing]

    def _tell(self, prefix: bytes, item: os.DirEntry[str], other: bytes) -> None:
        tally = self._found.tally
        if _is_folder(item):
            tally.unlisted += 1
        else:
            tally.found += 1
            tally.failed += 1
        self._found.note(
            prefix + os.fsencode(item.name), STORAGE,
            f"differs only by case from {printable(other)}, which the destination can't tell apart",
        )  # fmt: skip

    def _is_left_out(self, prefix: bytes, item: os.DirEntry[str]) -> bool:
        if self._chooser is None:
            return False
        is_folder = _is_folder(item)
        path = os.fsdecode(prefix) + item.name + ("/" if is_folder else "")
        why = self._chooser.reason(path)
        return why is not None and not (is_folder and why == NOT_INCLUDED)


def match_names(
    names: Iterable[str],
    there: dict[str, os.stat_result],
    *,
    is_seen: Callable[[str], bool],
    is_left_out: Callable[[str], bool],
) -> dict[str, str]:
    """Give what must not be copied, with the name that it would be one with.

    Of such names the one that the target has already stays, else the first. What is `there` under
    another spelling is put under that name. The target is asked wherever it can be, by `is_seen`:
    file systems differ in what they take for the same.
    """
    clashing: dict[str, str] = {}
    if all(name in there for name in names):
        return clashing  # it tells all of them apart
    theirs = _grouped(there)
    for key, group in _grouped(names).items():
        known = theirs.get(key, [])
        if len(group) > 1:
            group.sort(key=lambda name: (is_left_out(name), name not in there, os.fsencode(name)))
        first, *others = group
        if first not in there and known and is_seen(first):
            there[first] = there.pop(known[0])
        for name in others:
            is_apart = name in there or (first in there and not is_seen(name))
            if not is_apart and not is_left_out(name):
                clashing[name] = first
    return clashing


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(folded(os.fsencode(name)), []).append(name)
    return groups


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir(follow_symlinks=False)
    except OSError:  # it is met again
        return False


def _is_seen(name: str, fd: int) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return False
    return True
