"""Turn one batch of files into one segment of a ZIP file, and the index that goes with it.

A segment is finished bytes: local headers and data, laid end to end. Its index holds the same
members' central directory records (offsets from the segment's start), their manifest lines, and
what could not be read. A part of a large file makes a segment of bare deflate pieces; its header
is written when all parts are there (`pybak.backup.assemble`).

A segment has a name of its own, which its index tells, and the index appears at once when the
segment is complete: running a batch twice, even at the same time, is harmless, for the first
index stays and whoever comes later drops its segment.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from pybak import entries, problems, staging
from pybak.backup.plan import PART_BYTES, Batch, Job, index_path, read_batch, read_job, segment_path
from pybak.backup.read_source import (
    Read,
    State,
    look_again,
    open_source,
    read_link,
    read_pieces,
    read_range,
    read_small,
    state_of,
)
from pybak.entries import Entry, Root
from pybak.errors import Interrupted, SourceError, StorageError
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
from pybak.problems import Problem

Advance = Callable[[int, int, bytes], None]
"""Called with files and bytes done since the last call, and the path being read."""

_WRITE_BYTES: Final = 1 << 20
_MOST_GROWN: Final = 2 * PART_BYTES
"""What is taken of a file that has grown since it was planned as a small one."""
_LOOK_EVERY_BYTES = 4 << 20
_WORTH_A_SAMPLE = 128 << 10
_WORTH_A_TRY = 16  # bytes; nothing shorter gets smaller
_CHANGED_ATTEMPTS = 2


class Meta(msgspec.Struct, frozen=True, gc=False):
    """A member's metadata; `mode` is permission bits, `full_mode` has the file type too."""

    mtime_ns: int
    ctime_ns: int
    inode: int
    mode: int
    full_mode: int
    uid: int
    gid: int


class PartResult(msgspec.Struct, frozen=True, array_like=True):
    """What one part of a large file turned out to be.

    `size` is bytes read, `stored_size` bytes of deflate. Parts fit together when `before` and
    `after` (the file's state around the read) are all the same. `meta` is of the open file.
    """

    size: int
    stored_size: int
    crc: int
    sha256: str
    before: State
    after: State
    meta: Meta


class SegmentIndex(msgspec.Struct, frozen=True, array_like=True):
    """All that the archive needs to know of a segment; `segment` is its file's name."""

    segment: str
    size: int
    sha256: str
    members: int
    files: int
    bytes_read: int
    central: bytes
    manifest: bytes
    problems: list[Problem]
    part: PartResult | None


def read_index(folder: Path, number: int) -> SegmentIndex:
    """Read the index of a finished segment."""
    return msgspec.msgpack.decode(index_path(folder, number).read_bytes(), type=SegmentIndex)


def compress_batches(
    folder: Path,
    numbers: Iterable[int],
    *,
    advance: Advance = lambda _files, _bytes, _path: None,
    read: Read = os.pread,
) -> int:
    """Compress the batches `numbers` of the staging folder; give how many were done.

    A batch whose segment is there already is left alone.
    Raises Interrupted once a cancel was requested, StorageError if staging can't be written.
    """
    job = read_job(folder)
    done = 0
    for number in numbers:
        _stop_if_asked(folder)
        if not index_path(folder, number).exists():
            compress_batch(folder, number, job, advance=advance, read=read)
        done += 1
    return done


def _stop_if_asked(folder: Path) -> None:
    if staging.is_cancelled(folder):
        raise Interrupted("stopped on request")


def compress_batch(
    folder: Path, number: int, job: Job, *, advance: Advance, read: Read = os.pread
) -> None:
    """Compress one batch into its segment and index; does nothing where an index is by then."""
    batch = read_batch(folder, number, job.parts)
    segment = segment_path(folder, f"{number:07d}.{os.urandom(8).hex()}")
    try:
        try:
            with _SegmentWriter(segment) as out:
                if batch.part is not None:
                    index = _compress_part(batch, folder, job, out, advance, read)
                else:
                    index = _BatchCompressor(folder, job, out, advance, read).run(batch)
        except BaseException:
            segment.unlink(missing_ok=True)
            raise
        if not _publish_index(folder, number, index):
            segment.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder.parent}: {staging.reason(error)}; free some space or choose another --staging"
        ) from error


def _publish_index(folder: Path, number: int, index: SegmentIndex) -> bool:
    """Give a complete index its name; False when the batch has one by then."""
    path = index_path(folder, number)
    temporary = segment_path(folder, f"{index.segment}.tmp")
    try:
        temporary.write_bytes(msgspec.msgpack.encode(index))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in staging.NO_HARD_LINKS:
                raise
            # Replacing an index is harmless as well: it only orphans the other's segment.
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


