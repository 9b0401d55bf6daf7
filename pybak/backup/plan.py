"""Decide how a backup is done before anything is written: batches, order, workers.

Parts of large files come first, each behind the folders above it as far as no
earlier one has them (programs like unzip set a folder's mode and time only where its entry comes
before its content). Then come the other files in the order of the walk, and last, in formats that
keep them, hard links: names of files that are in the archive under another name already. That is
also the order of the archive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from pybak import entries
from pybak.backup.batches import ZIP, Batch, Job, batch_path, job_path, write_batch
from pybak.backup.costs import LOCKED_SECONDS_A_FILE, seconds_of
from pybak.backup.hands import Hand, deal
from pybak.backup.parts import PART_BYTES, Large, cut_parts, with_holes
from pybak.clusters import choose_cluster
from pybak.entries import Entry, Root, read_entries
from pybak.formats.sparse import data_size
from pybak.formats.streams import TAR_FORMATS

_LEAST_BATCH_BYTES = 4 << 20
_MOST_BATCH_BYTES = 32 << 20
_BATCHES_A_WORKER = 64
_MOST_BATCH_FILES = 2000
_LEAST_TASK_SECONDS = 0.2
"""A task run costs 20 to 40 ms of the flow's process; shorter ones cost more than they balance."""


class BackupPlan(msgspec.Struct, frozen=True):
    """What a run will do. Batches lie in `staging` as files; here are only numbers.

    `uids` and `gids` are the owners and groups of all that is saved.
    """

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
    uids: tuple[int, ...]
    gids: tuple[int, ...]


class PlanOrder(NamedTuple):
    """What a plan is made of: the entries of the file `kept`, `total_bytes` of content.

    `chunk_size` bounds the files of a batch; `encrypted` says that every ZIP member will be.
    """

    kept: Path
    roots: tuple[Root, ...]
    staging: Path
    total_bytes: int
    level: int
    workers: int
    archive_format: str = ZIP
    encrypted: bool = False
    chunk_size: int | None = None
    cluster: str = "auto"
    processes_fit: bool = True
    helpers_fit: bool = True


def plan_backup(order: PlanOrder) -> BackupPlan:
    """Cut entries into batches below the staging folder, and deal them out.

    Two passes; holds one batch, the list of large files with their folders, and, for tar, the files
    that have several names in memory.
    """
    staging, total_bytes, workers = order.staging, order.total_bytes, order.workers
    (staging / "batches").mkdir(exist_ok=True)
    (staging / "segments").mkdir(exist_ok=True)
    (staging / "progress").mkdir(exist_ok=True)
    batch_bytes = min(
        max(total_bytes // (workers * _BATCHES_A_WORKER), _LEAST_BATCH_BYTES), _MOST_BATCH_BYTES
    )
    batch_files = order.chunk_size or _MOST_BATCH_FILES
    sorter = _Sorter(order.kept, order.roots, order.archive_format, total_bytes)
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
    job = Job(
        list(order.roots), order.level, parts, batches, order.archive_format, links, order.encrypted
    )
    job_path(staging).write_bytes(msgspec.msgpack.encode(job))
    seconds = seconds_of(
        order.archive_format, order.level, files=sorter.files, size_bytes=sorter.bytes,
        encrypted=order.encrypted,
    )  # fmt: skip
    return BackupPlan(
        staging=staging,
        files=sorter.files,
        folders=sorter.folders,
        bytes=sorter.bytes,
        batches=batches,
        parts=parts,
        hands=tuple(deal(batches, workers, least=_batches_worth_a_task(batches, seconds))),
        workers=workers,
        level=order.level,
        format=order.archive_format,
        cluster=choose_cluster(
            order.cluster,
            seconds=seconds,
            locked_seconds=sorter.files * LOCKED_SECONDS_A_FILE,
            workers=workers,
            processes_fit=order.processes_fit,
            helpers_fit=order.helpers_fit,
        ),
        estimated_seconds=seconds / workers,
        uids=tuple(sorted(sorter.uids)),
        gids=tuple(sorted(sorter.gids)),
    )


class _Sorter:
    """Sorts entries into batches: first the small files, meanwhile collecting all others."""

    def __init__(
        self, kept: Path, roots: Sequence[Root], archive_format: str, total_bytes: int
    ) -> None:
        self.files = self.folders = self.bytes = 0
        self.uids: set[int] = set()
        self.gids: set[int] = set()
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
            self.uids.add(entry.uid)
            self.gids.add(entry.gid)
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
