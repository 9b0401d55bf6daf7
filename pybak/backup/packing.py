"""Turn the entries of a batch into members, whatever the format: what both packers share."""

from __future__ import annotations

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pybak import entries, problems, staging
from pybak.backup.batches import Batch, Job
from pybak.backup.open_entry import is_same, open_entry
from pybak.backup.opened_ahead import OpenedAhead
from pybak.backup.parts import PART_BYTES
from pybak.backup.read_source import Read, SmallFile
from pybak.backup.segments import Absent, Meta, Place, SegmentIndex, SegmentWriter
from pybak.entries import Entry
from pybak.errors import Interrupted, SourceError
from pybak.formats import manifest
from pybak.formats.deflate import WHOLE_LIMIT, Buffer
from pybak.problems import Problem

Advance = Callable[[int, int, bytes], None]
"""Called with files and bytes done since the last call, and the path being read."""

CHANGED_ATTEMPTS: Final = 2
CHANGED_MESSAGE: Final = "changed while it was read; what was read is in the archive"
MOST_GROWN: Final = 2 * PART_BYTES
"""What is taken of a file that has grown since it was planned as a small one."""

_LOOK_EVERY_BYTES = 4 << 20
_ENTRY_COST = 50_000  # bytes that could be read while an entry is looked at


@dataclass(frozen=True)
class Work:
    """What a packer is given: the staging folder, where to write, whom to tell, how to read."""

    folder: Path
    job: Job
    out: SegmentWriter
    advance: Advance
    read: Read
    password: bytes | None = field(repr=False)

    def stop_if_asked(self) -> None:
        """Raise Interrupted once a cancel was requested."""
        if staging.is_cancelled(self.folder):
            raise Interrupted("stopped on request")


_NO_PLACE: Final = "the format can't hold it"


