"""Lay finished segments end to end into a ZIP file while workers still make the rest.

Segments come in the order of the plan. Each is copied in and deleted, so staging stays small.
The parts of a large file are joined into one deflate stream; its local header gets a reserved
place and is written when the last part is in. A large file that moved between its parts is made
once more before anything is laid behind it. What ends the archive (manifest, central directory,
end records) is written by `finish`.

All that is written is hashed piece by piece as it comes: the digests of its parts cover
every byte of the file in order.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from pybak import entries, problems, staging
from pybak.backup.compress import (
    Meta,
    PartResult,
    SegmentIndex,
    check_name,
    compress_batch,
    member_meta,
    read_index,
    source_path,
)
from pybak.backup.plan import index_path, read_batch, read_job, segment_path
from pybak.entries import Entry
from pybak.errors import ArchiveError, Interrupted, SourceError, StorageError
from pybak.formats import manifest
from pybak.formats import zip_records as zr
from pybak.formats.deflate import END, crc32, crc32_combine
from pybak.problems import Problem
from pybak.volumes.model import VolumePart

_POLL_SECONDS: Final = 0.02
_SYNC_BYTES: Final = 256 << 20
_COPY_BYTES: Final = 64 << 20
# A header made before the sizes are known needs its ZIP64 field if they may reach 4 GiB;
# deflate grows incompressible data by 5 bytes in 65 535.
_MAY_NEED_ZIP64: Final = zr.MAX32 - (1 << 20)


class Assembly(msgspec.Struct, frozen=True):
    """A complete archive under its temporary name. `files` and `bytes_read` are what is in it."""

    path: Path
    size: int
    members: int
    files: int
    bytes_read: int
    parts: tuple[VolumePart, ...]
    problems: tuple[Problem, ...]


class _StoppedError(Exception):
    """No more segments will come."""


class Assembler:
    """Builds one ZIP file at `path` from the segments in `folder`.

    `run` is meant for a thread of its own beside the workers; `finish` is called after it.
    """

    def __init__(self, folder: Path, path: Path) -> None:
        self._folder = folder
        self._job = read_job(folder)
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._storage_error(error) from error
        self._taken = 0  # batches
        self._size = 0
        self._unsynced = 0
        self._parts: list[VolumePart] = []
        self._central: list[bytes] = []
        self._manifest: list[bytes] = []
        self._members = 0
        self._files = 0
        self._bytes_read = 0
        self._problems: list[Problem] = []

    def run(self, stopped: Callable[[], bool]) -> None:
        """Take in all segments in order, waiting for each.

        Returns early when `stopped` says that no more will come, and soon after a cancel was
        requested.
        Raises StorageError when the archive can't be written.
        """
        try:
            while self._taken < self._job.batches:
                self._stop_if_asked()
                self._wait_for(self._taken, stopped)
                if self._taken < self._job.parts:
                    self._take_large(self._taken, stopped)
                else:
                    self._take(self._taken)
                    self._taken += 1
        except (_StoppedError, Interrupted):
            return
        except OSError as error:
            raise self._storage_error(error) from error

    def _stop_if_asked(self) -> None:
        if staging.is_cancelled(self._folder):
            raise _StoppedError

    def _wait_for(self, number: int, stopped: Callable[[], bool]) -> None:
        path = index_path(self._folder, number)
        while not path.exists():
            self._stop_if_asked()
            # Ask first, look again after: what was finished last must not be missed.
            if stopped() and not path.exists():
                raise _StoppedError
            time.sleep(_POLL_SECONDS)

    def _take(self, number: int) -> None:
        """Lay one segment of whole members behind what is there."""
        index = read_index(self._folder, number)
        self._central.append(zr.shift_central_records(index.central, self._size))
        self._manifest.append(index.manifest)
        self._members += index.members
        self._files += index.files
        self._bytes_read += index.bytes_read
        self._problems += index.problems
        self._append_segment(index)

    def _take_large(self, first: int, stopped: Callable[[], bool]) -> None:
        """Join the parts of the large file that starts with batch `first`."""
        batch = read_batch(self._folder, first, self._job.parts)
        (entry,) = batch.entries
        assert batch.part is not None
        numbers = range(first, first + batch.part.count)
        for folder in batch.folders:
            self._add_folder(folder)
        results = self._join(entry, numbers, stopped, keep_changed=False)
        if results is not None and _moved(results):
            self._forget(numbers)
            for number in numbers:
                compress_batch(
                    self._folder, number, self._job, advance=lambda _files, _bytes, _path: None
                )
            results = self._join(entry, numbers, stopped, keep_changed=True)
        if results is not None:
            self._members += 1
            self._files += 1
            self._bytes_read += sum(result.size for result in results)
        self._taken += len(numbers)

    def _add_folder(self, entry: Entry) -> None:
        """Lay a folder's own entry behind what is there."""
        name = self._job.roots[entry.root].member_name(entry.path)
        if not name:
            return
        try:
            check_name(name)
        except SourceError as error:
            path = source_path(self._job.roots, entry)
            self._problems.append(Problem(path, error.code, str(error)))
            return
        meta = member_meta(entry, None)
        header, central = zr.small_member(
            name + b"/", zr.STORED, 0, 0, 0, 0, meta.mtime_ns, meta.uid, meta.gid, meta.full_mode
        )
        self._central.append(zr.shift_central_records(central, self._size))
        line = manifest.record_line(
            name, entry.kind, 0, meta.mtime_ns, meta.ctime_ns, meta.inode, meta.mode, meta.uid,
            meta.gid,
        )  # fmt: skip
        self._manifest.append(manifest.pack_lines(line))
        self._members += 1
        self._append(header)

    def _join(
        self, entry: Entry, numbers: range, stopped: Callable[[], bool], *, keep_changed: bool
    ) -> list[PartResult] | None:
        """Lay the parts of one member behind what is there.

        Gives their results, or None when the file could not be read; then the archive is as it
        was before. So it is for a file that moved, without `keep_changed`.
        """
        start, parts_before = self._size, len(self._parts)
        member = None
        results: list[PartResult] = []
        for number in numbers:
            self._wait_for(number, stopped)
            index = read_index(self._folder, number)
            if index.part is None:
                self._problems += index.problems
                self._cut_back(start, parts_before)
                self._forget(numbers)
                return None
            if member is None:
                name = self._job.roots[entry.root].member_name(entry.path)
                member = _LargeMember(name, entry.size, index.part.meta)
                self._write(bytes(member.header_length))
                self._parts.append(VolumePart(size=0, sha256=""))  # the header's, filled in below
            results.append(index.part)
            self._append_segment(index)
        assert member is not None, "a file has one part or more"
        changed = _moved(results)
        if changed and not keep_changed:
            self._cut_back(start, parts_before)
            return results
        self._append(END)
        if changed:
            message = "changed while it was read; what was read is in the archive"
            self._problems.append(
                Problem(source_path(self._job.roots, entry), problems.CHANGED, message)
            )
        header, central, line = member.records(results, start, changed=changed)
        os.pwrite(self._fd, header, start)
        self._parts[parts_before] = _part(header)
        self._central.append(central)
        self._manifest.append(manifest.pack_lines(line))
        return results

    def _append_segment(self, index: SegmentIndex) -> None:
        path = segment_path(self._folder, index.segment)
        with path.open("rb") as segment:
            found = os.fstat(segment.fileno()).st_size
            if found != index.size:
                raise OSError(f"a segment of {index.size} bytes holds {found}")
            self._copy(segment.fileno(), index.size)
        self._parts.append(VolumePart(size=index.size, sha256=index.sha256))
        path.unlink()

    def _copy(self, source: int, size: int) -> None:
        """Copy `size` bytes behind what is there, in the kernel where it can."""
        left = size
        while left:
            self._stop_if_asked()
            done = _copy_range(source, self._fd, min(left, _COPY_BYTES))
            if not done:
                raise OSError(f"a segment of {size} bytes ends {left} bytes early")
            left -= done
        self._size += size
        self._unsynced += size
        if self._unsynced >= _SYNC_BYTES:
            # Writing back on the way spares a long wait at the end.
            os.fdatasync(self._fd) if hasattr(os, "fdatasync") else os.fsync(self._fd)
            self._unsynced = 0

    def _append(self, data: bytes) -> None:
        if data:
            self._write(data)
            self._parts.append(_part(data))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._size += len(data)

    def _cut_back(self, size: int, parts: int) -> None:
        os.ftruncate(self._fd, size)
        os.lseek(self._fd, size, os.SEEK_SET)
        self._size = size
        del self._parts[parts:]

    def _forget(self, numbers: range) -> None:
        """Delete the segments and indexes of these batches."""
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                name = read_index(self._folder, number).segment
                index_path(self._folder, number).unlink()
                segment_path(self._folder, name).unlink()

    def finish(
        self, header: manifest.Header, *, users: dict[str, str], groups: dict[str, str]
    ) -> Assembly:
        """Write manifest, central directory and end, and bring it all to the disk.

        Raises StorageError when the archive can't be written, ArchiveError when `run` did not
        take in all of it.
        """
        if self._taken < self._job.batches:
            raise ArchiveError(
                f"{self._place}: only {self._taken} of {self._job.batches} pieces of the archive "
                "were made; run the backup again"
            )
        try:
            trailer = manifest.Trailer(members=self._members, users=users, groups=groups)
            body = b"".join(
                (manifest.pack_line(header), *self._manifest, manifest.pack_line(trailer))
            )
            local, central = _manifest_records(body, self._size, int(time.time()))
            self._append(local + body)
            directory = b"".join((*self._central, central))
            end = zr.end_records(self._members + 1, len(directory), self._size)
            self._append(directory + end)
            os.fsync(self._fd)
        except OSError as error:
            raise self._storage_error(error) from error
        finally:
            self.close()
        return Assembly(
            path=self._path,
            size=self._size,
            members=self._members,
            files=self._files,
            bytes_read=self._bytes_read,
            parts=tuple(self._parts),
            problems=tuple(self._problems),
        )

    def close(self) -> None:
        """Let go of the file; does nothing the second time."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def _place(self) -> Path:
        # The work folder is hidden; people know the folder it lies in.
        return self._path.parent.parent

    def _storage_error(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self._place}: {staging.reason(error)}; free some space or choose another destination"
        )


class _LargeMember:
    """The headers of a member that several batches made."""

    def __init__(self, name: bytes, planned_size: int, meta: Meta) -> None:
        self._name = name
        self._meta = meta
        self._zip64 = planned_size >= _MAY_NEED_ZIP64
        self._dos = zr.dos_time(meta.mtime_ns // 1_000_000_000)
        self._times = zr.time_extras(meta.mtime_ns)
        self._flags = zr.name_flags(name)
        self.header_length = len(self._local(0, 0, 0))

    def _local(self, crc: int, stored_size: int, size: int) -> bytes:
        return zr.local_header(
            self._name, method=zr.DEFLATED, crc=crc, stored_size=stored_size, size=size,
            dos=self._dos, extra=self._times + zr.owner_extra(self._meta.uid, self._meta.gid),
            flags=self._flags, force_zip64=self._zip64,
        )  # fmt: skip

    def records(
        self, parts: list[PartResult], offset: int, *, changed: bool
    ) -> tuple[bytes, bytes, str]:
        """Give local header, central record and manifest line of the joined member."""
        size = sum(part.size for part in parts)
        stored_size = sum(part.stored_size for part in parts) + len(END)
        crc = 0
        for part in parts:
            crc = crc32_combine(crc, part.crc, part.size)
        meta = self._meta
        central = zr.central_record(
            self._name, method=zr.DEFLATED, crc=crc, stored_size=stored_size, size=size,
            offset=offset, dos=self._dos, extra=self._times, flags=self._flags,
            mode=meta.full_mode,
        )  # fmt: skip
        line = manifest.record_line(
            self._name, entries.FILE, size, meta.mtime_ns, meta.ctime_ns, meta.inode, meta.mode,
            meta.uid, meta.gid, changed=changed,
            parts=[manifest.Part(part.size, part.stored_size, part.sha256) for part in parts],
        )  # fmt: skip
        return self._local(crc, stored_size, size), central, line


def _moved(results: list[PartResult]) -> bool:
    """Whether the parts were read from different states of the file."""
    states = {state for result in results for state in (result.before, result.after)}
    return len(states) > 1 or sum(result.size for result in results) != next(iter(states)).size


def _manifest_records(body: bytes, offset: int, now: int) -> tuple[bytes, bytes]:
    """Give local header and central record of the manifest: stored, for it is compressed."""
    dos, crc = zr.dos_time(now), crc32(body)
    times = zr.time_extras(now * 1_000_000_000)
    local = zr.local_header(
        manifest.MEMBER_NAME, method=zr.STORED, crc=crc, stored_size=len(body), size=len(body),
        dos=dos, extra=times, flags=zr.FLAG_UTF8,
    )  # fmt: skip
    central = zr.central_record(
        manifest.MEMBER_NAME, method=zr.STORED, crc=crc, stored_size=len(body), size=len(body),
        offset=offset, dos=dos, extra=times, flags=zr.FLAG_UTF8, mode=0o100644,
    )  # fmt: skip
    return local, central


def _part(data: bytes) -> VolumePart:
    return VolumePart(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _copy_range(source: int, target: int, length: int) -> int:
    """Copy up to `length` bytes from position to position; give how many."""
    if hasattr(os, "copy_file_range"):
        with contextlib.suppress(OSError):  # other file system, or a kernel that can't
            if done := os.copy_file_range(source, target, length):
                return done
    data = os.read(source, min(length, 1 << 20))
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return len(data)
