"""Compare the source with the target, folder by folder: one listing each, one `lstat` an entry.

What is to be done is written down in rows; nothing is changed. A piece of the tree is compared at
a time, by whichever process, and gives back the folders that it did not get to.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from pybak.backup.discover import KINDS
from pybak.backup.rules import NOT_INCLUDED, Chooser
from pybak.display import printable
from pybak.entries import BLOCK_DEVICE, CHAR_DEVICE, FILE, LINK, SOCKET, UNKNOWN
from pybak.errors import StorageError, reason
from pybak.folders import Folders
from pybak.mirror.compared import Compared, Todo
from pybak.mirror.findings import Findings
from pybak.mirror.likeness import Likeness, is_same_content
from pybak.mirror.rows import (
    LOOKS,
    NEW,
    SAME,
    TEMPORARY_START,
    UPDATE,
    FolderRow,
    LinkedRow,
    MirrorJob,
    Row,
    inode_of,
    is_unfinished,
    mark_of,
)
from pybak.mirror.spelling import Spelling
from pybak.mirror.surplus import SurplusFinder
from pybak.mounts import mount_of
from pybak.problems import (
    IO_ERROR,
    STORAGE,
    TYPE_CHANGED,
    UNREADABLE,
    UNSUPPORTED,
    VANISHED,
)

IN_THE_WAY: Final = "in the way"
"""A folder's state: there is something else under its name in the target."""

_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FORMAT: Final = 0o170000
_KEPT_WHOLE: Final = frozenset({stat.S_IFREG, stat.S_IFLNK})
"""Whatever is written into these moves their time, and another one in their place has its own."""
_NODES: Final = frozenset({CHAR_DEVICE, BLOCK_DEVICE})


def compare_piece(
    job: MirrorJob,
    todos: Sequence[Todo],
    out: Path,
    *,
    most: int,
    on_progress: Callable[[int, int], object] = lambda _files, _size: None,
) -> Compared:
    """Compare these folders and what is below them, until about `most` entries were looked at.

    Rows go to files whose names begin with `out`. `on_progress` is called with the files and their
    bytes so far; what it raises ends the comparison. Raises OSError if source or target can't be
    opened, StorageError if the source itself can't be listed.
    """
    with Folders(job.source, inode=job.source_root) as sources:
        has_target = job.target_root is not None
        targets = Folders(job.target, inode=job.target_root) if has_target else None
        try:
            comparer = _Comparer(job, sources, targets, out, on_progress)
            stack = list(reversed(todos))
            while stack and comparer.looked_at < most:
                comparer.folder(stack.pop(), stack)
                comparer.tell()
            return comparer.result(stack)
        finally:
            if targets is not None:
                targets.close()


