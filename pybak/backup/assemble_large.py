"""Join the parts of a large file into one member, once more if it moved between them.

A part that could not be read leaves the file out. Only the last try of a file that moves counts,
unless what was laid down can't be taken back: it is sent by then.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from pybak import problems
from pybak.backup.arrivals import Arrivals
from pybak.backup.batches import Batch, Job, index_path, segment_path
from pybak.backup.book import Book
from pybak.backup.open_entry import open_entry
from pybak.backup.output import Output
from pybak.backup.packing import CHANGED_MESSAGE, place_of, source_path
from pybak.backup.parts import cut_parts, with_holes
from pybak.backup.segments import Absent, PartResult, Segment, SegmentIndex, read_index
from pybak.entries import Entry
from pybak.errors import ArchiveError, SourceError
from pybak.formats.streams import TAR_FORMATS
from pybak.problems import Problem


class Joined(NamedTuple):
    """What became of a large file.

    `is_saved` tells that it counts as a file of the archive, also if it moved; `is_unlinkable`
    that hard links can't refer to it. `indexes` are those of its parts, `absent` says that the
    archive does not hold it.
    """

    is_saved: bool
    is_unlinkable: bool
    problems: list[Problem]
    indexes: list[SegmentIndex]
    absent: Absent | None = None


class _UnreadableError(Exception):
    """A part of a large file could not be read; its index says why."""


class LargeFiles:
    """Lays the parts of large files down in `output`, and has `book` enter them.

    Batches that are made once more are numbered from `next_number` on.
    """

    def __init__(
        self, folder: Path, job: Job, book: Book, output: Output, arrivals: Arrivals,
        next_number: int,
    ) -> None:  # fmt: skip
        self._folder = folder
        self._job = job
        self._book = book
        self._output = output
        self._arrivals = arrivals
        self._next_number = next_number

    def join(self, listed: Entry, numbers: range, stopped: Callable[[], bool]) -> Joined:
        """Make a member of the batches `numbers`, if all of the file could be read.

        Raises ArchiveError where what was laid down of an unreadable file can't be taken back,
        StoppedError when `stopped` says that no more parts will come, and OSError.
        """
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
                if not self._output.can_go_back(start):
                    raise ArchiveError(
                        f"{os.fsdecode(source_path(self._job, entry))}: {why[0].message} when much "
                        "of it was sent and encrypted; run the backup again, or --exclude it"
                    ) from None
                self._output.go_back(start)
                self._output.settle()
                self._forget(numbers)
                return Joined(
                    is_saved=False, is_unlinkable=True, problems=why, indexes=seen,
                    absent=(*place_of(listed), why[0].code),
                )  # fmt: skip
            changed = _moved(large.results, entry)
            if not changed or is_last_try or not self._output.can_go_back(start):
                break
            self._output.go_back(start)
            self._forget(numbers)
            entry, numbers = self._make_again(entry, len(numbers))
        self._book.enter_large(large, self._output, changed=changed)
        self._output.settle()
        notes = [note for index in seen for note in index.problems]
        if changed:
            path = source_path(self._job, entry)
            message = "; ".join([CHANGED_MESSAGE, *(note.message for note in notes)])
            notes = [Problem(path, problems.CHANGED, message)]
        is_whole = changed or all(note.is_skip for note in notes)
        return Joined(is_whole, _is_replaced(large.results, listed), notes, seen)

    def _segments(
        self, numbers: range, stopped: Callable[[], bool], seen: list[SegmentIndex]
    ) -> Iterator[tuple[SegmentIndex, Segment]]:
        """Yield the parts of a large file as they come, and put them into `seen`."""
        for index, segment in self._arrivals.in_order(numbers, stopped):
            seen.append(index)
            if index.part is None:
                raise _UnreadableError
            yield index, segment

    def _make_again(self, entry: Entry, count: int) -> tuple[Entry, range]:
        """Compress a large file once more, in as many parts, as it is now.

        The batches get numbers of their own: a worker may still be at work on the others, and
        what it makes does not fit these.
        """
        root = self._job.roots[entry.root]
        data_map = None
        with contextlib.suppress(SourceError):  # the parts will say what is wrong with it
            fd, now = open_entry(root, entry)
            os.close(fd)
            entry = msgspec.structs.replace(
                entry, size=now.st_size, mtime_ns=now.st_mtime_ns, ctime_ns=now.st_ctime_ns,
                inode=now.st_ino, device=now.st_dev,
            )  # fmt: skip
            if self._job.format in TAR_FORMATS:
                entry, data_map = with_holes(root.disk_path(entry.path), entry)
        numbers = range(self._next_number, self._next_number + count)
        self._next_number += count
        parts = cut_parts(entry.size, data_map, count=count)
        self._arrivals.make_again(
            {number: Batch([entry], part) for number, part in zip(numbers, parts, strict=True)}
        )
        return entry, numbers

    def _forget(self, numbers: range) -> None:
        """Delete the segments and indexes of these batches."""
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                name = read_index(self._folder, number).segment
                index_path(self._folder, number).unlink()
                segment_path(self._folder, name).unlink()


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
