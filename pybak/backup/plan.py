"""Decide how a backup is done before anything is written: batches, order, workers.

A batch is what a compress task turns into one segment: files of a few MiB together, or a part of
one large file. Parts of large files come first, each behind the folders above it as far as no
earlier one has them (programs like unzip set a folder's mode and time only where its entry comes
before its content). Then come the other files in the order of the walk, and last, in formats that
keep them, hard links: names of files that are in the archive under another name already. That is
also the order of the archive.

Batches are dealt out in waves. A wave takes most of what is left and deals it like cards, one
hand a task, so that every worker walks through the archive at the same pace; the last waves are
single batches, so that nobody waits long for the last one to finish.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pybak import entries
from pybak.backup.read_source import open_source, state_of
from pybak.entries import Entry, Root, read_entries
from pybak.errors import SourceError, StorageError
from pybak.formats.sparse import Run, cut_runs, data_runs, data_size, may_have_holes
from pybak.formats.streams import TAR_FORMATS

ZIP: Final = "zip"
PART_BYTES: Final = 32 << 20
"""A file larger than this is cut into parts of this size, compressed side by side."""

_LEAST_BATCH_BYTES = 4 << 20
_MOST_BATCH_BYTES = 32 << 20
_BATCHES_A_WORKER = 64
_MOST_BATCH_FILES = 2000
_WAVE_SHARE = 0.6  # of the batches that are left

# Costs in seconds, for one core of the machine in docs/decisions/0006; only their ratio and
# their order of magnitude matter.
_SECONDS_A_FILE = 60e-6
_DEFLATE_SECONDS_A_BYTE = {
    1: 3e-9,
    2: 3e-9,
    3: 5e-9,
    4: 9e-9,
    5: 11e-9,
    6: 15e-9,
    7: 19e-9,
    8: 33e-9,
    9: 45e-9,
}
_ZSTD_SECONDS_A_BYTE = {
    1: 2.4e-9,
    2: 2.7e-9,
    3: 4.2e-9,
    4: 8e-9,
    5: 12e-9,
    6: 17e-9,
    7: 40e-9,
    8: 120e-9,
    9: 300e-9,
}
_BZIP2_SECONDS_A_BYTE = 60e-9
_COPY_SECONDS_A_BYTE = 1.5e-9
_AES_SECONDS_A_BYTE = 1.5e-9
_AES_SECONDS_A_FILE = 600e-6
"""Deriving a key: 1000 rounds for every member."""
_LOCKED_SECONDS_A_FILE = 55e-6
"""The part of a file's cost that holds the interpreter lock, and what waiting for it costs."""
_LEAST_TASK_SECONDS = 0.2
"""A task run costs 20 to 40 ms of the flow's process; shorter ones cost more than they balance."""
_DIRECT_SECONDS = 0.8
"""Work of less than this is done in the flow: starting a cluster takes longer."""
_PROCESSES_START_SECONDS = 3.5

_HELPERS_START_SECONDS = 0.3
_WAITING = 0.8
"""What two threads lose by waiting for the lock, as a share of the time it is held."""

DIRECT: Final = "direct"
THREADS: Final = "threads"
HELPERS: Final = "helpers"
"""Threads that hand their batches to helper processes (`pybak.workers`)."""
PROCESSES: Final = "processes"


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A share of one large file: the `number`th of `count`, from 0, and what of it to read.

    `runs` are offsets and lengths; there is more than one only in a sparse file. `total` counts
    the bytes of all parts, and `data_map` is all of a sparse file's data, in its first part.
    """

    number: int
    count: int
    runs: list[Run]
    total: int
    data_map: list[Run] | None = None

    @property
    def length(self) -> int:
        """Bytes to read."""
        return data_size(self.runs)


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What one compress call takes. With `part`, `entries` holds just the large file.

    `firsts` makes a batch of hard links: for each entry the root and path of the name that the
    archive has the content under.
    """

    entries: list[Entry]
    part: Part | None = None
    firsts: list[tuple[int, bytes]] = []


class Job(msgspec.Struct, frozen=True):
    """What every batch of a run shares; written once for the workers to read.

    Batches are numbered in archive order. The first `parts` are large files' (their parts, and
    the folders above them). After all `batches` come `link_batches` of hard links, which need to
    know what became of the others. With `encrypted` every ZIP member is encrypted.
    """

    roots: list[Root]
    level: int
    parts: int
    batches: int
    format: str = ZIP
    link_batches: int = 0
    encrypted: bool = False


