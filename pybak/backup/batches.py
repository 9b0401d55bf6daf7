"""What a run leaves in its staging folder for those who compress: the job and its batches.

A batch is what a compress task turns into one segment: files of a few MiB together, or a part of
one large file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from pybak.backup.parts import Part
from pybak.entries import Entry, Root
from pybak.errors import StorageError

ZIP: Final = "zip"


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
