"""Unpack one batch of members below the target.

A file is written under a temporary name in its own folder, checked while it is written, given
its owner, mode and time through the descriptor, and only then renamed: what stands under the
final name is whole, and other names of a file that was replaced keep their content. Trouble with
one member is recorded and the batch goes on.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pybak.display import printable
from pybak.entries import BLOCK_DEVICE, CHAR_DEVICE, FIFO, FOLDER, HARD_LINK, KIND_NAMES, LINK
from pybak.errors import ArchiveError, StorageError, reason
from pybak.folders import Folders
from pybak.formats.archive import ONE_SHOT, Archive
from pybak.formats.listing import NO_OWNER
from pybak.looks import Looks, dress, dress_named
from pybak.problems import DAMAGED, EXISTS, STORAGE, UNSUPPORTED, Problem, write_problems
from pybak.restore.attempt import Attempt, attempt
from pybak.restore.compare import is_same_content
from pybak.restore.content import sink_for
from pybak.restore.delete import DeletePlan, empty_folder
from pybak.restore.digest import ContentCheck
from pybak.restore.hard_links import Linker, note_sources
from pybak.restore.items import Item, Job, open_job, read_parts
from pybak.restore.obstacles import own_problem
from pybak.restore.outcome import Outcome, is_disk_full
from pybak.restore.overwrite import IF_CHANGED, reason_to_leave
from pybak.restore.symlinks import link_target
from pybak.restore.taken_attributes import Taken, may_have_attributes, read_taken, write_taken
from pybak.writing import write_all

ShouldStop = Callable[[], bool]
Progress = Callable[[int, int, bytes], None]
"""Called with files done, bytes written and the current name; both counts are of this batch."""

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ASK_EVERY = 0.05  # seconds between two looks at the cancel check and two progress reports
_FULL_ENOUGH = 3  # members in a row that found no room before the rest is given up
_NODES: Final = {CHAR_DEVICE: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}


class _Stopped(Exception):  # noqa: N818 - not an error
    """Someone asked to stop in the middle of a member."""


def extract_batch(
    batch: Path,
    *,
    password: bytes | None = None,
    should_stop: ShouldStop | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Unpack the members of the batch file `batch`, archive by archive; their folders must exist.

    Doing it again, even at the same time, leaves the same files. The problems are written beside
    the batch file, to a file of this try's own; a batch without members makes none. Raises
    ArchiveError if an archive is no longer the one that was planned for, NotFoundError or
    StorageError if it or the target can't be opened.
    """
    with contextlib.ExitStack() as stack:
        unpacker: Unpacker | None = None
        for job, items in read_parts(batch, Item):
            with open_job(job, password) as archive:
                if archive.identity != job.identity:
                    message = f"{archive.label}: changed while it was restored; start again"
                    raise ArchiveError(message)
                if unpacker is None:
                    folders = stack.enter_context(_open_target(job.target))
                    own = stack.enter_context(attempt(batch, job.token))
                    unpacker = Unpacker(folders, own, should_stop, progress)
                unpacker.begin(job, archive)
                if not all(map(unpacker.add, items)):
                    break
        return Outcome() if unpacker is None else unpacker.close()


def _open_target(target: bytes) -> Folders:
    try:
        return Folders(target)
    except OSError as error:
        message = f"{os.fsdecode(target)}: can't be opened ({reason(error)})"
        raise StorageError(message) from error


