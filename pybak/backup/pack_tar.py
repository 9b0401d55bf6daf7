"""Pack a batch into a segment of a tar archive, compressed or not.

A segment's members are a run of the tar stream: headers, contents, padding. It is cut into pieces,
each compressed by itself (`pybak.formats.streams`), so that segments join and a reader can begin
anywhere. The first part of a large file starts with the file's header, the last one ends with its
padding; whatever becomes of the file meanwhile, the parts are as long as that header says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from pybak import problems
from pybak.attributes import read_attributes
from pybak.backup.batches import Batch
from pybak.backup.owners import group_name, user_name
from pybak.backup.packing import (
    CHANGED_ATTEMPTS,
    CHANGED_MESSAGE,
    TYPE_BITS,
    BatchPacker,
    Work,
    check_name,
    look_if_linked,
    member_meta,
    sha256,
)
from pybak.backup.read_source import (
    Read,
    filling,
    look_again,
    look_at,
    open_small,
    open_source,
    read_link,
    read_whole,
    state_of,
)
from pybak.backup.segments import Meta, PartResult, SegmentIndex
from pybak.backup.tar_pieces import PieceMark, PieceWriter
from pybak.entries import BLOCK_DEVICE, CHAR_DEVICE, FILE, FOLDER, HARD_LINK, LINK, Entry
from pybak.errors import SourceError
from pybak.formats import manifest
from pybak.formats.deflate import WHOLE_LIMIT
from pybak.formats.sparse import Run, data_runs, data_size, may_have_holes
from pybak.formats.streams import codec
from pybak.formats.tar_records import (
    attributes_that_fit,
    member_header,
    padding,
    sparse_map_block,
)
from pybak.problems import Problem, pack_problems

Space = Callable[[int], memoryview]
"""Gives the place for the next so many bytes."""

LARGE_ATTRIBUTES: Final = "large_attributes"
"""Attributes that are too large for a tar header; a key of `SegmentIndex.lost`."""

_READ_BYTES = 1 << 20
_HEADER_BYTES = 64 << 10
"""Room for a header in front of a file that is read at once."""
_MANIFEST_LEVEL = 2


class TarPacker(BatchPacker):
    """Makes the members of one batch of whole files, folders, links and devices."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._stream = _pieces(work)

    def finish(self) -> SegmentIndex:
        """Close the segment and give its index."""
        self._stream.end()
        text = manifest.pieces_line(self._stream.pieces) + "".join(self.lines)
        return SegmentIndex(
            segment=self.out.name,
            size=self.out.size,
            sha256=self.out.sha256(),
            members=self.members,
            files=self.files,
            bytes_read=self.bytes_read,
            manifest=manifest.pack_lines(text, _MANIFEST_LEVEL) if self.members else b"",
            packed_problems=pack_problems(self.problems),
            pieces=self._stream.pieces,
            lost=dict(self.lost),
            unlinkable=self.unlinkable,
            absent=self.absent,
        )

    def add_file(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Pack a regular file."""
        if entry.size <= WHOLE_LIMIT and self.work.read is os.pread:
            small = open_small(path, WHOLE_LIMIT)
            if small is not None:
                try:
                    if self._small_file(entry, path, name, *small):
                        return
                finally:
                    os.close(small.fd)
        self._any_file(entry, path, name)

    def _small_file(
        self, entry: Entry, path: bytes, name: bytes, fd: int, status: os.stat_result
    ) -> bool:
        """Add a file if it can be read without incident, as most files of most backups can."""
        if may_have_holes(status):
            return False
        attributes = attributes_of(fd)
        size, mode, mtime_ns = status.st_size, status.st_mode, status.st_mtime_ns
        uid, gid = status.st_uid, status.st_gid
        header = member_header(
            name, FILE, mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, size=size,
            user=user_name(uid), group=group_name(gid), attributes=attributes.kept,
        )  # fmt: skip
        head = self._stream.plain
        content = head + len(header)
        if not self._stream.has_room(len(header) + size):
            return False
        space = self._stream.space(size, len(header))
        if not read_whole(fd, space, status):
            return False
        digest = sha256(space)
        self._stream.enclose(header, size)
        self.lines.append(
            manifest.file_line(
                name, size, mtime_ns, status.st_ctime_ns, status.st_ino, mode & 0o7777, uid, gid,
                digest, (head, content),
            )
        )  # fmt: skip
        self.note_replaced(entry, status)
        self._count(entry, path, attributes)
        self.bytes_read += size
        self.work.advance(1, size, path)
        return True

    def _count(
        self, entry: Entry, path: bytes, attributes: Attributes, *, changed: bool = False
    ) -> None:
        """Count a member. What is wrong with a file makes one problem, and it counts once."""
        self.members += 1
        self.lost[LARGE_ATTRIBUTES] += attributes.is_cut
        note = attributes.note(path)
        if changed:
            more = f"; {note.message}" if note else ""
            self.note_changed(path, CHANGED_MESSAGE + more)
        elif note:
            self.problems.append(note)
        # Reports take changed files off this number, and count what is no note as failed.
        if entry.kind != FOLDER and (changed or note is None or note.is_skip):
            self.files += 1

    def _any_file(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Add a file that is large, or sparse, or needs a second look, or can't be read."""
        for attempt in range(1, CHANGED_ATTEMPTS + 1):
            fd, status = open_source(path)
            mark = None
            try:
                if status.st_size > WHOLE_LIMIT:
                    mark = self._stream.mark()
                content = _Content(fd, status, self.work.read)
                is_last = attempt == CHANGED_ATTEMPTS
                changed = self._try_file(entry, path, name, content, mark, keep_changed=is_last)
            except BaseException:
                if mark is not None:
                    self._stream.go_back(mark)
                raise
            finally:
                os.close(fd)
            if not changed or is_last:
                break
        self.note_replaced(entry, content.status)
        self._count(entry, path, content.attributes, changed=changed)
        self.bytes_read += content.got
        # Large files have reported their bytes while they were read.
        self.work.advance(1, content.got if mark is None else 0, path)

    def _try_file(
        self,
        entry: Entry,
        path: bytes,
        name: bytes,
        content: _Content,
        mark: PieceMark | None,
        *,
        keep_changed: bool,
    ) -> bool:
        """Add an open file, and give whether it changed; then it stays only if `keep_changed`.

        Without `mark` its content is held in memory until that is known.
        """
        if mark is None:
            blocks = list(content.blocks(_own_space))
            changed = content.has_changed()
            if changed and not keep_changed:
                return True
            at = self._add_header(entry, name, content)
            for block in blocks:
                self._stream.add(block)
        else:
            at = self._add_header(entry, name, content)
            for block in content.blocks(self._stream.space):
                self._stream.grow(len(block))
                self.piece_done(len(block), path)
            changed = content.has_changed()
            if changed and not keep_changed:
                self._stream.go_back(mark)
                return True
        self._stream.add(padding(content.size))
        meta = member_meta(entry, content.status)
        self.lines.append(
            manifest.record_line(
                name, FILE, content.real_size, meta.mtime_ns, meta.ctime_ns, meta.inode, meta.mode,
                meta.uid, meta.gid, sha256=content.sha256(), changed=changed, at=at,
                sparse=content.data_map,
            )
        )  # fmt: skip
        return changed

    def _add_header(self, entry: Entry, name: bytes, content: _Content) -> tuple[int, int]:
        head = self._stream.plain
        meta = member_meta(entry, content.status)
        attributes = content.attributes.kept
        self._stream.add(file_header(name, meta, content.real_size, attributes, content.data_map))
        content_at = self._stream.plain
        self._stream.add(content.map_block)
        return head, content_at

    def add_link(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Pack a symbolic link."""
        target = read_link(path)
        self.note_replaced(entry, look_if_linked(entry, path))
        self._without_content(entry, path, name, link=target)

    def add_folder(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Pack a folder's own entry."""
        self._without_content(entry, path, name)

    def add_special(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Pack a FIFO or device; devices' numbers are looked up here."""
        status = look_at(path, TYPE_BITS[entry.kind])
        self.note_replaced(entry, status)
        device = None
        if entry.kind in (CHAR_DEVICE, BLOCK_DEVICE):
            device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        self._without_content(entry, path, name, device=device)

    def add_hard_link(self, entry: Entry, path: bytes, name: bytes, first: bytes) -> None:
        """Pack another name of the member `first`."""
        self._without_content(entry, path, name, link=first, kind=HARD_LINK)

    def _without_content(
        self,
        entry: Entry,
        path: bytes,
        name: bytes,
        *,
        kind: str = "",
        link: bytes = b"",
        device: tuple[int, int] | None = None,
    ) -> None:
        kind = kind or entry.kind
        meta = member_meta(entry, None)
        attributes = _NONE if kind == HARD_LINK else attributes_of(path)
        head = self._stream.plain
        self._stream.add(
            member_header(
                name, kind, mode=meta.mode, uid=meta.uid, gid=meta.gid, mtime_ns=meta.mtime_ns,
                user=user_name(meta.uid), group=group_name(meta.gid), link=link,
                device=device or (0, 0), attributes=attributes.kept,
            )
        )  # fmt: skip
        self.lines.append(
            manifest.record_line(
                name, kind, 0, meta.mtime_ns, meta.ctime_ns, meta.inode, meta.mode, meta.uid,
                meta.gid, link=link if kind in (LINK, HARD_LINK) else None, device=device,
                dev=entry.device if kind == FOLDER else None, at=(head, self._stream.plain),
            )
        )  # fmt: skip
        self._count(entry, path, attributes)
        if kind != FOLDER:
            self.work.advance(1, 0, path)


class _Content:
    """An open file's content: always as many bytes as its status promised.

    `size` counts the bytes in the archive, `got` those that were read; the rest are zeros.
    """

    def __init__(self, fd: int, status: os.stat_result, read: Read) -> None:
        self.status = status
        self.real_size: int = status.st_size
        self.attributes = attributes_of(fd)
        self.data_map = data_runs(fd, self.real_size) if may_have_holes(status) else None
        self._runs = [(0, self.real_size)] if self.data_map is None else self.data_map
        self.size = data_size(self._runs)
        if self.data_map is not None:
            self.map_block = sparse_map_block(self.data_map, self.real_size)
        else:
            self.map_block = b""
        self.got = 0
        self._fd = fd
        self._read = read
        self._sha = hashlib.sha256()

    def blocks(self, space: Space) -> Iterator[memoryview]:
        """Yield the data in blocks, each where `space` said. Raises SourceError (io_error)."""
        for block in exactly(self._fd, self._runs, self._read, space):
            self._sha.update(block.data)
            self.got += block.got
            yield block.data

    def has_changed(self) -> bool:
        """Whether the file moved while it was read."""
        return self.got < self.size or state_of(look_again(self._fd)) != state_of(self.status)

    def sha256(self) -> str:
        """Give the digest of the data, without the map."""
        return self._sha.hexdigest()


class _Block(NamedTuple):
    data: memoryview
    got: int


def exactly(fd: int, runs: Sequence[Run], read: Read, space: Space) -> Iterator[_Block]:
    """Yield all bytes of `runs`; where the file ends early, zeros. Raises SourceError.

    Each block is where `space` said, which is asked for a block at a time.
    """
    fill = filling(read)
    for start, length in runs:
        at, left, ended = start, length, False
        while left:
            block = space(min(left, _READ_BYTES))
            got = 0 if ended else fill(fd, block, at)
            if got < len(block):
                ended = True
                block[got:] = bytes(len(block) - got)
            yield _Block(block, got)
            at += len(block)
            left -= len(block)


def _own_space(length: int) -> memoryview:
    return memoryview(bytearray(length))


class Attributes(NamedTuple):
    """A file's extended attributes, and what can't be kept of them."""

    kept: dict[bytes, bytes]
    is_cut: bool = False
    failure: SourceError | None = None

    def note(self, path: bytes) -> Problem | None:
        """Give what the file `path` is flagged with."""
        if self.is_cut:
            message = "stored without those of its extended attributes that are too large for tar"
            return Problem(os.fsdecode(path), problems.ATTRIBUTES, message)
        if self.failure is None:
            return None
        message = f"stored without its extended attributes: {self.failure}"
        return Problem(os.fsdecode(path), self.failure.code, message)


_NONE: Final = Attributes({})


def attributes_of(target: bytes | int) -> Attributes:
    """Read the extended attributes of an open file, or of what is not to be opened."""
    try:
        found = read_attributes(target)
    except SourceError as error:
        # A folder, say, that is kept as it was listed.
        return _NONE if error.code == problems.VANISHED else Attributes({}, failure=error)
    if not found:
        return _NONE
    kept, too_large = attributes_that_fit(found)
    return Attributes(kept, bool(too_large))


def file_header(
    name: bytes,
    meta: Meta,
    size: int,
    attributes: dict[bytes, bytes],
    data_map: Sequence[Run] | None,
) -> bytes:
    """Give the header of a regular file of `size` bytes, sparse if there is a map."""
    return member_header(
        name, FILE, mode=meta.mode, uid=meta.uid, gid=meta.gid, mtime_ns=meta.mtime_ns, size=size,
        user=user_name(meta.uid), group=group_name(meta.gid), attributes=attributes,
        data_map=data_map,
    )  # fmt: skip


def _pieces(work: Work) -> PieceWriter:
    return PieceWriter(
        work.out,
        codec(work.job.format, work.job.level),
        max(WHOLE_LIMIT, _READ_BYTES) + _HEADER_BYTES,
    )


def pack_tar_part(batch: Batch, work: Work) -> SegmentIndex:
    """Pack one part of a large file; the first one begins with the header, the last one pads.

    Every part has the planned length, so that the header holds whatever becomes of the file.
    """
    (entry,) = batch.entries
    part = batch.part
    assert part is not None
    root = work.job.roots[entry.root]
    path, name = root.disk_path(entry.path), root.member_name(entry.path)
    stream = _pieces(work)
    found: list[Problem] = []
    result = None
    sha, got, head_size = hashlib.sha256(), 0, 0
    attributes = _NONE
    try:
        check_name(name)
        fd, before = open_source(path)
        try:
            meta = member_meta(entry, before)
            if part.number == 0:
                attributes = attributes_of(fd)
                stream.add(file_header(name, meta, entry.size, attributes.kept, part.data_map))
                head_size = stream.plain
                if part.data_map is not None:
                    stream.add(sparse_map_block(part.data_map, entry.size))
            for block in exactly(fd, part.runs, work.read, stream.space):
                sha.update(block.data)
                stream.grow(len(block.data))
                got += block.got
                work.advance(0, len(block.data), path)
                work.stop_if_asked()
            after = look_again(fd)
        finally:
            os.close(fd)
        if part.number == part.count - 1:
            stream.add(padding(part.total))
        stream.end()
        result = PartResult(
            part.length, work.out.size, 0, sha.hexdigest(), state_of(before), state_of(after),
            meta, before.st_dev, head_size, part.data_map,
        )  # fmt: skip
        if note := attributes.note(path):
            found.append(note)
    except SourceError as error:
        found.append(Problem(os.fsdecode(path), error.code, str(error)))
    if part.number == part.count - 1:
        work.advance(1, 0, path)
    return SegmentIndex(
        segment=work.out.name, size=work.out.size, sha256=work.out.sha256(), bytes_read=got,
        packed_problems=pack_problems(found), part=result, pieces=stream.pieces,
        lost={LARGE_ATTRIBUTES: 1} if attributes.is_cut else {},
    )  # fmt: skip
