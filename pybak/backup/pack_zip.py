"""Pack a batch into a segment of a ZIP file.

Members are finished bytes: local header and data. The index has their central directory records,
with offsets from the segment's start. A part of a large file makes a segment of bare deflate
pieces; its header is written when all parts are there (`pybak.backup.assemble_zip`).

With a password, every member that has content is encrypted (WinZip AE-2, `pybak.aes`), but for
large ones: their cipher runs through all parts, so it is done when they are joined.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from pybak import aes, problems
from pybak.attributes import read_attributes
from pybak.backup.batches import Batch
from pybak.backup.open_entry import open_entry
from pybak.backup.packing import (
    CHANGED_ATTEMPTS,
    MOST_GROWN,
    BatchPacker,
    Work,
    check_name,
    member_meta,
)
from pybak.backup.read_source import (
    Read,
    look_again,
    read_link,
    read_pieces,
    read_range,
    read_small,
    state_of,
)
from pybak.backup.segments import PartResult, SegmentIndex
from pybak.entries import Entry
from pybak.errors import SourceError
from pybak.formats import manifest
from pybak.formats import zip_records as zr
from pybak.formats.deflate import (
    END,
    WHOLE_LIMIT,
    Deflater,
    crc32,
    deflater,
    looks_incompressible,
    stored_blocks,
)
from pybak.formats.sparse import Run, data_runs, may_have_holes
from pybak.problems import Problem, pack_problems

HARD_LINKS: Final = "hard_links"
ATTRIBUTES: Final = "attributes"
HOLES: Final = "holes"
DATES: Final = "dates"
"""What a ZIP file can't keep; keys of `SegmentIndex.lost`."""

_WORTH_A_SAMPLE = 128 << 10
_WORTH_A_TRY = 16  # bytes; nothing shorter gets smaller


