"""Hard links: which file each stands for, and making them without ever trusting a name.

A link is made only to a file that this restore wrote, or that it found to hold the very same
content; which ones those are, workers note by device and inode. What can't be linked is unpacked
once more.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from pybak.display import printable
from pybak.entries import FILE, FOLDER, HARD_LINK
from pybak.folders import Folders
from pybak.formats.listing import Listed
from pybak.problems import DAMAGED
from pybak.restore.items import Item
from pybak.restore.names import UnsafeName, path_of, safe_name

SUFFIX: Final = ".linked"
"""What the files end in, beside the batches, that name the files that links may stand for."""


class Unusable(Exception):  # noqa: N818 - says what the link is
    """A hard link that stands for nothing that can be restored; `code` is one of problems."""

    def __init__(self, message: str, code: str = DAMAGED) -> None:
        super().__init__(message)
        self.code = code


class FirstNames:
    """The members that hard links stand for, found by path.

    As tar does, a link stands for the last member of that path before itself; only where there is
    none, for a later one.
    """

    def __init__(self, members: Sequence[Listed]) -> None:
        self._members = members
        self._paths: list[bytes | None] = []
        self._last: dict[bytes, int] = {}
        self._earlier: dict[bytes, list[int]] = {}
        self._found: dict[int, int | Unusable] = {}
        links = [listed.link for listed in members if listed.kind == HARD_LINK]
        if not links:
            return
        wanted = {path_of(link or b"") for link in links}
        self._paths = [path_of(listed.name) for listed in members]
        for number, path in enumerate(self._paths):
            if path is None or path not in wanted:
                continue
            before = self._last.get(path)
            if before is not None:
                self._earlier.setdefault(path, []).append(before)
            self._last[path] = number

    def path(self, number: int) -> bytes | None:
        """Give the path of the `number`th member, as `path_of`."""
        return self._paths[number] if self._paths else path_of(self._members[number].name)

    def find(self, number: int) -> tuple[bytes, Listed, bool]:
        """Give the path and the member that the hard link, the `number`th member, stands for.

        Other links are passed through. The last value tells whether that member is what comes to
        stand at that path: a later one of the same name may take its place. Raises Unusable.
        """
        found = self._resolve(number)
        if isinstance(found, Unusable):
            raise Unusable(str(found), found.code)
        one = self._members[found]
        path = safe_name(one.name)
        if one.fault is not None:
            code, message = one.fault
            raise Unusable(f"is a hard link to {printable(path)}, which {message}", code)
        if one.remark:
            raise Unusable(f"is a hard link to {printable(path)}: {one.remark}")
        if one.kind == FOLDER:
            raise Unusable(f"is a hard link to the folder {printable(path)}")
        return path, one, self._last[path] == found

    def _resolve(self, number: int) -> int | Unusable:
        """Follow links to what is none; every link on the way learns what was found."""
        trail: list[int] = []
        passed: set[int] = set()
        found: int | Unusable = number
        while isinstance(found, int) and self._members[found].kind == HARD_LINK:
            if found in passed:
                found = Unusable("is a hard link to itself")
                break
            trail.append(found)
            passed.add(found)
            known = self._found.get(found)
            found = self._next(found) if known is None else known
        self._found.update(dict.fromkeys(trail, found))
        return found

    def _next(self, number: int) -> int | Unusable:
        """Give the member that a link names, which may be a link as well."""
        name = self._members[number].link or b""
        try:
            path = safe_name(name)
        except UnsafeName as error:
            return Unusable(f"refused: is a hard link to a name that {error}")
        last = self._last.get(path)
        if last is None:
            return Unusable(f"is a hard link to {printable(name)}, which the archive does not hold")
        if last < number:
            return last
        earlier = self._earlier.get(path, [])
        place = bisect_left(earlier, number)
        return earlier[place - 1] if place else last

    def settle(self, items: list[Item]) -> list[Item]:
        """Mark the files that links stand for; where such a file is not chosen, a link replaces it.

        That is the first one in the archive's order: it is unpacked, the others link to it.
        """
        links = [item for item in items if item.kind == HARD_LINK]
        if not links:
            return items
        chosen = {item.path for item in items if item.kind == FILE}
        promoted: dict[bytes, bytes] = {}
        sources: set[bytes] = set()
        made: dict[bytes, Item] = {}
        for link in links:
            assert link.link is not None
            if link.link in chosen:
                sources.add(link.link)
            elif link.link in promoted:
                sources.add(promoted[link.link])
                made[link.path] = msgspec.structs.replace(link, link=promoted[link.link])
            else:
                promoted[link.link] = link.path
                made[link.path] = msgspec.structs.replace(link, kind=FILE, link=None)
        settled = [made.get(item.path, item) for item in items]
        return [
            msgspec.structs.replace(item, is_linked=True) if item.path in sources else item
            for item in settled
        ]


_Row = tuple[bytes, int, int]


def note_sources(path: Path, rows: Iterable[_Row]) -> None:
    """Write down path, device and inode of files that links may stand for."""
    rows = list(rows)
    if rows:
        path.write_bytes(msgspec.msgpack.encode(rows))


class Linker:
    """Makes hard links to files that workers noted in `work_dir`."""

    def __init__(self, work_dir: Path) -> None:
        self._known: dict[bytes, set[tuple[int, int]]] = {}
        self._instead: dict[bytes, bytes] = {}
        for path in work_dir.glob(f"*{SUFFIX}"):
            for name, device, inode in msgspec.msgpack.decode(path.read_bytes(), type=list[_Row]):
                self._known.setdefault(name, set()).add((device, inode))

    def add(self, first_name: bytes, path: bytes, status: os.stat_result) -> None:
        """From now on link to `path` where `first_name` was meant."""
        self._instead[first_name] = path
        self._known.setdefault(path, set()).add((status.st_dev, status.st_ino))

    def link(self, first_name: bytes, folders: Folders, folder_fd: int, name: bytes) -> bool:
        """Make `name` in a folder a link to what was noted; whether that worked.

        `folder_fd` must stay open while other folders are looked up.
        """
        path = self._instead.get(first_name, first_name)
        known = self._known.get(path)
        if not known:
            return False
        above, _, base = path.rpartition(b"/")
        try:
            source_fd = folders.fd(above)
            os.link(
                base, name,
                src_dir_fd=source_fd, dst_dir_fd=folder_fd, follow_symlinks=False,
            )  # fmt: skip
            # Looked at only now: what was linked, not what stood there before.
            status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) in known:
                return True
            os.unlink(name, dir_fd=folder_fd)
        except OSError:
            return False  # as on disks that know no hard links
        return False
