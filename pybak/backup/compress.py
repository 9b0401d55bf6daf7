"""Turn batches into segments, in any format; this is what compress tasks call.

A batch whose segment is there already is left alone, so running a task again does only what is
missing; see `pybak.backup.segments` for how a segment appears.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Final

from pybak import staging
from pybak.backup.batches import Batch, Job, index_path, read_batch, read_job, segment_path
from pybak.backup.check_password import check_password, needed
from pybak.backup.pack_tar import TarPacker
from pybak.backup.pack_tar_part import pack_tar_part
from pybak.backup.pack_zip import ZipPacker, pack_zip_part
from pybak.backup.packing import Advance, BatchPacker, Work
from pybak.backup.read_source import Read
from pybak.backup.segments import Place, SegmentIndex, SegmentWriter, publish_index
from pybak.backup.stretches import send_stretch, stretch_from
from pybak.backup.window import wait_for_room
from pybak.errors import Interrupted, StorageError
from pybak.formats.streams import TAR_FORMATS

NOBODY: Final[Advance] = lambda _files, _bytes, _path: None  # noqa: E731
"""For work that is reported already."""


def compress_batches(
    folder: Path,
    numbers: Iterable[int],
    *,
    password: bytes | None = None,
    advance: Advance = NOBODY,
    read: Read = os.pread,
) -> int:
    """Compress the batches `numbers` of the staging folder; give how many were done.

    `password` is needed where the job says that members are encrypted, and must be the run's.
    Raises PlanError if it is not, Interrupted once a cancel was requested, StorageError if staging
    can't be written.
    """
    job = read_job(folder)
    if job.encrypted:
        check_password(folder, password)
    numbers = list(numbers)

    def make(number: int) -> SegmentIndex:
        batch = read_batch(folder, number, job.parts)
        return make_segment(
            folder, number, job, batch, password=password, advance=advance, read=read
        )

    if (stretch := stretch_from(folder, numbers)) is not None:
        with _translated(folder):
            send_stretch(folder, job, stretch, make)
        return len(numbers)
    done = 0
    for number in numbers:
        if staging.is_cancelled(folder):
            raise Interrupted("stopped on request")
        if not index_path(folder, number).exists():
            wait_for_room(folder, number)
            with _translated(folder):
                _publish(folder, number, make(number))
        done += 1
    return done


def compress_batch(
    folder: Path,
    number: int,
    job: Job,
    batch: Batch,
    *,
    password: bytes | None = None,
    missing: frozenset[Place] = frozenset(),
    stand_ins: MutableMapping[Place, bytes] | None = None,
    advance: Advance = NOBODY,
    read: Read = os.pread,
) -> None:
    """Compress one batch into its segment and index; does nothing where an index is by then.

    `missing` are the files (root and path) that hard links can't refer to, for the archive does
    not hold them; such links are packed as files, and `stand_ins` tells from batch to batch which
    (see `BatchPacker.run`). Raises PlanError without a password that is needed.
    """
    with _translated(folder):
        index = make_segment(
            folder, number, job, batch, password=password, missing=missing, stand_ins=stand_ins,
            advance=advance, read=read,
        )  # fmt: skip
        _publish(folder, number, index)


def _publish(folder: Path, number: int, index: SegmentIndex) -> None:
    if not publish_index(folder, number, index):
        segment_path(folder, index.segment).unlink(missing_ok=True)


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{folder.parent}: {staging.reason(error)}; free some space or choose another --staging"
        ) from error


def make_segment(
    folder: Path,
    number: int,
    job: Job,
    batch: Batch,
    *,
    password: bytes | None = None,
    missing: frozenset[Place] = frozenset(),
    stand_ins: MutableMapping[Place, bytes] | None = None,
    advance: Advance = NOBODY,
    read: Read = os.pread,
) -> SegmentIndex:
    """Compress one batch into a segment, and give its index; see `compress_batch`.

    Raises OSError where the segment can't be written.
    """
    own = needed(password) if job.encrypted else None
    segment = segment_path(folder, f"{number:07d}.{os.urandom(8).hex()}")
    try:
        with SegmentWriter(segment) as out:
            work = Work(folder, job, out, advance, read, own)
            return _pack(work, batch, missing, stand_ins)
    except BaseException:
        segment.unlink(missing_ok=True)
        raise


def _pack(
    work: Work,
    batch: Batch,
    missing: frozenset[Place],
    stand_ins: MutableMapping[Place, bytes] | None,
) -> SegmentIndex:
    is_tar = work.job.format in TAR_FORMATS
    if batch.part is not None:
        pack_part: Callable[[Batch, Work], SegmentIndex]
        pack_part = pack_tar_part if is_tar else pack_zip_part
        return pack_part(batch, work)
    packer: BatchPacker = TarPacker(work) if is_tar else ZipPacker(work)
    return packer.run(batch, missing, stand_ins)
