"""Lay finished segments end to end into an archive while workers still make the rest.

Segments come in the order of the plan, and each is taken over from the staging folder. A large
file that moved between its parts is made once more before anything is laid behind it. Hard links
are made last, here: whether they can be links depends on what became of all other files. What a
format writes around and behind segments is its book's business (`pybak.backup.assemble_zip`,
`pybak.backup.assemble_tar`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import msgspec

from pybak import problems, staging
from pybak.backup.assemble_tar import TarBook
from pybak.backup.assemble_zip import ZipBook
from pybak.backup.check_password import leave_check, needed
from pybak.backup.compress import compress_batch
from pybak.backup.conclude import Conclude, Conclusion, Taken
from pybak.backup.output import ArchiveFile, ArchiveLayout, Extent, Output
from pybak.backup.packing import CHANGED_MESSAGE, place_of, source_path
from pybak.backup.plan import (
    Batch,
    cut_parts,
    index_path,
    read_batch,
    read_job,
    segment_path,
    with_holes,
)
from pybak.backup.segments import Absent, LaidDown, PartResult, Place, SegmentIndex, read_index
from pybak.entries import Entry
from pybak.errors import ArchiveError, Interrupted, StorageError
from pybak.formats import manifest
from pybak.formats.streams import TAR_FORMATS
from pybak.problems import Problem
from pybak.volumes.model import VolumePart

_POLL_SECONDS: Final = 0.02


class Assembly(msgspec.Struct, frozen=True):
    """A complete archive, not yet where it belongs. `files` and `bytes_read` are what is in it.

    One plain file has its `path` and the digests of its `parts`; else `extents` tell where the
    bytes are, in order. `absent` are the entries that it does not hold; `manifest` is a copy of
    its manifest.
    """

    path: Path | None
    size: int
    members: int
    files: int
    bytes_read: int
    parts: tuple[VolumePart, ...]
    extents: tuple[Extent, ...]
    problems: tuple[Problem, ...]
    lost: dict[str, int]
    absent: tuple[Absent, ...]
    manifest: Path


def manifest_path(folder: Path) -> Path:
    """Where the staging folder holds a copy of the finished manifest."""
    return folder / "manifest.jsonl.gz"


class Book(Protocol):
    """What a format keeps about the members, and writes before, around and behind them."""

    def start(self, output: Output) -> None:
        """Write what the archive begins with."""

    def take(self, index: SegmentIndex, at: int) -> None:
        """Enter a segment of whole members that begins `at` this byte of the archive."""

    def lay_large(
        self, name: bytes, entry: Entry, segments: Iterator[tuple[SegmentIndex, Path]],
        output: Output,
    ) -> LaidDown:  # fmt: skip
        """Lay the parts of one large file down. Raises what `segments` raises."""

    def enter_large(self, large: LaidDown, output: Output, *, changed: bool) -> None:
        """Complete the member that `lay_large` laid down last, and enter it."""

    def end(self, lines: manifest.Ends, output: Output) -> bytes:
        """Write the manifest and what ends the archive; give the manifest."""


class _StoppedError(Exception):
    """No more segments will come."""


class _UnreadableError(Exception):
    """A part of a large file could not be read; its index says why."""


class Assembler:
    """Builds one archive from the segments in `folder`: the file `path`, or a layout without it.

    `run` is meant for a thread of its own beside the workers; `finish` is called after it.
    `password` is needed where the job says that members are encrypted (PlanError); what workers
    must have the same one by is left in `folder`.
    """

    def __init__(self, folder: Path, path: Path | None, *, password: bytes | None = None) -> None:
        self._folder = folder
        self._job = read_job(folder)
        self._password = password
        self._target = path or folder
        self._path = path
        own = needed(password) if self._job.encrypted else None
        self._book: Book = (
            TarBook(self._job) if self._job.format in TAR_FORMATS else ZipBook(self._job, own)
        )
        try:
            if password is not None:
                leave_check(folder, password)
            self._output: ArchiveFile | ArchiveLayout
            if path is None:
                self._output = ArchiveLayout(folder / "segments", self._stop_if_asked)
            else:
                self._output = ArchiveFile(path, self._stop_if_asked)
        except OSError as error:
            raise self._storage_error(error) from error
        try:
            self._book.start(self._output)
        except OSError as error:
            self._output.close()
            raise self._storage_error(error) from error
        self._taken = 0  # batches
        self._next_number = self._job.batches + self._job.link_batches
        self._members = 0
        self._files = 0
        self._bytes_read = 0
        self._problems: list[Problem] = []
        self._lost: Counter[str] = Counter()
        self._absent: list[Absent] = []
        self._unlinkable: set[Place] = set()
        self._stand_ins: dict[Place, bytes] = {}

    def run(self, stopped: Callable[[], bool]) -> None:
        """Take in all segments in order, waiting for each.

        Returns early when `stopped` says that no more will come, and soon after a cancel was
        requested.
        Raises StorageError when the archive can't be written.
        """
        job = self._job
        try:
            while self._taken < job.batches:
                self._stop_if_asked()
                self._wait_for(self._taken, stopped)
                batch = None
                if self._taken < job.parts:
                    batch = read_batch(self._folder, self._taken, job.parts)
                if batch is not None and batch.part is not None:
                    self._take_large(batch, self._taken, stopped)
                else:
                    self._take(self._taken)
            while self._taken < job.batches + job.link_batches:
                self._stop_if_asked()
                self._take_links()
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
        self._book.take(index, self._output.size)
        self._members += index.members
        self._files += index.files
        self._bytes_read += index.bytes_read
        self._problems += index.problems
        self._lost.update(index.lost)
        self._unlinkable.update(index.unlinkable)
        self._absent += index.absent
        path = segment_path(self._folder, index.segment)
        self._output.append_file(path, index.size, index.sha256)
        self._taken += 1

    def _take_links(self) -> None:
        """Make the next batch of hard links; those whose file is not in the archive hold it."""
        number = self._taken
        batch = read_batch(self._folder, number, self._job.parts)
        compress_batch(
            self._folder, number, self._job, batch, password=self._password,
            missing=frozenset(self._unlinkable.intersection(batch.firsts)),
            stand_ins=self._stand_ins,
        )  # fmt: skip
        self._take(number)

    def _take_large(self, batch: Batch, first: int, stopped: Callable[[], bool]) -> None:
        """Join the parts of the large file that starts with batch `first`."""
        (entry,) = batch.entries
        assert batch.part is not None
        self._join(entry, range(first, first + batch.part.count), stopped)
        self._taken += batch.part.count

    def _join(self, listed: Entry, numbers: range, stopped: Callable[[], bool]) -> None:
        """Make a member of the batches `numbers`, if all of the file could be read."""
        entry = listed
        name = self._job.roots[entry.root].member_name(entry.path)
        for is_last_try in (False, True):
            start = self._output.mark()
            seen: list[SegmentIndex] = []
            segments = self._segments(numbers, stopped, seen)
            try:
                large = self._book.lay_large(name, entry, segments, self._output)
            except _UnreadableError:
                why = seen[-1].problems
                self._problems += why
                self._unlinkable.add(place_of(listed))
                self._absent.append((*place_of(listed), why[0].code))
                self._output.go_back(start)
                self._forget(numbers)
                return
            changed = _moved(large.results, entry)
            if not changed or is_last_try:
                break
            self._output.go_back(start)
            self._forget(numbers)
            entry, numbers = self._make_again(entry, len(numbers))
        self._book.enter_large(large, self._output, changed=changed)
        if _is_replaced(large.results, listed):
            self._unlinkable.add(place_of(listed))
        notes = [note for index in seen for note in index.problems]
        if changed:
            path = source_path(self._job, entry)
            message = "; ".join([CHANGED_MESSAGE, *(note.message for note in notes)])
            notes = [Problem(path, problems.CHANGED, message)]
        self._problems += notes
        for index in seen:
            self._lost.update(index.lost)
            self._bytes_read += index.bytes_read
        self._members += 1
        self._files += changed or all(note.is_skip for note in notes)

    def _segments(
        self, numbers: range, stopped: Callable[[], bool], seen: list[SegmentIndex]
    ) -> Iterator[tuple[SegmentIndex, Path]]:
        """Yield the parts of a large file as they come, and put them into `seen`."""
        for number in numbers:
            self._wait_for(number, stopped)
            index = read_index(self._folder, number)
            seen.append(index)
            if index.part is None:
                raise _UnreadableError
            yield index, segment_path(self._folder, index.segment)

    def _make_again(self, entry: Entry, count: int) -> tuple[Entry, range]:
        """Compress a large file once more, in as many parts, as it is now.

        The batches get numbers of their own: a worker may still be at work on the others, and
        what it makes does not fit these.
        """
        path = self._job.roots[entry.root].disk_path(entry.path)
        data_map = None
        with contextlib.suppress(OSError):  # the parts will say what is wrong with it
            now = os.lstat(path)
            entry = msgspec.structs.replace(
                entry, size=now.st_size, mtime_ns=now.st_mtime_ns, ctime_ns=now.st_ctime_ns,
                inode=now.st_ino, device=now.st_dev,
            )  # fmt: skip
            if self._job.format in TAR_FORMATS:
                entry, data_map = with_holes(path, entry)
        numbers = range(self._next_number, self._next_number + count)
        self._next_number += count
        parts = cut_parts(entry.size, data_map, count=count)
        for number, part in zip(numbers, parts, strict=True):
            self._stop_if_asked()
            batch = Batch([entry], part)
            compress_batch(self._folder, number, self._job, batch, password=self._password)
        return entry, numbers

    def _forget(self, numbers: range) -> None:
        """Delete the segments and indexes of these batches."""
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                name = read_index(self._folder, number).segment
                index_path(self._folder, number).unlink()
                segment_path(self._folder, name).unlink()

    def finish(
        self,
        header: manifest.Header,
        *,
        users: dict[str, str],
        groups: dict[str, str],
        conclude: Conclude = lambda _taken: Conclusion(),
    ) -> Assembly:
        """Write manifest and ending, and bring a plain file to the disk.

        `conclude` is asked once how the run ends, before the manifest is closed.
        Raises StorageError when the archive can't be written, Interrupted after a cancel, and
        ArchiveError when `run` did not take in all of it.
        """
        wanted = self._job.batches + self._job.link_batches
        if self._taken < wanted:
            if staging.is_cancelled(self._folder):
                raise Interrupted("stopped on request")
            raise ArchiveError(
                f"{self._place}: only {self._taken} of {wanted} pieces of the archive "
                "were made; run the backup again"
            )
        output = self._output
        try:
            starts: list[int] = []
            if isinstance(output, ArchiveLayout) and header.split is not None:
                starts = output.volume_starts(header.split)
            end = conclude(Taken(self._files, self._problems, self._absent))
            if end.lineage is not None:
                header = msgspec.structs.replace(
                    header, bases=list(end.lineage.bases), needs=list(end.lineage.needs)
                )
            trailer = manifest.Trailer(
                members=self._members, users=users, groups=groups, volume_starts=starts,
                status=end.status, counts=dict(end.counts),
            )  # fmt: skip
            closing = manifest.pack_closing(end.gone, end.errors)
            text = self._book.end(manifest.Ends(header, trailer, closing), output)
            manifest_path(self._folder).write_bytes(text)
            if isinstance(output, ArchiveFile):
                output.sync()
        except OSError as error:
            raise self._storage_error(error) from error
        finally:
            self.close()
        return Assembly(
            path=self._path,
            size=output.size,
            members=self._members,
            files=self._files,
            bytes_read=self._bytes_read,
            parts=tuple(output.parts) if isinstance(output, ArchiveFile) else (),
            extents=tuple(output.extents) if isinstance(output, ArchiveLayout) else (),
            problems=tuple(self._problems),
            lost={what: count for what, count in self._lost.items() if count},
            absent=tuple(self._absent),
            manifest=manifest_path(self._folder),
        )

    def close(self) -> None:
        """Let go of the file; does nothing the second time."""
        self._output.close()

    @property
    def _place(self) -> Path:
        # The work folder is hidden; people know the folder it lies in.
        return self._target.parent if self._path is None else self._target.parent.parent

    def _storage_error(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self._place}: {staging.reason(error)}; free some space or choose another destination"
        )


def _moved(results: list[PartResult], entry: Entry) -> bool:
    """Whether the parts were read from different states of the file, or from another than planned.

    Only a sparse file needs to be as it was planned, since its map tells what to read of it.
    """
    states = {state for result in results for state in (result.before, result.after)}
    if len(states) > 1:
        return True
    (state,) = states
    if results[0].data_map is not None:
        return state != (entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode)
    return sum(result.size for result in results) != state.size


def _is_replaced(results: list[PartResult], entry: Entry) -> bool:
    """Whether any part is of another file than the one that was listed."""
    found = {(part.device, state.inode) for part in results for state in (part.before, part.after)}
    return found != {(entry.device, entry.inode)}
