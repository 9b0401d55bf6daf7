"""The walk: every file, folder and link below the roots, one `lstat` each, into an entry file.

Entries stand in the order of the tree: a folder, then what it holds that is no folder, by name,
then its folders, by name, each with all that is below it. So a reader that keeps the folders
above the current entry has seen every parent. Links are entries, never followed.

What the rules leave out whole is not walked: folders that match an exclude pattern, what a
marker file or a `.pybakignore` leaves out, other file systems. Files are left to
`pybak.backup.filter`, unless a `.pybakignore` decides. A root itself is never left out, and markers
directly in a root do not count: it was named.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pybak.backup.markers import (
    IGNORE_FILE,
    MARKERS,
    IgnoreChain,
    ignore_file_problem,
    ignored_by,
    marked,
    with_ignore_file,
)
from pybak.backup.open_folder import open_folder
from pybak.backup.rules import (
    EARLIER_ARCHIVE,
    OTHER_FILE_SYSTEM,
    UNFINISHED_WORK,
    Rules,
    pattern_reason,
)
from pybak.entries import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    FIFO,
    FILE,
    FOLDER,
    LINK,
    SOCKET,
    UNKNOWN,
    Entry,
    EntryWriter,
    Root,
)
from pybak.errors import PlanError
from pybak.problems import (
    IO_ERROR,
    SOURCE_MISSING,
    TYPE_CHANGED,
    UNREADABLE,
    VANISHED,
    Problem,
    write_problems,
)
from pybak.staging import PREFIX, is_work_folder

KINDS: Final = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFLNK: LINK,
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: SOCKET,
    stat.S_IFCHR: CHAR_DEVICE,
    stat.S_IFBLK: BLOCK_DEVICE,
}
"""The kind of an entry by the type bits of its mode."""

_NAME: Final = attrgetter("name")
_ENCODING: Final = sys.getfilesystemencoding()


class Discovery(msgspec.Struct, frozen=True):
    """What a walk found.

    `counts` are entries by kind (see `pybak.entries`), `total_bytes` the sizes of the regular
    files. `excluded` counts by reason; a folder that was left out counts as one.
    """

    entries: Path
    problems: Path
    counts: dict[str, int]
    total_bytes: int
    excluded: dict[str, int]
    problem_count: int


def discover(
    roots: Sequence[Root],
    rules: Rules,
    out: Path,
    problems_out: Path,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Discovery:
    """Walk the roots and write the entry file `out` and the problems, replacing both.

    What can't be read becomes a problem and the walk goes on; a folder is an entry even where
    its content can't be listed. What was there and is gone when it is looked at is `vanished`.
    `on_progress` is called after every folder with the entries and the bytes of files so far;
    what it raises ends the walk. Memory grows with the largest folder, not with the tree.
    """
    # An earlier try's file may have a second name by now, see `pybak.backup.filter`.
    out.unlink(missing_ok=True)
    walk = _Walk(roots, rules, on_progress)
    with EntryWriter(out) as entries:
        write_problems(problems_out, walk.run(entries.add))
    counts = {kind: count for kind, count in walk.counts.items() if count}
    return Discovery(
        out, problems_out, counts, walk.total_bytes, dict(walk.excluded), walk.problem_count
    )


class _Scope(NamedTuple):
    """What stays the same while one root is walked."""

    root_index: int
    root: Root
    device: int
    hidden: frozenset[bytes]
    """Paths that another root holds under the same member name."""


class _Walk:
    def __init__(
        self,
        roots: Sequence[Root],
        rules: Rules,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._roots = roots
        self._rules = rules
        self._on_progress = on_progress
        self._left_inodes = frozenset(inode for _, inode in rules.left_out | rules.earlier)
        self.counts: Counter[str] = Counter()
        self.total_bytes = 0
        self.excluded: Counter[str] = Counter()
        self.problem_count = 0

    def run(self, add: Callable[[Entry], None]) -> Iterator[Problem]:
        """Walk all roots; entries go to `add`, problems come out."""
        hidden = _held_elsewhere(self._roots)
        for index, root in enumerate(self._roots):
            for problem in self._walk_root(index, root, hidden.get(index, frozenset()), add):
                self.problem_count += 1
                yield problem

    def _walk_root(
        self, index: int, root: Root, hidden: frozenset[bytes], add: Callable[[Entry], None]
    ) -> Iterator[Problem]:
        try:
            first = _entry(index, b"", os.lstat(root.source))
        except FileNotFoundError:
            yield Problem(os.fsdecode(root.source), SOURCE_MISSING, "it is gone")
            return
        except OSError as error:
            yield _problem(root.source, error)
            return
        if first.kind == LINK:
            yield Problem(os.fsdecode(root.source), TYPE_CHANGED, "a link took its place")
            return
        if first.kind != FOLDER:
            self._count(first)
            add(first)
            return
        scope = _Scope(index, root, first.device, hidden)
        stack: list[tuple[Entry, IgnoreChain]] = [(first, ())]
        while stack:
            folder, chain = stack.pop()
            yield from self._walk_folder(scope, folder, chain, stack, add)
            if self._on_progress is not None:
                self._on_progress(self.counts.total(), self.total_bytes)

    def _walk_folder(
        self,
        scope: _Scope,
        folder: Entry,
        chain: IgnoreChain,
        stack: list[tuple[Entry, IgnoreChain]],
        add: Callable[[Entry], None],
    ) -> Iterator[Problem]:
        """Write a folder and what it holds but its folders, which go onto the stack."""
        root, path = scope.root, folder.path
        disk = root.disk_path(path)
        try:
            fd = open_folder(root.source, path, folder.device, folder.inode)
        except OSError as error:
            gone = error.errno == errno.ENOENT
            if gone and not path:
                yield Problem(os.fsdecode(disk), SOURCE_MISSING, "it is gone")
                return
            if gone and _is_there(disk):
                # As an automatic mount says whose disk or server is away.
                self._keep_folder(scope, folder, add)
                yield Problem(os.fsdecode(disk), IO_ERROR, "it is there, but can't be opened")
                return
            if not gone and error.errno not in (errno.ENOTDIR, errno.ELOOP):
                self._keep_folder(scope, folder, add)
            yield _problem(disk, error)
            return
        self._keep_folder(scope, folder, add)
        # Names come as text where a folder is listed by its descriptor.
        listing: list[os.DirEntry[str]] = []
        try:
            try:
                with os.scandir(fd) as found:
                    listing.extend(found)
            except OSError as error:
                yield _problem(disk, error)
            if not listing:
                return
            listing.sort(key=_NAME, reverse=True)
            names = [item.name for item in listing]
            distinct = set(names)
            if len(distinct) < len(names):
                listing = [listing[0], *(b for a, b in pairwise(listing) if a.name != b.name)]
            if self._rules.use_markers and not MARKERS.isdisjoint(distinct):
                kept = self._marked(fd, path, distinct)
                if kept is not None:
                    listing = [item for item in listing if item.name in kept]
                if kept is None and IGNORE_FILE in distinct:
                    try:
                        chain = with_ignore_file(fd, disk, path, chain)
                    except (OSError, PlanError) as error:
                        yield ignore_file_problem(disk, error)
            yield from self._walk_listing(scope, path, listing, chain, stack, add)
        finally:
            os.close(fd)

    def _walk_listing(
        self,
        scope: _Scope,
        path: bytes,
        listing: list[os.DirEntry[str]],
        chain: IgnoreChain,
        stack: list[tuple[Entry, IgnoreChain]],
        add: Callable[[Entry], None],
    ) -> Iterator[Problem]:
        """Look at everything in a folder; `listing` is in reverse order and used up.

        One iteration an entry: this loop is most of the time of a walk, so it calls little.
        """
        index, root, root_device, hidden = scope
        rules, left_inodes = self._rules, self._left_inodes
        exclude, one_file_system = rules.exclude, rules.one_file_system
        names = "\0".join([item.name for item in listing])
        raw_names = names.encode(_ENCODING, "surrogateescape").split(b"\0")
        prefix = path + b"/" if path else b""
        folders: list[tuple[Entry, IgnoreChain]] = []
        files = total_bytes = 0
        while listing:
            item = listing.pop()
            child = prefix + raw_names.pop()
            try:
                info = item.stat(follow_symlinks=False)
            except OSError as error:
                yield _problem(root.disk_path(child), error)
                continue
            mode, inode, dev, links, uid, gid, size, _, _, _ = info
            if inode in left_inodes:
                if (dev, inode) in rules.left_out:
                    continue
                if (dev, inode) in rules.earlier:
                    self.excluded[EARLIER_ARCHIVE] += 1
                    continue
            if hidden and child in hidden:
                continue
            kind = KINDS.get(mode & 0o170000, UNKNOWN)
            if chain and self._ignored(child, kind, chain):
                continue
            entry = Entry(
                index, child, kind, size, info.st_mtime_ns, info.st_ctime_ns,
                inode, dev, mode & 0o7777, uid, gid, links,
            )  # fmt: skip
            if kind == FILE:
                files += 1
                total_bytes += size
                add(entry)
            elif kind != FOLDER:
                self.counts[kind] += 1
                add(entry)
            elif exclude and self._excluded(child):
                pass
            elif item.name.startswith(PREFIX) and is_work_folder(root.disk_path(child)):
                # What is encrypted may lie there in clear.
                self.excluded[UNFINISHED_WORK] += 1
            elif one_file_system and dev != root_device:
                self.excluded[OTHER_FILE_SYSTEM] += 1
                self._keep_folder(scope, entry, add)
            else:
                folders.append((entry, chain))
        self.counts[FILE] += files
        self.total_bytes += total_bytes
        folders.reverse()
        stack += folders

    def _excluded(self, path: bytes) -> bool:
        """Whether an option leaves the folder `path` out; counts it."""
        exclude = self._rules.exclude
        hit = exclude.last_match(os.fsdecode(path) + "/")
        if hit < 0 or not exclude.takes[hit]:
            return False
        self.excluded[pattern_reason(exclude.texts[hit])] += 1
        return True

    def _keep_folder(self, scope: _Scope, folder: Entry, add: Callable[[Entry], None]) -> None:
        """Write a folder's own entry. `/` has none: its name in the archive is empty."""
        if folder.path or scope.root.member:
            self._count(folder)
            add(folder)

    def _count(self, entry: Entry) -> None:
        self.counts[entry.kind] += 1
        if entry.kind == FILE:
            self.total_bytes += entry.size

    def _marked(self, fd: int, path: bytes, names: set[str]) -> set[str] | None:
        """Give the names that a marked folder keeps, None if it keeps all; count the rest."""
        found = marked(fd, names) if path else None
        if found is None:
            return None
        kept, reason = found
        if len(names) > len(kept):
            self.excluded[reason] += 1
        return kept

    def _ignored(self, path: bytes, kind: str, chain: IgnoreChain) -> bool:
        """Whether an ignore file leaves `path` out; counts it.

        Options come first, as in git.
        """
        end = "/" if kind == FOLDER else ""
        exclude = self._rules.exclude
        if exclude and exclude.last_match(os.fsdecode(path) + end) >= 0:
            return False
        pattern = ignored_by(path, chain, end)
        if pattern is None:
            return False
        self.excluded[pattern_reason(pattern, IGNORE_FILE)] += 1
        return True


