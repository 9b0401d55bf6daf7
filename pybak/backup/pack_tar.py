"""Pack a batch into a segment of a tar archive, compressed or not.

A segment's members are a run of the tar stream: headers, contents, padding. It is cut into pieces,
each compressed by itself (`pybak.formats.streams`), so that segments join and a reader can begin
anywhere. Parts of large files are `pack_tar_part`'s.
"""

from __future__ import annotations

import os

from pybak.backup.owners import group_name, user_name
from pybak.backup.packing import (
    CHANGED_ATTEMPTS,
    CHANGED_MESSAGE,
    TYPE_BITS,
    BatchPacker,
    Work,
    look_if_linked,
    member_meta,
    sha256,
)
from pybak.backup.read_source import look_at, read_link, read_whole
from pybak.backup.segments import SegmentIndex
from pybak.backup.tar_content import READ_BYTES, Content
from pybak.backup.tar_entries import (
    LARGE_ATTRIBUTES,
    NO_ATTRIBUTES,
    Attributes,
    attributes_of,
    file_header,
)
from pybak.backup.tar_pieces import PieceMark, PieceWriter
from pybak.entries import BLOCK_DEVICE, CHAR_DEVICE, FILE, FOLDER, HARD_LINK, LINK, Entry
from pybak.formats import manifest
from pybak.formats.deflate import WHOLE_LIMIT
from pybak.formats.sparse import may_have_holes
from pybak.formats.streams import codec
from pybak.formats.tar_records import member_header, padding
from pybak.problems import pack_problems

_HEADER_BYTES = 64 << 10
"""Room for a header in front of a file that is read at once."""
_MANIFEST_LEVEL = 2


class TarPacker(BatchPacker):
    """Makes the members of one batch of whole files, folders, links and devices."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._stream = piece_writer(work)

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
        small = self.open_small(entry, path)
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
            fd, status = self.open_entry(entry)
            mark = None
            try:
                if status.st_size > WHOLE_LIMIT:
                    mark = self._stream.mark()
                content = Content(fd, status, self.work.read)
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
        content: Content,
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

    def _add_header(self, entry: Entry, name: bytes, content: Content) -> tuple[int, int]:
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
        attributes = NO_ATTRIBUTES if kind == HARD_LINK else attributes_of(path)
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


def _own_space(length: int) -> memoryview:
    return memoryview(bytearray(length))


def piece_writer(work: Work) -> PieceWriter:
    """Give what cuts and compresses the stream of a segment."""
    return PieceWriter(
        work.out,
        codec(work.job.format, work.job.level),
        max(WHOLE_LIMIT, READ_BYTES) + _HEADER_BYTES,
    )
