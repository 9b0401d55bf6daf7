"""Make one member of an archive under a temporary name in its own folder.

A file is checked while it is written, and given its owner, mode and time through the descriptor,
so that what is renamed afterwards is whole.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from typing import Final

from pybak.direct import DirectBuffer
from pybak.display import printable
from pybak.entries import BLOCK_DEVICE, CHAR_DEVICE, FIFO, KIND_NAMES, LINK
from pybak.errors import ArchiveError, reason
from pybak.folders import Folders
from pybak.formats.archive import ONE_SHOT, Archive
from pybak.formats.listing import NO_OWNER
from pybak.looks import Looks, dress, dress_named
from pybak.problems import UNSUPPORTED
from pybak.restore.account import Account
from pybak.restore.attempt import Attempt
from pybak.restore.content import sink_for
from pybak.restore.digest import ContentCheck
from pybak.restore.hard_links import Linker
from pybak.restore.items import Item, Job
from pybak.restore.symlinks import link_target
from pybak.restore.taken_attributes import may_have_attributes, read_taken
from pybak.writing import write_all

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES: Final = {CHAR_DEVICE: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}


class Maker:
    """Makes members one after the other, archive after archive."""

    def __init__(self, folders: Folders, own: Attempt, account: Account) -> None:
        self._job: Job
        self._archive: Archive
        self._folders = folders
        self._own = own
        self._temporary = own.temporary
        self._account = account
        self._buffer = DirectBuffer()
        self._linker: Linker | None = None
        self._known_attributes: dict[bytes, dict[bytes, bytes]] | None = None

    def begin(self, job: Job, archive: Archive) -> None:
        """From now on make members of `archive`."""
        self._job = job
        self._archive = archive
        self._default_mode = 0o666 & ~job.umask
        self._has_attributes = archive.format.startswith("tar")

    def make(self, item: Item, folder_fd: int) -> bool:
        """Make the member under the temporary name; False if it is one to skip."""
        if item.kind == LINK:
            self._make_link(item, folder_fd)
        elif item.kind == FIFO or item.kind in _NODES:
            return self._make_node(item, folder_fd)
        else:
            self._write_file(item, folder_fd)
        return True

    def make_hard_link(self, item: Item, folder_fd: int) -> None:
        """Make one more name of a file that was restored; where it can't be, unpack the file."""
        if self._linker is None:
            self._linker = Linker(self._own.linked_file.parent)
        assert item.link is not None
        self.remove_temporary(folder_fd)
        if self._linker.link(item.link, self._folders, folder_fd, self._temporary):
            return
        self._write_file(item, folder_fd)
        status = os.stat(self._temporary, dir_fd=folder_fd, follow_symlinks=False)
        self._linker.add(item.link, item.path, status)

    def xattrs(self, item: Item) -> Mapping[bytes, bytes] | None:
        """Give the attributes of a member, None where the archive knows nothing about any."""
        if not self._has_attributes:
            return None
        if item.is_content or not may_have_attributes(item):
            return {}
        found = self._archive.attributes(item.member)
        for problem in found.problems:
            self._account.note(item, UNSUPPORTED, f"restored, but {problem}")
        return found.xattrs

    def remove_temporary(self, folder_fd: int) -> None:
        """Remove what stands under the temporary name, if anything."""
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

    def _write_file(self, item: Item, folder_fd: int) -> None:
        member = item.member
        data: bytes | None = None
        # First what stands first: a stream is never read backwards.
        xattrs = self.xattrs(item)
        if item.data_map is None and member.size <= ONE_SHOT and member.stored_size <= ONE_SHOT:
            # Checked before a file is made: a damaged member leaves no trace.
            data = self._archive.read(member, item.limit)
            content = ContentCheck(item)
            content.update(data)
            if not content.matches():
                raise self._mismatch(item)
        fd = self._create(folder_fd)
        try:
            try:
                if data is None or item.is_sparse:
                    self._stream(item, fd, data)
                elif data:
                    write_all(fd, data)
                    self._account.size += len(data)
                for message in dress(
                    fd, self._looks(item), xattrs, removes_others=self._job.knows_attributes
                ):
                    self._account.note(item, UNSUPPORTED, message)
            finally:
                os.close(fd)
        except BaseException:
            self.remove_temporary(folder_fd)
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
        sink = sink_for(item, fd, subject, self._buffer)
        content = ContentCheck(item)
        chunks = self._archive.chunks(item.member, item.limit) if data is None else [data]
        for chunk in chunks:
            self._account.ask(item)
            content.update(chunk)
            sink.write(chunk)
            self._account.size += len(chunk)
        if not content.matches():
            raise self._mismatch(item)
        sink.close()

    def _mismatch(self, item: Item) -> ArchiveError:
        return ArchiveError(
            f"{self._archive.label}: member {printable(item.member.name)} is damaged: its SHA-256 "
            "is not the manifest's"
        )

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
            self._account.note(item, UNSUPPORTED, message)
            self._account.skipped += 1
            return False
        self._dress_named(item, folder_fd, self.xattrs(item))
        return True

    def _dress_named(
        self, item: Item, folder_fd: int, xattrs: Mapping[bytes, bytes] | None
    ) -> None:
        try:
            for message in dress_named(folder_fd, self._temporary, self._looks(item), xattrs):
                self._account.note(item, UNSUPPORTED, message)
        except OSError:
            self.remove_temporary(folder_fd)
            raise
