"""What a restore and a check have in common: a work folder, workers, a way to be stopped."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from pybak.clusters import choose_cluster
from pybak.formats.archive import Limits
from pybak.options.read import ReadOptions
from pybak.paths import absolute
from pybak.resources import default_workers, usable_cpus
from pybak.staging import WorkFolder, remove_leftovers
from pybak.stoppable import Stoppable
from pybak.volumes.find import VolumeSet

TASKS_A_WORKER: Final = 4


def volume_set(archive: VolumeSet | Path) -> VolumeSet:
    """Give the set that an archive of one file is."""
    if isinstance(archive, Path):
        path = os.fsencode(archive)
        return VolumeSet((path,), path)
    return archive


def name_of(archive: VolumeSet | Path) -> str:
    """Give the path that people know an archive by: without the volume's number."""
    return os.fsdecode(volume_set(archive).base)


def paths_of(volumes: VolumeSet) -> tuple[bytes, ...]:
    """Give the absolute paths, or the addresses, of an archive's files."""
    return tuple(map(absolute, volumes.paths))


class ReadRun(Stoppable):
    """A run that reads archives, and its work folder; a context manager that removes the latter."""

    def __init__(self, options: ReadOptions, *, now: datetime | None = None) -> None:
        """Make the work folder. Raises StorageError if there is no place for temporary files."""
        self.run_id = str(uuid4())
        self.started_at = now or datetime.now(UTC)
        self.workers = options.workers or default_workers(usable_cpus())
        self._reading = options
        self._folder = open_work_folder(self.run_id)
        self.staging = self._folder.path

    @property
    def tasks(self) -> int:
        """How many batches there may be."""
        return self.workers * TASKS_A_WORKER

    @property
    def limits(self) -> Limits:
        """What an archive may unpack to."""
        return limits(self._reading.max_ratio, self._reading.max_members)

    @property
    def duration_seconds(self) -> float:
        """How long it has taken so far."""
        return (datetime.now(UTC) - self.started_at).total_seconds()

    def choose_cluster(
        self, *, seconds: float, locked_seconds: float, helpers_fit: bool = False
    ) -> str:
        """Give where batches are done that take one core so long; see `pybak.clusters`."""
        return choose_cluster(
            self._reading.cluster,
            seconds=seconds,
            locked_seconds=locked_seconds,
            workers=self.workers,
            processes_fit=True,
            helpers_fit=helpers_fit,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.remove()


def open_work_folder(run_id: str) -> WorkFolder:
    """Make a run's folder among the temporary files; remove what killed runs left there.

    Raises StorageError if it can't be made.
    """
    parent = Path(tempfile.gettempdir())
    remove_leftovers(parent)
    return WorkFolder.create(parent, run_id)


def limits(max_ratio: float | None, max_members: int | None) -> Limits:
    """Give the limits of a reader; None means its own."""
    own = Limits()
    return Limits(
        members=own.members if max_members is None else max_members,
        ratio=own.ratio if max_ratio is None else max_ratio,
        free_size=own.free_size,
    )
