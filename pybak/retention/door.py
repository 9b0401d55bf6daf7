"""How a consolidated archive gets to its place: named in a local folder, or sent to a storage.

Either way it appears whole, the first volume last, and never replaces a file. What goes to a
storage is made in PYBAK_HOME/staging; what a kill leaves of it the next run removes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from pybak.catalog.facts import StoredVolume
from pybak.errors import StorageError
from pybak.home import home
from pybak.staging import reason
from pybak.storage import local, naming, remote
from pybak.storage.local_folder import FolderStorage
from pybak.storage.opening import join
from pybak.storage.unfinished import clean_up, notes_folder
from pybak.transfer.copying import ArchiveCopy, SourceFile
from pybak.transfer.streaming import FileAt, Stream
from pybak.volumes.model import Volume
from pybak.volumes.write import WHOLE_DIGEST, FinishedVolume, digests_of

_THREADS: Final = 4


class Put(NamedTuple):
    """An archive in its place: what people name to get it back, and its files."""

    name: str
    volumes: tuple[Volume, ...]


class Door(Protocol):
    """The way of one archive into a folder; `choose` comes first. Errors are StorageErrors."""

    @property
    def parent(self) -> Path:
        """Where work folders are made."""

    def choose(
        self, *, job: str | None, now: datetime, suffix: str, taken: Sequence[str], is_split: bool
    ) -> str:
        """Give a name that is free; see `pybak.storage.local.choose`."""

    def path(self, name: str) -> str:
        """Give the path or address of a file there."""

    def uri(self, name: str) -> str:
        """Give what the catalog calls it."""

    def publish(
        self,
        finished: Sequence[FinishedVolume],
        kinds: Sequence[str],
        *,
        end: str,
        stop_if_asked: Callable[[], None],
    ) -> Put:
        """Have the archive appear, with checksum files; `end` is what its name ends with."""

    def close(self) -> None:
        """Tidy up."""


class LocalDoor:
    """Into a local folder, beside the archives that are there."""

    def __init__(self, folder: str) -> None:
        self.parent = Path(folder)

    def choose(
        self, *, job: str | None, now: datetime, suffix: str, taken: Sequence[str], is_split: bool
    ) -> str:
        """Give a name that is free."""
        self._place = local.choose(
            None, str(self.parent), job=job, now=now, suffix=suffix, create=False, taken=taken,
            is_split=is_split,
        )  # fmt: skip
        return self._place.name

    def path(self, name: str) -> str:
        """Give a path."""
        return str(self.parent / name)

    def uri(self, name: str) -> str:
        """Give a `file://` URI."""
        return (self.parent / name).as_uri()

    def publish(
        self,
        finished: Sequence[FinishedVolume],
        kinds: Sequence[str],
        *,
        end: str,
        stop_if_asked: Callable[[], None],  # noqa: ARG002 - as the protocol has it
    ) -> Put:
        """Give the files their names."""
        stored = local.publish(finished, self._place, kinds=kinds)
        return Put(f"{stored.path}{end}", stored.volumes)

    def close(self) -> None:
        """Do nothing."""


class StorageDoor:
    """Into a folder of a storage, sent from this machine. Removes what killed runs left there."""

    def __init__(self, address: str, run_id: str) -> None:
        self._address = address
        self._run_id = run_id
        self.parent = home() / "staging"
        try:
            self.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.parent}: {reason(error)}; PYBAK_HOME must be writable"
            ) from error

    def choose(
        self, *, job: str | None, now: datetime, suffix: str, taken: Sequence[str], is_split: bool
    ) -> str:
        """Give a name that is free. Raises NotFoundError for a missing bucket."""
        self._place = remote.choose(
            None, self._address, job=job, now=now, suffix=suffix, taken=taken, is_split=is_split
        )
        clean_up(self._place.storage, job)
        return self._place.name

    def path(self, name: str) -> str:
        """Give an address."""
        return join(self._address, name)

    uri = path

    def publish(
        self,
        finished: Sequence[FinishedVolume],
        kinds: Sequence[str],
        *,
        end: str,
        stop_if_asked: Callable[[], None],
    ) -> Put:
        """Send the files, compared with the digests that were made as they were written."""
        name = self._place.name
        folder = finished[0].path.parent / "named"
        folder.mkdir()
        sums = [_sums(volume, kinds) for volume in finished]
        names = [name + volume.suffix for volume in finished]
        for volume, its_name in zip(finished, names, strict=True):
            volume.path.rename(folder / its_name)
        for kind in kinds:
            lines = naming.sum_lines(kind, list(zip(names, sums, strict=True)))
            (folder / f"{name}.{kind}").write_bytes(lines)
        made = FolderStorage(os.fspath(folder))
        files = [_source(made, *one) for one in zip(names, finished, sums, strict=True)]
        with Stream(folder.parent, threads=_THREADS, stop_if_asked=stop_if_asked) as stream:
            copied = ArchiveCopy(
                files, self._place.storage, stream, notes=(notes_folder(), self._run_id),
                reads_back=False,
            ).run(name + end)  # fmt: skip
        return Put(self.path(name + end), copied.volumes)

    def close(self) -> None:
        """Remove the folder of work folders, if nobody works there."""
        with contextlib.suppress(OSError):
            self.parent.rmdir()


def _sums(volume: FinishedVolume, kinds: Sequence[str]) -> dict[str, str]:
    missing = [kind for kind in kinds if kind not in volume.sums]
    return volume.sums | (digests_of(volume.path, missing) if missing else {})


def _source(
    made: FolderStorage, name: str, volume: FinishedVolume, sums: dict[str, str]
) -> SourceFile:
    known = made.stat(name)
    if known is None or known.size != volume.size:
        size = known.size if known else 0
        raise StorageError(
            f"{made.address}/{name}: holds {size} bytes, {volume.size} were written; check the disk"
        )
    whole = sums.get(WHOLE_DIGEST)
    parts = () if whole else tuple((part.size, part.sha256) for part in volume.parts)
    return SourceFile(FileAt(made, known), StoredVolume("", volume.size, whole, parts))