class _SegmentWriter:
    """Collects pieces, and hashes and writes them a MiB at a time."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._sha = hashlib.sha256()
        self._pieces: list[bytes] = []
        self._pending = 0
        self.size = 0

    def add(self, *pieces: bytes) -> None:
        self._pieces += pieces
        length = sum(map(len, pieces))
        self.size += length
        self._pending += length
        if self._pending >= _WRITE_BYTES:
            self._flush()

    def add_two(self, first: bytes, second: bytes) -> None:
        """Do as `add` does, a little faster: this is called for every small file."""
        self._pieces.append(first)
        self._pieces.append(second)
        length = len(first) + len(second)
        self.size += length
        self._pending += length
        if self._pending >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        block = b"".join(self._pieces)
        self._pieces.clear()
        self._pending = 0
        self._sha.update(block)
        view = memoryview(block)
        while view:
            view = view[os.write(self._fd, view) :]

    def sha256(self) -> str:
        """Give the digest of all that was added."""
        self._flush()
        return self._sha.hexdigest()

    def __enter__(self) -> _SegmentWriter:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class _BatchCompressor:
    """Makes the members of one batch of whole files, folders and links."""

    def __init__(
        self, folder: Path, job: Job, out: _SegmentWriter, advance: Advance, read: Read
    ) -> None:
        self._folder = folder
        self._roots = job.roots
        self._engine = deflater(job.level)
        self._out = out
        self._advance = advance
        self._read = read
        self._central: list[bytes] = []
        self._lines: list[str] = []
        self._problems: list[Problem] = []
        self._files = 0
        self._bytes_read = 0

    def run(self, batch: Batch) -> SegmentIndex:
        since_look = 0
        for entry in batch.entries:
            root = self._roots[entry.root]
            path = root.disk_path(entry.path)
            name = root.member_name(entry.path)
            try:
                check_name(name)
                if entry.kind == entries.FILE:
                    self._file(entry, path, name)
                elif entry.kind == entries.LINK:
                    self._link(entry, path, name)
                elif name:
                    self._folder_entry(entry, name)
            except SourceError as error:
                self._problems.append(Problem(os.fsdecode(path), error.code, str(error)))
                self._advance(1, entry.size, path)
            since_look += entry.size + 50_000
            if since_look > _LOOK_EVERY_BYTES:
                since_look = 0
                _stop_if_asked(self._folder)
        return SegmentIndex(
            segment=self._out.name,
            size=self._out.size,
            sha256=self._out.sha256(),
            members=len(self._central),
            files=self._files,
            bytes_read=self._bytes_read,
            central=b"".join(self._central),
            manifest=manifest.pack_lines("".join(self._lines), self._engine.level)
            if self._lines
            else b"",
            problems=self._problems,
            part=None,
        )

    def _file(self, entry: Entry, path: bytes, name: bytes) -> None:
        if entry.size <= WHOLE_LIMIT and self._read is os.pread:
            small = read_small(path, WHOLE_LIMIT)
            if small is not None:
                self._small_file(path, name, *small)
                return
        self._any_file(entry, path, name)

    def _small_file(self, path: bytes, name: bytes, data: bytes, status: os.stat_result) -> None:
        """Add a file that was read without incident; most files of most backups come here."""
        size, crc = len(data), crc32(data)
        sha256 = hashlib.sha256(data).hexdigest()
        method, body = _pack(data, self._engine)
        mode, uid, gid, mtime_ns = status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns
        header, central = zr.small_member(
            name, method, crc, len(body), size, self._out.size, mtime_ns, uid, gid, mode
        )
        self._out.add_two(header, body)
        self._central.append(central)
        self._lines.append(
            manifest.file_line(
                name, size, mtime_ns, status.st_ctime_ns, status.st_ino, mode & 0o7777, uid, gid,
                sha256,
            )
        )  # fmt: skip
        self._files += 1
        self._bytes_read += size
        self._advance(1, size, path)

    def _any_file(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Add a file that is large, or needs a second look, or can't be read."""
        for attempt in range(1, _CHANGED_ATTEMPTS + 1):
            fd, status = open_source(path)
            # Planned for one batch, it is kept in memory whatever became of it.
            length = min(status.st_size, max(entry.size, _MOST_GROWN))
            try:
                if length <= WHOLE_LIMIT:
                    content = _whole(fd, length, self._engine, self._read)
                else:
                    content = _in_pieces(
                        fd, length, self._engine, self._read,
                        lambda count: self._piece_done(count, path),
                    )  # fmt: skip
                after = look_again(fd)
            finally:
                os.close(fd)
            changed = state_of(after) != state_of(status) or content.size != status.st_size
            if not changed or attempt == _CHANGED_ATTEMPTS:
                break
        if changed:
            message = "changed while it was read; what was read is in the archive"
            self._problems.append(Problem(os.fsdecode(path), problems.CHANGED, message))
        self._files += 1
        self._bytes_read += content.size
        self._member(
            entry, name, status, content.method, content.crc, content.size, content.pieces,
            sha256=content.sha256, changed=changed,
        )  # fmt: skip
        # Large files have reported their bytes while they were read.
        self._advance(1, content.size if status.st_size <= WHOLE_LIMIT else 0, path)

    def _piece_done(self, size_bytes: int, path: bytes) -> None:
        self._advance(0, size_bytes, path)
        _stop_if_asked(self._folder)

    def _link(self, entry: Entry, path: bytes, name: bytes) -> None:
        target = read_link(path)
        self._files += 1
        self._member(
            entry, name, None, zr.STORED, crc32(target), len(target), (target,), link=target
        )
        self._advance(1, 0, path)

    def _folder_entry(self, entry: Entry, name: bytes) -> None:
        self._member(entry, name + b"/", None, zr.STORED, 0, 0, ())

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
    ) -> None:
        """Write a member whose content is at hand; `status` is newer than `entry` if given."""
        meta = member_meta(entry, status)
        header, central = zr.small_member(
            name, method, crc, sum(map(len, pieces)), size, self._out.size, meta.mtime_ns,
            meta.uid, meta.gid, meta.full_mode,
        )  # fmt: skip
        self._out.add(header, *pieces)
        self._central.append(central)
        self._lines.append(
            manifest.record_line(
                name.rstrip(b"/"), entry.kind, size, meta.mtime_ns, meta.ctime_ns, meta.inode,
                meta.mode, meta.uid, meta.gid, sha256=sha256, link=link, changed=changed,
            )
        )  # fmt: skip