class Hand(msgspec.Struct, frozen=True, array_like=True):
    """The batches one task takes: `range(start, stop, step)`."""

    start: int
    stop: int
    step: int

    def batches(self) -> range:
        """Give the numbers of the batches."""
        return range(self.start, self.stop, self.step)


class BackupPlan(msgspec.Struct, frozen=True):
    """What a run will do. Batches lie in `staging` as files; here are only numbers."""

    staging: Path
    files: int
    folders: int
    bytes: int
    batches: int
    parts: int
    hands: tuple[Hand, ...]
    workers: int
    level: int
    format: str
    cluster: str
    estimated_seconds: float


def batch_path(staging: Path, number: int, parts: int) -> Path:
    """Where the batch with this number lies."""
    if number < parts:
        return staging / "batches" / f"part-{number:07d}"
    return staging / "batches" / f"files-{number - parts:07d}"


def segment_path(staging: Path, name: str) -> Path:
    """Where the segment with this name, which its index tells, lies."""
    return staging / "segments" / name


def index_path(staging: Path, number: int) -> Path:
    """Where a batch's member index lies; it appears when the segment is complete."""
    return staging / "segments" / f"{number:07d}.index"


def job_path(staging: Path) -> Path:
    """Where the run's `Job` lies."""
    return staging / "job"


def seconds_of(
    archive_format: str, level: int, *, files: int, size_bytes: int, encrypted: bool
) -> float:
    """Estimate how long one core works on a backup."""
    match archive_format:
        case "tar":
            a_byte = _COPY_SECONDS_A_BYTE
        case "tar.bz2":
            a_byte = _BZIP2_SECONDS_A_BYTE
        case "tar.zst":
            a_byte = _ZSTD_SECONDS_A_BYTE[level]
        case _:
            a_byte = _DEFLATE_SECONDS_A_BYTE[level]
    a_file = _SECONDS_A_FILE
    if encrypted:
        a_byte, a_file = a_byte + _AES_SECONDS_A_BYTE, a_file + _AES_SECONDS_A_FILE
    return files * a_file + size_bytes * a_byte