class _Comparer:
    def __init__(
        self,
        job: MirrorJob,
        sources: Folders,
        targets: Folders | None,
        out: Path,
        on_progress: Callable[[int, int], object],
    ) -> None:
        self._job = job
        self._on_progress = on_progress
        self._left_out = frozenset(map(tuple, job.left_out))
        self._mount = mount_of(targets.fd(b"")) if targets is not None and job.deletes else None
        self._deletes = False
        self._sources = sources
        self._targets = targets
        self._likeness = Likeness(job)
        rules = job.rules()
        chooses = bool(job.include or job.exclude)
        self._chooser = Chooser(rules.include, rules.exclude) if chooses else None
        self._surplus = SurplusFinder(job, self._chooser)
        self._found = Findings(out)
        self._spelling = Spelling(self._chooser, self._found) if job.ignores_case else None
        self._touched = False
        self.tally = self._found.tally
        self.looked_at = 0

    def tell(self) -> None:
        """Tell how far it is; raises what ends it."""
        self._on_progress(self.tally.found, self.tally.size)

    # -- folders

    def folder(self, todo: Todo, stack: list[Todo]) -> None:
        """Compare one folder; folders in it go onto the stack."""
        path = todo.path
        fds = [-1, -1]
        self._touched = False
        try:
            try:
                fds[0] = os.open(b".", _LIST, dir_fd=self._sources.fd(path))
                with os.scandir(fds[0]) as found:
                    listing = list(found)
            except OSError as error:
                self._not_listed(path, error)
                return
            there: dict[str, os.stat_result] | None = {}
            if todo.state in (SAME, LOOKS) and self._targets is not None:
                there = self._look_there(path, fds)
            if there is not None:
                self.looked_at += len(listing) + 1
                self._entries(path, listing, there, (fds[0], fds[1]), stack)
                self._left_over(path, there, fds[1])
        finally:
            for fd in fds:
                if fd >= 0:
                    os.close(fd)
        if there is None:
            return
        if path:
            self.tally.folders += 1
        if self._touched or todo.state != SAME:
            is_new = todo.state in (NEW, IN_THE_WAY)
            in_the_way = todo.state == IN_THE_WAY
            is_needed = todo.is_included or self._touched
            self._found.folders.append(FolderRow(path, is_new, in_the_way, is_needed))

    def _not_listed(self, path: bytes, error: OSError) -> None:
        if not path:
            name = printable(self._job.source)
            raise StorageError(f"{name}: can't be listed: {reason(error).lower()}") from error
        if error.errno == errno.ENOENT:
            self._found.note(path, VANISHED, "was gone before it could be read")
            return
        self.tally.unlisted += 1
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            self._found.note(path, TYPE_CHANGED, "was a folder and something else took its place")
        elif error.errno in (errno.EACCES, errno.EPERM):
            self._found.note(path, UNREADABLE, "can't be listed: permission denied")
        else:
            self._found.note(path, IO_ERROR, f"can't be listed: {reason(error)}")

    def _look_there(self, path: bytes, fds: list[int]) -> dict[str, os.stat_result] | None:
        """List the folder in the target; None if that can't be done, and is told."""
        assert self._targets is not None
        try:
            fds[1] = os.open(b".", _LIST, dir_fd=self._targets.fd(path))
            with os.scandir(fds[1]) as found:
                there = {item.name: item.stat(follow_symlinks=False) for item in found}
            self._deletes = self._job.deletes and mount_of(fds[1]) == self._mount
        except OSError as error:
            self.tally.unlisted += 1
            self._found.note(path, STORAGE, f"can't be listed in the destination: {reason(error)}")
            return None
        self.tally.there += len(there)
        return there

    # -- what is in a folder

    def _entries(
        self,
        path: bytes,
        listing: list[os.DirEntry[str]],
        there: dict[str, os.stat_result],
        fds: tuple[int, int],
        stack: list[Todo],
    ) -> None:
        """Look at everything in a folder; what of the target has a place is taken from `there`.

        One iteration an entry: where nothing changed this loop is all the time there is.
        """
        job, tally = self._job, self.tally
        prefix = path + b"/" if path else b""
        chooser, has_looks = self._chooser, self._likeness.has_looks
        sets_owner, settled = job.sets_owner, 2.0
        is_plain = not (job.copies_all or job.compares_content) and job.keeps_looks
        if job.only is not None:
            listing = [item for item in listing if os.fsencode(item.name) == job.only]
        if self._spelling is not None:
            listing = self._spelling.settle(prefix, listing, there, fds[1])
        if job.only is not None:
            for name in [name for name in there if os.fsencode(name) != job.only]:
                if not is_unfinished(os.fsencode(name), there[name]):
                    del there[name]
        found = unchanged = size = 0
        add = self._found.add
        for item in listing:
            name = item.name
            old = there.pop(name, None)
            try:
                now = item.stat(follow_symlinks=False)
            except OSError as error:
                self._found.not_there(prefix + os.fsencode(name), error)
                continue
            mode = now.st_mode
            if (
                is_plain
                and old is not None
                and mode == old.st_mode
                and chooser is None
                and mode & _FORMAT in _KEPT_WHOLE
                and now.st_mtime_ns == old.st_mtime_ns
                and now.st_size == old.st_size
                and now.st_nlink == old.st_nlink == 1
                and now.st_ctime < old.st_ctime - settled
                and (not sets_owner or (now.st_uid == old.st_uid and now.st_gid == old.st_gid))
            ):
                found += 1
                unchanged += 1
                if mode & _FORMAT == stat.S_IFREG:
                    size += now.st_size
                continue
            raw = os.fsencode(name)
            if raw.startswith(TEMPORARY_START) and is_unfinished(raw, now):
                if old is not None:
                    there[name] = old
                continue
            child = prefix + raw
            kind = mode & _FORMAT
            if kind == stat.S_IFREG and old is None and chooser is None and now.st_nlink == 1:
                found += 1
                size += now.st_size
                add(Row(child, FILE, NEW, now.st_size))
                continue
            if kind == stat.S_IFDIR and inode_of(now) in self._left_out:
                continue
            is_included = True
            if chooser is not None:
                why = chooser.reason(os.fsdecode(child) + ("/" if kind == stat.S_IFDIR else ""))
                is_included = why is None
                if why is not None and not (kind == stat.S_IFDIR and why == NOT_INCLUDED):
                    self._found.excluded[why] += 1
                    continue
            if kind != stat.S_IFDIR:
                self._entry(child, raw, now, old, fds)
            elif old is None:
                self._touched = self._touched or is_included
                stack.append(Todo(child, NEW, is_included))
            elif not stat.S_ISDIR(old.st_mode):
                self._touched = True
                stack.append(Todo(child, IN_THE_WAY, is_included))
            else:
                is_same = self._likeness.has_time(now, old) and has_looks(now, old, fds, raw)
                stack.append(Todo(child, SAME if is_same else LOOKS, is_included))
        tally.found += found
        tally.unchanged += unchanged
        tally.size += size
        self._touched = self._touched or found > unchanged

    def _entry(
        self,
        path: bytes,
        name: bytes,
        now: os.stat_result,
        old: os.stat_result | None,
        fds: tuple[int, int],
    ) -> None:
        """Decide about what is no folder."""
        kind = KINDS.get(now.st_mode & _FORMAT, UNKNOWN)
        if kind in (SOCKET, UNKNOWN):
            self._found.skip(path, UNSUPPORTED, "is a socket, which only its program can make")
            return
        self.tally.found += 1
        size = now.st_size if kind == FILE else 0
        self.tally.size += size
        what = self._verdict(kind, name, now, old, fds)
        seen = (mark_of(now), mark_of(old)) if what == LOOKS and old is not None else None
        is_linked = kind == FILE and now.st_nlink > 1 and self._job.keeps_links
        if old is not None and stat.S_ISDIR(old.st_mode):
            self._touched = True
            self._found.add_late(Row(path, kind, UPDATE, size))
            if self._deletes:
                self._surplus.find(fds[1], name, path, old)
        elif is_linked:
            there = inode_of(old) if old is not None else (0, 0)
            self._found.linked.append(LinkedRow(path, what, size, inode_of(now), there, seen))
        elif what == SAME:
            self.tally.unchanged += 1
        else:
            self._touched = True
            self._found.add(Row(path, kind, what, size, seen))

    def _verdict(
        self,
        kind: str,
        name: bytes,
        now: os.stat_result,
        old: os.stat_result | None,
        fds: tuple[int, int],
    ) -> str:
        """Give what is to be done; SAME for nothing."""
        if old is None:
            return NEW
        if now.st_mode & _FORMAT != old.st_mode & _FORMAT:
            return UPDATE
        job, has_time = self._job, self._likeness.has_time(now, old)
        if kind == FILE:
            if job.copies_all or now.st_size != old.st_size:
                return UPDATE
            is_same = is_same_content(fds, name, self.tell) if job.compares_content else has_time
        elif kind == LINK:
            is_same = self._same_target(fds, name)
        else:
            is_same = kind not in _NODES or now.st_rdev == old.st_rdev
        if not is_same:
            return UPDATE
        if has_time and self._likeness.has_looks(now, old, fds, name):
            return SAME
        # Other names of this file are not ours to change.
        return UPDATE if old.st_nlink > now.st_nlink else LOOKS

    def _same_target(self, fds: tuple[int, int], name: bytes) -> bool:
        try:
            return os.readlink(name, dir_fd=fds[0]) == os.readlink(name, dir_fd=fds[1])
        except OSError:
            return False

    # -- what only the target has

    def _left_over(self, path: bytes, there: dict[str, os.stat_result], fd: int) -> None:
        prefix = path + b"/" if path else b""
        before = len(self._surplus.rows)
        is_told = False
        for name, status in there.items():
            raw = os.fsencode(name)
            if is_unfinished(raw, status):
                self.tally.there -= 1
                if status.st_ctime < self._job.live_since:
                    self._found.temporaries.append(prefix + raw)
                    self._touched = True
            elif self._deletes:
                self._surplus.find(fd, raw, prefix + raw, status)
            elif self._job.deletes and not is_told:
                self._surplus.note_mounted(path)
                is_told = True
        if len(self._surplus.rows) > before:
            self._touched = True

    def result(self, rest: Sequence[Todo]) -> Compared:
        """Write the rows and give what came of it."""
        return self._found.result(rest, self._surplus, self._chooser)
