"""Decide how a backup is done before anything is written: batches, order, workers.

A batch is what a compress task turns into one segment: files of a few MiB together, or a part of
one large file. Parts of large files come first, then the other files in the order of the walk;
that is also the order of the archive.

Batches are dealt out in waves. A wave takes most of what is left and deals it like cards, one
hand a task, so that every worker walks through the archive at the same pace; the last waves are
single batches, so that nobody waits long for the last one to finish.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from pybak import entries
from pybak.entries import Entry, Root, read_entries

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
_SECONDS_A_BYTE = {
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
_LOCKED_SECONDS_A_FILE = 45e-6
"""The part of a file's cost that holds the interpreter lock: threads can't share it."""
_LEAST_TASK_SECONDS = 0.2
"""A task run costs 20 to 40 ms of the flow's process; shorter ones cost more than they balance."""
_DIRECT_SECONDS = 0.8
"""Work of less than this is done in the flow: starting a cluster takes longer."""
_PROCESSES_START_SECONDS = 3.5

DIRECT: Final = "direct"
THREADS: Final = "threads"
PROCESSES: Final = "processes"


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A run of bytes of one large file: the `number`th of `count` parts, from 0."""

    number: int
    count: int
    offset: int
    length: int


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What one compress call takes. With `part`, `entries` holds just the large file.

    `folders` are for the first part of a large file: those above it, as far as no earlier large
    file has them. Programs like unzip set a folder's mode and time only where its entry comes
    before its content.
    """

    entries: list[Entry]
    part: Part | None = None
    folders: list[Entry] = []


class Job(msgspec.Struct, frozen=True):
    """What every batch of a run shares; written once for the workers to read.

    Batches are numbered in archive order. `parts` of them are parts of large files.
    """

    roots: list[Root]
    level: int
    parts: int
    batches: int


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


def plan_backup(
    kept: Path,
    roots: Sequence[Root],
    staging: Path,
    *,
    total_bytes: int,
    level: int,
    workers: int,
    chunk_size: int | None = None,
    cluster: str = "auto",
    processes_fit: bool = True,
) -> BackupPlan:
    """Cut the entries of the file `kept` into batches below `staging`, and deal them out.

    `chunk_size` bounds the files of a batch. Two passes; holds one batch, and the list of large
    files with their folders, in memory.
    """
    (staging / "batches").mkdir(exist_ok=True)
    (staging / "segments").mkdir(exist_ok=True)
    (staging / "progress").mkdir(exist_ok=True)
    batch_bytes = min(
        max(total_bytes // (workers * _BATCHES_A_WORKER), _LEAST_BATCH_BYTES), _MOST_BATCH_BYTES
    )
    batch_files = chunk_size or _MOST_BATCH_FILES
    large: list[Entry] = []
    above = _folders_above_large(kept) if total_bytes > PART_BYTES else {}
    counts = _Counts()
    small = 0
    for group in _groups(kept, large, above, counts, batch_bytes, batch_files):
        _write(batch_path(staging, small, 0), Batch(group))
        small += 1
    parts = 0
    for entry in large:
        folders = [
            folder
            for path in _paths_above(entry.path)
            if (folder := above.pop((entry.root, path), None)) is not None
        ]
        for part in _parts(entry.size):
            first = folders if part.number == 0 else []
            _write(batch_path(staging, parts, parts + 1), Batch([entry], part, first))
            parts += 1
    batches = parts + small
    job_path(staging).write_bytes(msgspec.msgpack.encode(Job(list(roots), level, parts, batches)))
    seconds = counts.files * _SECONDS_A_FILE + counts.bytes * _SECONDS_A_BYTE[level]
    return BackupPlan(
        staging=staging,
        files=counts.files,
        folders=counts.folders,
        bytes=counts.bytes,
        batches=batches,
        parts=parts,
        hands=tuple(deal(batches, workers, least=_batches_worth_a_task(batches, seconds))),
        workers=workers,
        level=level,
        cluster=choose_cluster(
            cluster,
            seconds=seconds,
            locked_seconds=counts.files * _LOCKED_SECONDS_A_FILE,
            workers=workers,
            processes_fit=processes_fit,
        ),
        estimated_seconds=seconds / workers,
    )


class _Counts:
    files = 0
    folders = 0
    bytes = 0


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


def _groups(
    kept: Path,
    large: list[Entry],
    above: dict[tuple[int, bytes], Entry | None],
    counts: _Counts,
    batch_bytes: int,
    batch_files: int,
) -> Iterator[list[Entry]]:
    """Yield the entries of each batch.

    Files to be cut into parts go to `large` instead, and the folders that `above` asks for there.
    """
    group: list[Entry] = []
    group_bytes = 0
    for entry in read_entries(kept):
        if entry.kind == entries.FOLDER:
            counts.folders += 1
            if above and (entry.root, entry.path) in above:
                above[entry.root, entry.path] = entry
                continue
        else:
            counts.files += 1
        if entry.kind == entries.FILE:
            counts.bytes += entry.size
            if entry.size > PART_BYTES:
                large.append(entry)
                continue
            group_bytes += entry.size
        group.append(entry)
        if group_bytes >= batch_bytes or len(group) >= batch_files:
            yield group
            group, group_bytes = [], 0
    if group:
        yield group


def _parts(size: int) -> Iterator[Part]:
    """Cut `size` bytes into parts of nearly the same length."""
    count = -(-size // PART_BYTES)
    length = -(-size // count)
    for number in range(count):
        offset = number * length
        yield Part(number, count, offset, min(length, size - offset))


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
    wanted: str, *, seconds: float, locked_seconds: float, workers: int, processes_fit: bool
) -> str:
    """Give where the work is done: `direct`, `threads`, `processes`, or the address in `wanted`.

    `seconds` is the work of one core, `locked_seconds` its share under the interpreter lock.
    Threads start at once but share the lock; processes cost seconds to start.
    """
    if wanted != "auto":
        return wanted
    if seconds < _DIRECT_SECONDS:
        return DIRECT
    if workers == 1 or not processes_fit:
        return THREADS
    by_threads = max(seconds / workers, locked_seconds * 1.3)
    by_processes = _PROCESSES_START_SECONDS + seconds / workers
    return THREADS if by_threads <= by_processes else PROCESSES


def read_job(staging: Path) -> Job:
    """Read what `plan_backup` wrote for the workers."""
    return msgspec.msgpack.decode(job_path(staging).read_bytes(), type=Job)


def read_batch(staging: Path, number: int, parts: int) -> Batch:
    """Read one batch."""
    return msgspec.msgpack.decode(batch_path(staging, number, parts).read_bytes(), type=Batch)


def _write(path: Path, value: Batch) -> None:
    path.write_bytes(msgspec.msgpack.encode(value))
