"""Lay finished segments end to end into an archive while workers still make the rest.

Segments come in the order of the plan, and each is taken over from the staging folder. The parts
of large files are joined by `pybak.backup.assemble_large`. Hard links are made last, here: whether
they can be links depends on what became of all other files. What a format writes around and behind
segments is its book's business (`pybak.backup.assemble_zip`, `pybak.backup.assemble_tar`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from pybak import staging
from pybak.backup.arrivals import Arrivals, StoppedError
from pybak.backup.assemble_large import LargeFiles
from pybak.backup.assemble_tar import TarBook
from pybak.backup.assemble_zip import ZipBook
from pybak.backup.batches import Batch, read_batch, read_job, segment_path
from pybak.backup.book import Book, MemberLines, OnLines
from pybak.backup.check_password import leave_check, needed
from pybak.backup.compress import compress_batch
from pybak.backup.conclude import Conclude, Conclusion, Taken
from pybak.backup.output import ArchiveFile, ArchiveLayout, Extent, Output
from pybak.backup.packing import place_of
from pybak.backup.segments import Absent, Place, SegmentIndex, read_index
from pybak.backup.sending import SendingOutput
from pybak.backup.stretches import Stretch
from pybak.errors import ArchiveError, Interrupted, StorageError
from pybak.formats import manifest
from pybak.formats.streams import TAR_FORMATS
from pybak.problems import Problem
from pybak.resources import usable_cpus
from pybak.volumes.model import VolumePart


class Assembly(msgspec.Struct, frozen=True):
    """A complete archive, not yet where it belongs. `files` and `bytes_read` are what is in it.

    One plain file has its `path` and the digests of its `parts`; else `extents` tell where the
    bytes are, in order. `absent` are the entries that it does not hold; `manifest` is a copy of
    its manifest, `closing` the part of it behind the members, packed.
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
    closing: bytes


def manifest_path(folder: Path) -> Path:
    """Where the staging folder holds a copy of the finished manifest."""
    return folder / "manifest.jsonl.gz"