class BatchPacker(ABC):
    """Makes the members of one batch of whole files, folders and links."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.out = work.out
        self.lines: list[str] = []
        self.problems: list[Problem] = []
        self.lost: Counter[str] = Counter()
        self.unlinkable: list[Place] = []
        self.absent: list[Absent] = []
        self.members = 0
        self.files = 0
        self.bytes_read = 0

    def run(
        self,
        batch: Batch,
        missing: frozenset[Place] = frozenset(),
        stand_ins: MutableMapping[Place, bytes] | None = None,
    ) -> SegmentIndex:
        """Pack all entries.

        `missing` are the names that hard links can't refer to: the first link to such a file is
        packed as the file, and the others refer to that one. `stand_ins` has the member name of
        what earlier batches packed so, and gets more. A name that is no longer of the file that
        it was listed with is packed by itself.
        """
        with closing(OpenedAhead(self._small_files(batch), WHOLE_LIMIT)) as self._ahead:
            self._pack(batch, missing, {} if stand_ins is None else stand_ins)
        return self.finish()

    def _small_files(self, batch: Batch) -> Iterator[bytes]:
        """Yield the paths of the files that will be asked for by `open_small`, in this order."""
        roots = self.work.job.roots
        for number, entry in enumerate(batch.entries):
            if self._is_small(entry) and not (batch.firsts and batch.firsts[number]):
                yield roots[entry.root].disk_path(entry.path)

    def _is_small(self, entry: Entry) -> bool:
        """Whether a file's content is read at once, by the system's own call."""
        is_file = entry.kind == entries.FILE
        return is_file and entry.size <= WHOLE_LIMIT and self.work.read is os.pread

    def open_small(self, entry: Entry, path: bytes) -> SmallFile | None:
        """Open a file that is read at once; None where it isn't, or is out of the ordinary.

        The caller closes it.
        """
        found = self._ahead.open(path) if self._is_small(entry) else None
        if found is None or is_same(entry, found.status):
            return found
        os.close(found.fd)
        return None

    def open_entry(self, entry: Entry) -> tuple[int, os.stat_result]:
        """Open any regular file. Raises SourceError."""
        return open_entry(self.work.job.roots[entry.root], entry)

    def _pack(
        self, batch: Batch, missing: frozenset[Place], instead: MutableMapping[Place, bytes]
    ) -> None:
        since_look = 0
        roots = self.work.job.roots
        for number, entry in enumerate(batch.entries):
            root = roots[entry.root]
            path = root.disk_path(entry.path)
            name = root.member_name(entry.path)
            try:
                check_name(name)
                first = batch.firsts[number] if batch.firsts else None
                if first is None or not is_same(entry, _look(path)):
                    self._add(entry, path, name)
                elif first in instead:
                    self.add_hard_link(entry, path, name, instead[first])
                elif first in missing:
                    self._add(entry, path, name)
                    if not self.unlinkable or self.unlinkable[-1] != place_of(entry):
                        instead[first] = name
                else:
                    first_root, first_path = first
                    self.add_hard_link(entry, path, name, roots[first_root].member_name(first_path))
            except SourceError as error:
                self.problems.append(Problem(os.fsdecode(path), error.code, str(error)))
                self.absent.append((entry.root, entry.path, error.code))
                if entry.links > 1:
                    self.unlinkable.append(place_of(entry))
                self.work.advance(1, entry.size, path)
            since_look += entry.size + _ENTRY_COST
            if since_look > _LOOK_EVERY_BYTES:
                since_look = 0
                self.work.stop_if_asked()

    def _add(self, entry: Entry, path: bytes, name: bytes) -> None:
        if entry.kind == entries.FILE:
            self.add_file(entry, path, name)
        elif entry.kind == entries.LINK:
            self.add_link(entry, path, name)
        elif entry.kind == entries.FOLDER:
            if name:
                self.add_folder(entry, path, name)
        else:
            self.add_special(entry, path, name)

    @abstractmethod
    def add_file(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Pack a regular file. Raises SourceError."""

    @abstractmethod
    def add_link(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Pack a symbolic link. Raises SourceError."""

    @abstractmethod
    def add_folder(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Pack a folder's own entry."""

    def add_special(self, entry: Entry, path: bytes, name: bytes) -> None:  # noqa: ARG002
        """Pack a FIFO or device. Raises SourceError, always where the format has none."""
        raise SourceError(f"a {entries.KIND_NAMES[entry.kind]}; {_NO_PLACE}", problems.UNSUPPORTED)

    def add_hard_link(self, entry: Entry, path: bytes, name: bytes, first: bytes) -> None:  # noqa: ARG002
        """Pack another name of the member `first`; where the format has no links, a copy."""
        self._add(entry, path, name)

    @abstractmethod
    def finish(self) -> SegmentIndex:
        """Close the segment and give its index."""

    def note_replaced(self, entry: Entry, status: os.stat_result | None) -> None:
        """Record a file that other names can't be links to: what was packed is another one.

        `status` is of what was packed; without it, `entry` has one name, or it is gone.
        """
        if entry.links > 1 and not is_same(entry, status):
            self.unlinkable.append(place_of(entry))

    def note_changed(self, path: bytes, message: str = CHANGED_MESSAGE) -> None:
        """Record a file that moved while it was read."""
        self.problems.append(Problem(os.fsdecode(path), problems.CHANGED, message))

    def piece_done(self, size_bytes: int, path: bytes) -> None:
        """Tell how far a large file is, and stop if asked."""
        self.work.advance(0, size_bytes, path)
        self.work.stop_if_asked()


_EMPTY_SHA256 = hashlib.sha256()


def sha256(data: Buffer) -> str:
    """Give the SHA-256 of bytes in hex; to copy a digest takes half the time of making one."""
    digest = _EMPTY_SHA256.copy()
    digest.update(data)
    return digest.hexdigest()


def place_of(entry: Entry) -> Place:
    """Give what names an entry in a run."""
    return entry.root, entry.path


def look_if_linked(entry: Entry, path: bytes) -> os.stat_result | None:
    """Give the status of what `path` is now, if `entry` has several names and it is there."""
    return _look(path) if entry.links > 1 else None


def _look(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None  # whoever opens it will say why


def check_name(name: bytes) -> None:
    """Raise SourceError (unreadable) if the manifest has this name."""
    if name.startswith(manifest.MEMBER_NAME) and name[len(manifest.MEMBER_NAME) :][:1] in b"/":
        raise SourceError("its name is reserved for the manifest; rename it", problems.UNREADABLE)


TYPE_BITS = {
    entries.FILE: stat.S_IFREG,
    entries.FOLDER: stat.S_IFDIR,
    entries.LINK: stat.S_IFLNK,
    entries.FIFO: stat.S_IFIFO,
    entries.CHAR_DEVICE: stat.S_IFCHR,
    entries.BLOCK_DEVICE: stat.S_IFBLK,
}


def member_meta(entry: Entry, status: os.stat_result | None) -> Meta:
    """Take metadata from the open file where there is one, else from the walk."""
    if status is None:
        return Meta(
            entry.mtime_ns, entry.ctime_ns, entry.inode, entry.mode,
            entry.mode | TYPE_BITS[entry.kind], entry.uid, entry.gid,
        )  # fmt: skip
    return Meta(
        status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode & 0o7777,
        status.st_mode, status.st_uid, status.st_gid,
    )  # fmt: skip


def source_path(job: Job, entry: Entry) -> str:
    """Give the entry's path on disk as text for people."""
    return os.fsdecode(job.roots[entry.root].disk_path(entry.path))