class ZipPacker(BatchPacker):
    """Makes the members of one batch of whole files, folders and links."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._engine = deflater(work.job.level)
        self._central: list[bytes] = []

    def finish(self) -> SegmentIndex:
        """Close the segment and give its index."""
        return SegmentIndex(
            segment=self.out.name,
            size=self.out.size,
            sha256=self.out.sha256(),
            members=len(self._central),
            files=self.files,
            bytes_read=self.bytes_read,
            central=b"".join(self._central),
            manifest=manifest.pack_lines("".join(self.lines), self._engine.level)
            if self.lines
            else b"",
            packed_problems=pack_problems(self.problems),
            lost=dict(self.lost),
            absent=self.absent,
        )

    def add_file(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Pack a regular file."""
        _check_length(name)
        small = self.open_small(entry, path)
        if small is not None:
            try:
                if self._small_file(path, name, *small):
                    return
            finally:
                os.close(small.fd)
        self._any_file(entry, path, name)

    def _small_file(self, path: bytes, name: bytes, fd: int, status: os.stat_result) -> bool:
        """Add a file if it can be read without incident, as most files of most backups can."""
        if may_have_holes(status) or (data := read_small(fd, status)) is None:
            return False
        size, crc = len(data), crc32(data)
        sha256 = hashlib.sha256(data).hexdigest()
        method, body = _pack(data, self._engine)
        mode, uid, gid, mtime_ns = status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns
        encrypted = self.work.password is not None and size > 0
        if encrypted:
            body = self._encrypt(body)
        header, central = zr.small_member(
            name, method, crc, len(body), size, self.out.size, mtime_ns, uid, gid, mode,
            encrypted=encrypted,
        )  # fmt: skip
        self.out.add_two(header, body)
        self._central.append(central)
        self.lines.append(
            manifest.file_line(
                name, size, mtime_ns, status.st_ctime_ns, status.st_ino, mode & 0o7777, uid, gid,
                sha256,
            )
        )  # fmt: skip
        self.files += 1
        self.bytes_read += size
        self._count_lost(fd, status.st_nlink, mtime_ns)
        self.work.advance(1, size, path)
        return True

    def _encrypt(self, *pieces: bytes) -> bytes:
        assert self.work.password is not None
        return aes.encrypt(self.work.password, b"".join(pieces))

    def _any_file(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Add a file that is large, or sparse, or needs a second look, or can't be read."""
        read = self.work.read
        for attempt in range(1, CHANGED_ATTEMPTS + 1):
            fd, status = self.open_entry(entry)
            # Planned for one batch, it is kept in memory whatever became of it.
            length = min(status.st_size, max(entry.size, MOST_GROWN))
            try:
                holes = may_have_holes(status) and data_runs(fd, length) is not None
                if length <= WHOLE_LIMIT:
                    content = _whole(fd, length, self._engine, read)
                else:
                    content = _in_pieces(
                        fd, length, self._engine, read, lambda count: self.piece_done(count, path)
                    )
                after = look_again(fd)
            finally:
                os.close(fd)
            changed = state_of(after) != state_of(status) or content.size != status.st_size
            if not changed or attempt == CHANGED_ATTEMPTS:
                break
        if status.st_size > length:
            taken = f"the first {length >> 20} MiB are in the archive"
            self.note_changed(path, f"grew since it was listed; {taken}")
        elif changed:
            self.note_changed(path)
        self.files += 1
        self.bytes_read += content.size
        self._count_lost(path, status.st_nlink, status.st_mtime_ns)
        self.lost[HOLES] += holes
        self._member(
            entry, name, status, content.method, content.crc, content.size, content.pieces,
            sha256=content.sha256, changed=changed, holes=holes,
        )  # fmt: skip
        # Large files have reported their bytes while they were read.
        self.work.advance(1, content.size if status.st_size <= WHOLE_LIMIT else 0, path)

    def add_link(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Pack a symbolic link: its target is the member's content."""
        _check_length(name)
        target = read_link(path)
        self.files += 1
        self._member(
            entry, name, None, zr.STORED, crc32(target), len(target), (target,), link=target
        )
        self._count_lost(path, entry.links, entry.mtime_ns)
        self.work.advance(1, 0, path)

    def add_folder(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Pack a folder's own entry."""
        _check_length(name)
        self._member(entry, name + b"/", None, zr.STORED, 0, 0, (), dev=entry.device)
        self._count_lost(path, 1, entry.mtime_ns)

    def _count_lost(self, target: bytes | int, links: int, mtime_ns: int) -> None:
        if links > 1:
            self.lost[HARD_LINKS] += 1
        if _has_attributes(target):
            self.lost[ATTRIBUTES] += 1
        if not zr.fits_dos(mtime_ns // 1_000_000_000):
            self.lost[DATES] += 1

    def _member(
        self,
        entry: Entry,
        name: bytes,
        status: os.stat_result | None,
        method: int,
        crc: int,
        size: int,
        pieces: tuple[bytes, ...],
        *,
        sha256: str | None = None,
        link: bytes | None = None,
        changed: bool = False,
        holes: bool = False,
        dev: int | None = None,
    ) -> None:
        """Write a member whose content is at hand; `status` is newer than `entry` if given."""
        meta = member_meta(entry, status)
        encrypted = self.work.password is not None and size > 0
        if encrypted:
            pieces = (self._encrypt(*pieces),)
        header, central = zr.small_member(
            name, method, crc, sum(map(len, pieces)), size, self.out.size, meta.mtime_ns,
            meta.uid, meta.gid, meta.full_mode, encrypted=encrypted,
        )  # fmt: skip
        self.out.add(header, *pieces)
        self._central.append(central)
        self.lines.append(
            manifest.record_line(
                name.rstrip(b"/"), entry.kind, size, meta.mtime_ns, meta.ctime_ns, meta.inode,
                meta.mode, meta.uid, meta.gid, sha256=sha256, link=link, changed=changed,
                holes=holes, dev=dev,
            )
        )  # fmt: skip


def _check_length(name: bytes) -> None:
    """Raise SourceError (unreadable) if a ZIP file can't hold a member of this name."""
    if len(name) >= zr.MAX_NAME:  # a folder's gets a slash
        raise SourceError("its name is too long for a ZIP file", problems.UNREADABLE)


class _Content(msgspec.Struct, frozen=True, gc=False):
    """A file's content as it goes into the archive."""

    size: int
    crc: int
    sha256: str
    method: int
    pieces: tuple[bytes, ...]


def _whole(fd: int, size: int, engine: Deflater, read: Read) -> _Content:
    """Compress a small file in one call; store it if that is not smaller."""
    data = read_range(fd, size, 0, read) if size else b""
    method, body = _pack(data, engine)
    sha256 = hashlib.sha256(data).hexdigest()
    return _Content(len(data), crc32(data), sha256, method, (body,))


def _pack(data: bytes, engine: Deflater) -> tuple[int, bytes]:
    """Compress in one call; give method and bytes. What does not get smaller is stored."""
    if engine.slow and len(data) >= _WORTH_A_SAMPLE and looks_incompressible(data):
        return zr.STORED, data
    if len(data) >= _WORTH_A_TRY:
        packed = engine.whole(data)
        if len(packed) < len(data):
            return zr.DEFLATED, packed
    return zr.STORED, data


def _in_pieces(
    fd: int, size: int, engine: Deflater, read: Read, advance: Callable[[int], None]
) -> _Content:
    """Compress a file of middle size piece by piece; only the packed form stays in memory."""
    packer = _Packer(engine)
    pieces = []
    for data in read_pieces(fd, 0, size, engine.piece_bytes, read):
        pieces.append(packer.pack(data))
        advance(len(data))
    return _Content(packer.size, packer.crc, packer.sha256(), zr.DEFLATED, (*pieces, END))


class _Packer:
    """Packs pieces of one file, hashing what goes in."""

    def __init__(self, engine: Deflater) -> None:
        self._engine = engine
        self._sha = hashlib.sha256()
        self._hopeless = False
        self.size = 0
        self.crc = 0

    def pack(self, data: bytes) -> bytes:
        self.size += len(data)
        self.crc = crc32(data, self.crc)
        self._sha.update(data)
        # Where one piece did not compress the next may not either: look before the full try.
        if (self._hopeless or self._engine.slow) and looks_incompressible(data):
            return stored_blocks(data)
        packed = self._engine.piece(data)
        self._hopeless = len(packed) >= len(data)
        return stored_blocks(data) if self._hopeless else packed

    def sha256(self) -> str:
        return self._sha.hexdigest()


def read_runs(fd: int, runs: list[Run], piece_bytes: int, read: Read) -> Iterator[bytes]:
    """Yield what lies in `runs` in pieces; ends early where the file does."""
    for start, length in runs:
        yield from read_pieces(fd, start, length, piece_bytes, read)


def pack_zip_part(batch: Batch, work: Work) -> SegmentIndex:
    """Compress one part of a large file into bare deflate pieces."""
    (entry,) = batch.entries
    part = batch.part
    assert part is not None
    root = work.job.roots[entry.root]
    path = root.disk_path(entry.path)
    engine = deflater(work.job.level)
    packer = _Packer(engine)
    found: list[Problem] = []
    lost: dict[str, int] = {}
    result = None
    try:
        name = root.member_name(entry.path)
        check_name(name)
        _check_length(name)
        fd, before = open_entry(root, entry)
        try:
            if part.number == 0:
                lost = _lost_of_large(fd, path, before)
            for data in read_runs(fd, part.runs, engine.piece_bytes, work.read):
                work.out.add(packer.pack(data))
                work.advance(0, len(data), path)
                work.stop_if_asked()
            after = look_again(fd)
        finally:
            os.close(fd)
        result = PartResult(
            packer.size, work.out.size, packer.crc, packer.sha256(), state_of(before),
            state_of(after), member_meta(entry, before), before.st_dev,
        )  # fmt: skip
    except SourceError as error:
        found.append(Problem(os.fsdecode(path), error.code, str(error)))
    if part.number == part.count - 1:
        work.advance(1, 0, path)
    return SegmentIndex(
        segment=work.out.name, size=work.out.size, sha256=work.out.sha256(),
        bytes_read=packer.size, packed_problems=pack_problems(found), part=result, lost=lost,
    )  # fmt: skip


def _lost_of_large(fd: int, path: bytes, status: os.stat_result) -> dict[str, int]:
    found = {
        HARD_LINKS: status.st_nlink > 1,
        ATTRIBUTES: _has_attributes(path),
        HOLES: may_have_holes(status) and data_runs(fd, status.st_size) is not None,
        DATES: not zr.fits_dos(status.st_mtime_ns // 1_000_000_000),
    }
    return {what: 1 for what, is_lost in found.items() if is_lost}


def _has_attributes(target: bytes | int) -> bool:
    """Whether a file has extended attributes or ACLs that are worth keeping."""
    try:
        return bool(read_attributes(target))
    except SourceError:
        return False