def plan_backup(
    kept: Path,
    roots: Sequence[Root],
    staging: Path,
    *,
    total_bytes: int,
    level: int,
    workers: int,
    archive_format: str = ZIP,
    encrypted: bool = False,
    chunk_size: int | None = None,
    cluster: str = "auto",
    processes_fit: bool = True,
    helpers_fit: bool = True,
) -> BackupPlan:
    """Cut the entries of the file `kept` into batches below `staging`, and deal them out.

    `chunk_size` bounds the files of a batch; `encrypted` says that every ZIP member will be. Two
    passes; holds one batch, the list of large files with their folders, and, for tar, the files
    that have several names in memory.
    """
    (staging / "batches").mkdir(exist_ok=True)
    (staging / "segments").mkdir(exist_ok=True)
    (staging / "progress").mkdir(exist_ok=True)
    batch_bytes = min(
        max(total_bytes // (workers * _BATCHES_A_WORKER), _LEAST_BATCH_BYTES), _MOST_BATCH_BYTES
    )
    batch_files = chunk_size or _MOST_BATCH_FILES
    sorter = _Sorter(kept, roots, archive_format, total_bytes)
    small = 0
    for group in sorter.groups(batch_bytes, batch_files):
        write_batch(batch_path(staging, small, 0), Batch(group))
        small += 1
    parts = 0
    for batch in sorter.large_batches():
        write_batch(batch_path(staging, parts, parts + 1), batch)
        parts += 1
    batches = parts + small
    links = 0
    for batch in sorter.link_batches(batch_files):
        write_batch(batch_path(staging, batches + links, parts), batch)
        links += 1
    job = Job(list(roots), level, parts, batches, archive_format, links, encrypted)
    job_path(staging).write_bytes(msgspec.msgpack.encode(job))
    seconds = seconds_of(
        archive_format, level, files=sorter.files, size_bytes=sorter.bytes, encrypted=encrypted
    )
    return BackupPlan(
        staging=staging,
        files=sorter.files,
        folders=sorter.folders,
        bytes=sorter.bytes,
        batches=batches,
        parts=parts,
        hands=tuple(deal(batches, workers, least=_batches_worth_a_task(batches, seconds))),
        workers=workers,
        level=level,
        format=archive_format,
        cluster=choose_cluster(
            cluster,
            seconds=seconds,
            locked_seconds=sorter.files * _LOCKED_SECONDS_A_FILE,
            workers=workers,
            processes_fit=processes_fit,
            helpers_fit=helpers_fit,
        ),
        estimated_seconds=seconds / workers,
    )


class Large(NamedTuple):
    """A file to be cut into parts; `data_map` if it is sparse."""

    entry: Entry
    data_map: list[Run] | None


class _Sorter:
    """Sorts entries into batches: first the small files, meanwhile collecting all others."""

    def __init__(
        self, kept: Path, roots: Sequence[Root], archive_format: str, total_bytes: int
    ) -> None:
        self.files = self.folders = self.bytes = 0
        self._kept = kept
        self._roots = roots
        self._is_tar = archive_format in TAR_FORMATS
        self._above = _folders_above_large(kept) if total_bytes > PART_BYTES else {}
        self._large: list[Large] = []
        self._names: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._links: list[tuple[Entry, tuple[int, bytes]]] = []

    def groups(self, batch_bytes: int, batch_files: int) -> Iterator[list[Entry]]:
        """Yield the entries of each batch of whole files."""
        group: list[Entry] = []
        group_bytes = 0
        for entry in read_entries(self._kept):
            if entry.kind == entries.FOLDER:
                self.folders += 1
                if self._above and (entry.root, entry.path) in self._above:
                    self._above[entry.root, entry.path] = entry
                    continue
            else:
                self.files += 1
                if entry.links > 1 and self._is_tar and self._is_another_name(entry):
                    continue
            if entry.kind == entries.FILE:
                size = entry.size
                if size > PART_BYTES:
                    large = self._look_at(entry)
                    size = entry.size if large.data_map is None else data_size(large.data_map)
                    if size > PART_BYTES:
                        self.bytes += size
                        self._large.append(large)
                        continue
                self.bytes += size
                group_bytes += size
            group.append(entry)
            if group_bytes >= batch_bytes or len(group) >= batch_files:
                yield group
                group, group_bytes = [], 0
        # Above what has turned out to be no large file.
        group += self._unclaimed_folders()
        if group:
            yield group

    def _is_another_name(self, entry: Entry) -> bool:
        place = (entry.root, entry.path)
        first = self._names.setdefault((entry.device, entry.inode), place)
        if first == place:
            return False
        self._links.append((entry, first))
        return True

    def _look_at(self, entry: Entry) -> Large:
        """Find the holes of a large file; one that can't be read now is told when it is."""
        if not self._is_tar:
            return Large(entry, None)
        return with_holes(self._roots[entry.root].disk_path(entry.path), entry)

    def _unclaimed_folders(self) -> list[Entry]:
        claimed = {
            (large.entry.root, path)
            for large in self._large
            for path in _paths_above(large.entry.path)
        }
        found = [self._above.pop(place) for place in list(self._above) if place not in claimed]
        return [folder for folder in found if folder is not None]

    def large_batches(self) -> Iterator[Batch]:
        """Yield the parts of each large file, and before them the folders above it."""
        for large in self._large:
            entry = large.entry
            folders = [
                folder
                for path in _paths_above(entry.path)
                if (folder := self._above.pop((entry.root, path), None)) is not None
            ]
            if folders:
                yield Batch(folders)
            for part in cut_parts(entry.size, large.data_map):
                yield Batch([entry], part)

    def link_batches(self, batch_files: int) -> Iterator[Batch]:
        """Yield batches of hard links."""
        for at in range(0, len(self._links), batch_files):
            links = self._links[at : at + batch_files]
            yield Batch([entry for entry, _ in links], firsts=[first for _, first in links])


def with_holes(path: bytes, entry: Entry) -> Large:
    """Look where a large file has data; give it with what it is like at that moment.

    Another file in its place is left for those who read it.
    """
    try:
        fd, status = open_source(path)
    except SourceError:
        return Large(entry, None)
    try:
        runs = data_runs(fd, status.st_size) if may_have_holes(status) else None
    finally:
        os.close(fd)
    if runs is None or (status.st_dev, status.st_ino) != (entry.device, entry.inode):
        return Large(entry, None)
    state = state_of(status)
    seen = msgspec.structs.replace(
        entry, size=state.size, mtime_ns=state.mtime_ns, ctime_ns=state.ctime_ns
    )
    return Large(seen, runs)


def cut_parts(
    size: int, data_map: list[Run] | None = None, *, count: int | None = None
) -> Iterator[Part]:
    """Cut a file of `size` bytes, or the data of a sparse one, into parts of nearly one length.

    The number of parts is what PART_BYTES asks for, or `count`; then some may be empty.
    """
    runs = [(0, size)] if data_map is None else data_map
    total = data_size(runs)
    wanted = count or -(-total // PART_BYTES)
    groups = list(cut_runs(runs, max(1, -(-total // wanted))))
    groups += [[] for _ in range(wanted - len(groups))]
    for number, group in enumerate(groups):
        yield Part(number, wanted, group, total, data_map if number == 0 else None)


def _folders_above_large(kept: Path) -> dict[tuple[int, bytes], Entry | None]:
    """Find what folders lie above files that are cut into parts: root and path, no entry yet."""
    return {
        (entry.root, path): None
        for entry in read_entries(kept)
        if entry.size > PART_BYTES and entry.kind == entries.FILE
        for path in _paths_above(entry.path)
    }


def _paths_above(path: bytes) -> list[bytes]:
    """Give the paths of the folders above `path` in its root, the outermost first."""
    if not path:
        return []
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(len(parts))]


def _batches_worth_a_task(batches: int, seconds: float) -> int:
    """Give how many batches make a hand that is worth the cost of a task run."""
    return max(1, int(_LEAST_TASK_SECONDS * batches / seconds)) if seconds > 0 else batches


def deal(batches: int, workers: int, *, least: int = 1) -> Iterator[Hand]:
    """Deal the numbers below `batches` out in waves; see the module's text.

    Makes about `workers * log(batches / workers)` hands, of `least` batches or more but for the
    last few.
    """
    start = 0
    while start < batches:
        left = batches - start
        size = min(left, max(workers * least, int(left * _WAVE_SHARE)))
        stop = start + size
        for worker in range(min(workers, size)):
            yield Hand(start + worker, stop, workers)
        start = stop


def choose_cluster(
    wanted: str,
    *,
    seconds: float,
    locked_seconds: float,
    workers: int,
    processes_fit: bool,
    helpers_fit: bool = False,
) -> str:
    """Give where the work is done: `direct`, `threads`, `helpers`, `processes`, or `wanted`.

    `wanted` is `auto`, one of these or an address. `seconds` is the work of one core,
    `locked_seconds` its share under the interpreter lock. Threads start at once but share the
    lock; a cluster's processes cost seconds to start. Helpers can only do what they were made for.
    """
    if wanted != "auto":
        return wanted
    if seconds < _DIRECT_SECONDS:
        return DIRECT
    if workers == 1:
        return THREADS
    if helpers_fit:
        return HELPERS if locked_seconds * _WAITING > _HELPERS_START_SECONDS else THREADS
    by_threads = max(seconds / workers, locked_seconds * 1.3)
    by_processes = _PROCESSES_START_SECONDS + seconds / workers
    return THREADS if by_threads <= by_processes or not processes_fit else PROCESSES


def read_job(staging: Path) -> Job:
    """Read what `plan_backup` wrote for the workers.

    Raises StorageError if it is not there, as on a host that does not see that folder.
    """
    try:
        return msgspec.msgpack.decode(job_path(staging).read_bytes(), type=Job)
    except FileNotFoundError:
        raise StorageError(
            f"{staging}: is not there for this worker; name a folder that all hosts see by "
            "--staging, or leave out --cluster, or what keeps workers from sending by themselves "
            "(--split, a wrapper, --bandwidth-limit)"
        ) from None


def read_batch(staging: Path, number: int, parts: int) -> Batch:
    """Read one batch."""
    return msgspec.msgpack.decode(batch_path(staging, number, parts).read_bytes(), type=Batch)


def write_batch(path: Path, value: Batch) -> None:
    """Write one batch, replacing what was there."""
    path.write_bytes(msgspec.msgpack.encode(value))