def _held_elsewhere(roots: Sequence[Root]) -> dict[int, frozenset[bytes]]:
    """Find paths of one root that have the member name of another root, by the first's index."""
    where = {root.member: index for index, root in enumerate(roots)}
    held: dict[int, set[bytes]] = {}
    for root in roots:
        member = root.member
        if b"" in where and member:
            held.setdefault(where[b""], set()).add(member)
        end = member.find(b"/")
        while end > 0:
            if (above := where.get(member[:end])) is not None:
                held.setdefault(above, set()).add(member[end + 1 :])
            end = member.find(b"/", end + 1)
    return {index: frozenset(paths) for index, paths in held.items()}


def _entry(index: int, path: bytes, info: os.stat_result) -> Entry:
    mode = info.st_mode
    return Entry(
        index, path, KINDS.get(stat.S_IFMT(mode), UNKNOWN), info.st_size, info.st_mtime_ns,
        info.st_ctime_ns, info.st_ino, info.st_dev, mode & 0o7777, info.st_uid, info.st_gid,
        info.st_nlink,
    )  # fmt: skip


def _is_there(disk: bytes) -> bool:
    try:
        os.lstat(disk)
    except OSError as error:
        # Where the path is too long for this system, nothing is known.
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    return True


def _problem(disk: bytes, error: OSError) -> Problem:
    """Translate what the system said about one path."""
    path = os.fsdecode(disk)
    match error.errno:
        case errno.ENOENT:
            return Problem(path, VANISHED, "it was gone before it could be read")
        case errno.ENOTDIR | errno.ELOOP:
            return Problem(path, TYPE_CHANGED, "it was a folder and something else took its place")
        case errno.EACCES | errno.EPERM:
            return Problem(path, UNREADABLE, "permission denied")
        case _:
            return Problem(path, IO_ERROR, error.strerror or str(error))