def check_name(name: bytes) -> None:
    """Raise SourceError (unreadable) if a ZIP file can't hold a member of this name."""
    if len(name) >= zr.MAX_NAME:  # a folder's gets a slash
        raise SourceError("its name is too long for a ZIP file", problems.UNREADABLE)
    if name == manifest.MEMBER_NAME or name.startswith(manifest.MEMBER_NAME + b"/"):
        raise SourceError("its name is reserved for the manifest; rename it", problems.UNREADABLE)


_TYPE_BITS = {
    entries.FILE: stat.S_IFREG,
    entries.FOLDER: stat.S_IFDIR,
    entries.LINK: stat.S_IFLNK,
}


def member_meta(entry: Entry, status: os.stat_result | None) -> Meta:
    """Take metadata from the open file where there is one, else from the walk."""
    if status is None:
        return Meta(
            entry.mtime_ns, entry.ctime_ns, entry.inode, entry.mode,
            entry.mode | _TYPE_BITS[entry.kind], entry.uid, entry.gid,
        )  # fmt: skip
    return Meta(
        status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode & 0o7777,
        status.st_mode, status.st_uid, status.st_gid,
    )  # fmt: skip


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


def _compress_part(
    batch: Batch, folder: Path, job: Job, out: _SegmentWriter, advance: Advance, read: Read
) -> SegmentIndex:
    """Compress one part of a large file into bare deflate pieces."""
    (entry,) = batch.entries
    part = batch.part
    assert part is not None
    root = job.roots[entry.root]
    path = root.disk_path(entry.path)
    engine = deflater(job.level)
    packer = _Packer(engine)
    found: list[Problem] = []
    result = None
    try:
        check_name(root.member_name(entry.path))
        fd, before = open_source(path)
        try:
            for data in read_pieces(fd, part.offset, part.length, engine.piece_bytes, read):
                out.add(packer.pack(data))
                advance(0, len(data), path)
                _stop_if_asked(folder)
            after = look_again(fd)
        finally:
            os.close(fd)
        result = PartResult(
            packer.size, out.size, packer.crc, packer.sha256(), state_of(before), state_of(after),
            member_meta(entry, before),
        )  # fmt: skip
    except SourceError as error:
        found.append(Problem(os.fsdecode(path), error.code, str(error)))
    if part.number == part.count - 1:
        advance(1, 0, path)
    return SegmentIndex(
        segment=out.name, size=out.size, sha256=out.sha256(), members=0, files=0,
        bytes_read=packer.size, central=b"", manifest=b"", problems=found, part=result,
    )  # fmt: skip


def source_path(roots: list[Root], entry: Entry) -> str:
    """Give the entry's path on disk as text for people."""
    return os.fsdecode(roots[entry.root].disk_path(entry.path))