class Unpacker:
    """Unpacks members one after the other, archive after archive, and counts."""

    def __init__(
        self,
        folders: Folders,
        own: Attempt,
        should_stop: ShouldStop | None,
        progress: Progress | None,
    ) -> None:
        self._job: Job
        self._archive: Archive
        self._folders = folders
        self._own = own
        self._temporary = own.temporary
        self._should_stop = should_stop
        self._progress = progress
        self._asked_at = time.monotonic()
        self._problems: list[Problem] = []
        self._sources: list[tuple[bytes, int, int]] = []
        self._collected: list[Taken] = []
        self._linker: Linker | None = None
        self._known_attributes: dict[bytes, dict[bytes, bytes]] | None = None
        self._restored = self._skipped = self._failed = self._size = self._deleted = 0
        self._full = 0
        self._stopped = False

    def begin(self, job: Job, archive: Archive) -> None:
        """From now on unpack members of `archive`."""
        self._job = job
        self._archive = archive
        self._default_mode = 0o666 & ~job.umask
        self._has_attributes = archive.format.startswith("tar")

    def add(self, item: Item) -> bool:
        """Unpack one member. False if it was asked to stop, and then the member is not counted.

        Of what is given as a folder only the attributes are taken down, for the last step: of
        folders, and of links, which come after all files.
        """
        size = self._size
        try:
            self._ask(item)
            if item.kind == FOLDER:
                self._once_more(item, self._collect)
            elif self._full >= _FULL_ENOUGH:
                self._fail(item, STORAGE, "not written: the target's disk is full")
            else:
                self._once_more(item, self._place)
                self._full = 0
        except _Stopped:
            self._stopped = True
            self._size = size
            return False
        except ArchiveError as error:
            self._fail(item, DAMAGED, str(error))
        except StorageError as error:
            self._fail(item, STORAGE, str(error))
        except OSError as error:
            self._full = self._full + 1 if is_disk_full(error) else 0
            self._fail(item, STORAGE, f"can't be written: {explain(error)}")
        else:
            return True
        self._size = size
        return True

    def _once_more(self, item: Item, unpack: Callable[[Item], None]) -> None:
        """Unpack a member; if it is damaged, and came over a network, fetch it once more."""
        size, noted = self._size, len(self._problems)
        try:
            unpack(item)
        except ArchiveError:
            if not self._archive.again():
                raise
            self._size = size
            del self._problems[noted:]
            unpack(item)

    def close(self) -> Outcome:
        """Write down what the last step needs and give the counts."""
        write_problems(self._own.problems_file, self._problems)
        note_sources(self._own.linked_file, self._sources)
        write_taken(self._own.attributes_file, self._collected)
        if self._progress and not self._stopped:
            self._progress(self._done, self._size, b"")
        return Outcome(
            self._restored, self._skipped, self._failed, self._size, self._stopped,
            self._own.problems_file, self._deleted,
        )  # fmt: skip

    @property
    def _done(self) -> int:
        return self._restored + self._skipped + self._failed

    def _ask(self, item: Item) -> None:
        now = time.monotonic()
        if now - self._asked_at >= _ASK_EVERY or not self._done:
            self._asked_at = now
            if self._should_stop and self._should_stop():
                raise _Stopped
            if self._progress:
                self._progress(self._done, self._size, item.path)

    def _note(self, item: Item, code: str, message: str) -> None:
        self._problems.append(Problem(os.fsdecode(item.path), code, message))

    def _fail(self, item: Item, code: str, message: str) -> None:
        self._note(item, code, message)
        if item.kind != FOLDER:
            self._failed += 1

    def _collect(self, item: Item) -> None:
        xattrs = self._xattrs(item)
        if xattrs:
            self._collected.append((item.path, dict(xattrs)))

    # -- one member

    def _place(self, item: Item) -> None:
        folder, _, name = item.path.rpartition(b"/")
        folder_fd = self._folders.fd(folder)
        in_the_way = False
        try:
            status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if self._job.is_own(status):
                self._fail(item, STORAGE, own_problem(item.path).message)
                return
            kept = reason_to_leave(item, status, self._job.overwrite)
            if kept is None and item.kind == LINK and self._job.overwrite == IF_CHANGED:
                kept = self._same_link(item, folder_fd, name)
            if kept is not None:
                self._note(item, EXISTS, kept)
                self._skipped += 1
                if item.is_linked and is_same_content(
                    self._archive, item, folder_fd, name, lambda: self._ask(item)
                ):
                    self._sources.append((item.path, status.st_dev, status.st_ino))
                return
            in_the_way = stat.S_ISDIR(status.st_mode)
        if item.kind == HARD_LINK:
            # Looking up the folder of the first name may close this one.
            folder_fd = os.dup(folder_fd)
            try:
                self._make_hard_link(item, folder_fd)
                self._rename(item, folder_fd, name, in_the_way=in_the_way)
            finally:
                os.close(folder_fd)
        else:
            if not self._make(item, folder_fd):
                return
            self._rename(item, folder_fd, name, in_the_way=in_the_way)
        self._restored += 1

    def _make(self, item: Item, folder_fd: int) -> bool:
        """Make the member under the temporary name; False if it is one to skip."""
        if item.kind == LINK:
            self._make_link(item, folder_fd)
        elif item.kind == FIFO or item.kind in _NODES:
            return self._make_node(item, folder_fd)
        else:
            self._write_file(item, folder_fd)
        return True

    def _rename(self, item: Item, folder_fd: int, name: bytes, *, in_the_way: bool) -> None:
        try:
            if item.is_linked:
                status = os.stat(self._temporary, dir_fd=folder_fd, follow_symlinks=False)
                self._sources.append((item.path, status.st_dev, status.st_ino))
            if in_the_way:
                self._folders.forget(item.path)
                self._clear(item, folder_fd, name)
                os.rmdir(name, dir_fd=folder_fd)
            os.rename(self._temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except OSError:
            self._remove_temporary(folder_fd)
            raise
        if item.kind == HARD_LINK:
            # Of two names of one file a rename does nothing.
            self._remove_temporary(folder_fd)

    def _clear(self, item: Item, folder_fd: int, name: bytes) -> None:
        """Empty a folder that stands where a file goes, if what is not in the archive may go."""
        if not self._job.delete_file:
            return
        surplus = DeletePlan.load(Path(self._job.delete_file))
        count, _, notes = empty_folder(surplus, folder_fd, name, item.path)
        self._deleted += count
        self._problems += notes

    def _remove_temporary(self, folder_fd: int) -> None:
        with contextlib.suppress(OSError):  # the first error says more
            os.unlink(self._temporary, dir_fd=folder_fd)

    def _fresh(self, folder_fd: int, make: Callable[[], None]) -> None:
        """Make something under the temporary name, which an earlier try may have left."""
        try:
            make()
        except FileExistsError:
            os.unlink(self._temporary, dir_fd=folder_fd)
            make()

    def _looks(self, item: Item) -> Looks:
        uid, gid = item.uid, item.gid
        if uid == NO_OWNER and self._job.sets_owner:
            uid, gid = self._archive.owner(item.member) or (NO_OWNER, NO_OWNER)
        mode = item.mode if item.mode >= 0 else self._default_mode
        return Looks(uid, gid, mode, item.mtime_ns, self._job.sets_owner)

    def _xattrs(self, item: Item) -> Mapping[bytes, bytes] | None:
        if not self._has_attributes:
            return None
        if item.is_content or not may_have_attributes(item):
            return {}
        found = self._archive.attributes(item.member)
        for problem in found.problems:
            self._note(item, UNSUPPORTED, f"restored, but {problem}")
        return found.xattrs

    # -- files

    def _write_file(self, item: Item, folder_fd: int) -> None:
        member = item.member
        data: bytes | None = None
        # First what stands first: a stream is never read backwards.
        xattrs = self._xattrs(item)
        if item.data_map is None and member.size <= ONE_SHOT and member.stored_size <= ONE_SHOT:
            # Checked before a file is made: a damaged member leaves no trace.
            data = self._archive.read(member, item.limit)
            if item.sha256 and hashlib.sha256(data).hexdigest() != item.sha256:
                raise self._mismatch(item)
        fd = self._create(folder_fd)
        try:
            try:
                if data is None or item.is_sparse:
                    self._stream(item, fd, data)
                elif data:
                    write_all(fd, data)
                    self._size += len(data)
                for message in dress(
                    fd, self._looks(item), xattrs, removes_others=self._job.knows_attributes
                ):
                    self._note(item, UNSUPPORTED, message)
            finally:
                os.close(fd)
        except BaseException:
            self._remove_temporary(folder_fd)
            raise

    def _create(self, folder_fd: int) -> int:
        try:
            return os.open(self._temporary, _CREATE, 0o600, dir_fd=folder_fd)
        except FileExistsError:
            os.unlink(self._temporary, dir_fd=folder_fd)
            return os.open(self._temporary, _CREATE, 0o600, dir_fd=folder_fd)

    def _stream(self, item: Item, fd: int, data: bytes | None) -> None:
        """Write content piece by piece, or `data`, which was checked already."""
        subject = f"{self._archive.label}: member {printable(item.member.name)}"
        sink = sink_for(item, fd, subject)
        content = ContentCheck(item)
        chunks = self._archive.chunks(item.member, item.limit) if data is None else [data]
        for chunk in chunks:
            self._ask(item)
            content.update(chunk)
            sink.write(chunk)
            self._size += len(chunk)
        if not content.matches():
            raise self._mismatch(item)
        sink.close()

    def _mismatch(self, item: Item) -> ArchiveError:
        return ArchiveError(
            f"{self._archive.label}: member {printable(item.member.name)} is damaged: its SHA-256 "
            "is not the manifest's"
        )

    # -- what has no content of its own

    def _same_link(self, item: Item, folder_fd: int, name: bytes) -> str | None:
        try:
            there = os.readlink(name, dir_fd=folder_fd)
        except OSError:
            return None
        if there != link_target(self._archive, item):
            return None
        return "exists already and points to the same place"

    def _make_link(self, item: Item, folder_fd: int) -> None:
        target = link_target(self._archive, item)
        self._fresh(folder_fd, lambda: os.symlink(target, self._temporary, dir_fd=folder_fd))
        if self._known_attributes is None:
            self._known_attributes = read_taken(self._own.attributes_file.parent)
        self._dress_named(item, folder_fd, self._known_attributes.get(item.path))

    def _make_node(self, item: Item, folder_fd: int) -> bool:
        try:
            if item.kind == FIFO:
                self._fresh(folder_fd, lambda: os.mkfifo(self._temporary, 0o600, dir_fd=folder_fd))
            else:
                mode, device = _NODES[item.kind] | 0o600, os.makedev(*(item.device or (0, 0)))
                self._fresh(
                    folder_fd,
                    lambda: os.mknod(self._temporary, mode, device, dir_fd=folder_fd),
                )
        except (PermissionError, OverflowError) as error:
            message = f"is a {KIND_NAMES[item.kind]}, which can't be made here: {reason(error)}"
            self._note(item, UNSUPPORTED, message)
            self._skipped += 1
            return False
        self._dress_named(item, folder_fd, self._xattrs(item))
        return True

    def _dress_named(
        self, item: Item, folder_fd: int, xattrs: Mapping[bytes, bytes] | None
    ) -> None:
        try:
            for message in dress_named(folder_fd, self._temporary, self._looks(item), xattrs):
                self._note(item, UNSUPPORTED, message)
        except OSError:
            self._remove_temporary(folder_fd)
            raise

    def _make_hard_link(self, item: Item, folder_fd: int) -> None:
        if self._linker is None:
            self._linker = Linker(self._own.linked_file.parent)
        assert item.link is not None
        self._remove_temporary(folder_fd)
        if self._linker.link(item.link, self._folders, folder_fd, self._temporary):
            return
        self._write_file(item, folder_fd)
        status = os.stat(self._temporary, dir_fd=folder_fd, follow_symlinks=False)
        self._linker.add(item.link, item.path, status)


def explain(error: OSError) -> str:
    """Say in the words of a restore what an error of the file system means."""
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "a link or a file stands where its folder must be"
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return "a folder that is not empty stands in its place"
    if error.errno == errno.ENOENT:
        return "its folder is missing"
    return reason(error)