class Assembler:
    """Builds one archive from the segments in `folder`: the file `path`, or a layout without it.

    With `sending` the archive goes there, and workers wait where `staging_limit` bytes wait to be
    sent; `is_alone` tells that nobody else makes what no worker sends by itself. `run` is meant for
    a thread of its own beside the workers; `finish` is called after it. `password` is needed where
    the job says that members are encrypted (PlanError); what workers must have the same one by is
    left in `folder`. `on_lines` hears of the manifest's lines of members.
    """

    def __init__(
        self,
        folder: Path,
        path: Path | None,
        *,
        password: bytes | None = None,
        sending: SendingOutput | None = None,
        staging_limit: int = 1 << 30,
        is_alone: bool = False,
        on_lines: OnLines | None = None,
    ) -> None:
        self._folder = folder
        self._job = read_job(folder)
        self._password = password
        self._target = path or folder
        self._path = path
        job = self._job
        own = needed(password) if job.encrypted else None
        lines = MemberLines(on_lines)
        self._book: Book = (
            TarBook(job.format, job.level, lines=lines)
            if job.format in TAR_FORMATS
            else ZipBook(own, threads=min(job.batches, usable_cpus()), lines=lines)
        )
        try:
            if password is not None:
                leave_check(folder, password)
            self._output: Output
            if sending is not None:
                self._output = sending
            elif path is None:
                self._output = ArchiveLayout(folder / "segments", self._stop_if_asked)
            else:
                self._output = ArchiveFile(path, self._stop_if_asked)
            self._arrivals = Arrivals(
                folder, job, compress=self._compress, stop_if_asked=self._stop_if_asked,
                sending=sending, staging_limit=staging_limit, is_alone=is_alone,
            )  # fmt: skip
        except OSError as error:
            raise self._storage_error(error) from error
        try:
            self._book.start(self._output)
        except OSError as error:
            self._output.close()
            raise self._storage_error(error) from error
        self._large = LargeFiles(
            folder, job, self._book, self._output, self._arrivals, job.batches + job.link_batches
        )
        self._taken = 0  # batches
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
                batch = None
                if self._taken < job.parts:
                    batch = read_batch(self._folder, self._taken, job.parts)
                if batch is not None and batch.part is not None:
                    self._take_large(batch, self._taken, stopped)
                elif (stretch := self._arrivals.stretch(self._taken)) is not None:
                    self._take_stretch(stretch, stopped)
                else:
                    self._arrivals.wait_for(self._taken, stopped, is_folder=batch is not None)
                    self._take(self._taken)
            while self._taken < job.batches + job.link_batches:
                self._stop_if_asked()
                self._take_links()
        except (StoppedError, Interrupted):
            return
        except OSError as error:
            raise self._storage_error(error) from error

    def _stop_if_asked(self) -> None:
        self._output.check()
        if staging.is_cancelled(self._folder):
            raise StoppedError

    def _compress(self, number: int, batch: Batch | None) -> None:
        """Do a worker's work, unless one has done it meanwhile; `batch` may be one of our own."""
        batch = batch or read_batch(self._folder, number, self._job.parts)
        compress_batch(self._folder, number, self._job, batch, password=self._password)

    def _take(self, number: int) -> None:
        """Lay one segment of whole members behind what is there."""
        index = read_index(self._folder, number)
        self._enter(index, self._output.size)
        path = segment_path(self._folder, index.segment)
        self._output.append_file(path, index.size, index.sha256)
        self._taken += 1

    def _enter(self, index: SegmentIndex, at: int) -> None:
        """Note all that the index of a segment of whole members says, which begins `at`."""
        self._book.take(index, at)
        self._members += index.members
        self._files += index.files
        self._bytes_read += index.bytes_read
        self._problems += index.problems
        self._lost.update(index.lost)
        self._unlinkable.update(index.unlinkable)
        self._absent += index.absent

    def _take_stretch(self, stretch: Stretch, stopped: Callable[[], bool]) -> None:
        """Lay down what a worker has sent by itself."""
        record = self._arrivals.record_of(stretch, stopped)
        at = self._output.size
        for index in record.indexes:
            self._enter(index, at)
            at += index.size
        self._arrivals.lay(stretch, record)
        assert self._output.size == at
        self._taken = stretch.stop

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
        joined = self._large.join(entry, range(first, first + batch.part.count), stopped)
        self._problems += joined.problems
        if joined.is_unlinkable:
            self._unlinkable.add(place_of(entry))
        if joined.absent is not None:
            self._absent.append(joined.absent)
        else:
            for index in joined.indexes:
                self._lost.update(index.lost)
                self._bytes_read += index.bytes_read
            self._members += 1
            self._files += joined.is_saved
        self._taken += batch.part.count

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
            if header.split is not None:
                starts = output.volume_starts(header.split)
            end = conclude(Taken(self._files, self._problems, self._absent))
            if end.lineage is not None:
                header = msgspec.structs.replace(
                    header, bases=list(end.lineage.bases), needs=list(end.lineage.needs)
                )
            if end.lenders:
                header = msgspec.structs.replace(
                    header, pybak_manifest=manifest.WITH_REFERENCES, lenders=dict(end.lenders)
                )
            trailer = manifest.Trailer(
                members=self._members, users=users, groups=groups, volume_starts=starts,
                status=end.status, counts=dict(end.counts),
            )  # fmt: skip
            closing = manifest.pack_closing(end.gone, end.errors, end.references)
            text = self._book.end(manifest.Ends(header, trailer, closing), output)
            manifest_path(self._folder).write_bytes(text)
            output.finish()
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
            closing=closing,
        )

    @property
    def began_at(self) -> float | None:
        """When the first segment came, by `time.monotonic`; None before."""
        return self._arrivals.began_at

    @property
    def idle_seconds(self) -> float:
        """How long it has waited for others since."""
        return self._arrivals.idle_seconds

    def check(self) -> None:
        """Raise what has gone wrong with what was laid down."""
        self._output.check()

    def close(self) -> None:
        """Let go of the file; does nothing the second time."""
        self._output.close()
        self._arrivals.close()

    @property
    def _place(self) -> Path:
        # The work folder is hidden; people know the folder it lies in.
        return self._target.parent if self._path is None else self._target.parent.parent

    def _storage_error(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self._place}: {staging.reason(error)}; free some space or choose another destination"
        )
