"""Further places of one run's archive: looked at before any file is read, filled at the end.

The archive has the same name everywhere. Each copy is made from the published archive
(`pybak.transfer.copying`): all of it appears or nothing. A place that can't be used costs its own
copy and no more; what it was is told by the copy's outcome.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeVar

import msgspec

from pybak.display import printable, shell_word
from pybak.errors import (
    ArchiveError,
    ExistsError,
    Interrupted,
    NotFoundError,
    PlanError,
    PyBakError,
    StorageError,
)
from pybak.options import BackupOptions
from pybak.paths import user_path
from pybak.portable import from_portable
from pybak.report.copies import CANCELLED, FAILED, CopyOutcome
from pybak.staging import reason, remove_leftovers
from pybak.storage import local, remote
from pybak.storage.bandwidth import Bandwidth
from pybak.storage.opening import is_remote, join, open_storage, split
from pybak.storage.patience import patiently
from pybak.storage.unfinished import clean_up, notes_folder
from pybak.units import format_count, parse_size
from pybak.volumes.model import Volume

if TYPE_CHECKING:
    from pybak.catalog.facts import ArchiveFacts
    from pybak.transfer.copying import SourceFile

Advance = Callable[[int, int, bytes], None]
"""Called with the files finished and the bytes read since the last call, and the file's path."""

MEMORY: Final = 128 << 20
"""What all copies together hold of the archive while they send it; more waits on disk."""
_PROBE: Final = "pybak"


class Destination(Protocol):
    """Where the archive itself goes; see `pybak.storage.local.Destination`."""

    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def fixed(self) -> bool: ...  # noqa: D102
    def is_taken(self, endings: Sequence[str]) -> bool: ...  # noqa: D102
    def next(self) -> Self: ...  # noqa: D102
    def undo(self) -> None: ...  # noqa: D102


_Place = TypeVar("_Place", bound=Destination)


class CopyPlace:
    """A folder that gets a copy. `trouble` tells why it can't be used, if it can't."""

    def __init__(self, wanted: str) -> None:
        """Raises PlanError for what is no path and no address."""
        self.trouble: str | None = None
        self.made_folders: tuple[Path, ...] = ()
        text = from_portable(wanted)
        if not text:
            raise PlanError("--also-to: names no place; give a folder or an address")
        if is_remote(text):
            self.address = text.rstrip("/")
            return
        try:
            self.address = str(user_path(text))
        except PlanError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno == errno.ENAMETOOLONG:
                raise
            self.address = os.path.abspath(os.path.expanduser(text))
            self.trouble = f"{printable(text)}: {reason(cause)}; see that it is mounted"

    def __str__(self) -> str:
        return printable(self.address)

    @property
    def folder(self) -> Path | None:
        """Its path, if it is no storage."""
        return None if is_remote(self.address) else Path(self.address)

    def is_same(self, address: str) -> bool:
        """Whether another folder is this one, as far as their names tell."""
        if is_remote(self.address) or is_remote(address):
            return self.address == address
        return os.path.realpath(self.address) == os.path.realpath(address)

    def look(self, job: str | None, *, is_rehearsal: bool) -> None:
        """See that it can be used; make a local folder, remove what killed runs left.

        With `is_rehearsal` nothing is changed. Raises PlanError for what is no address.
        """
        if self.trouble is not None:
            return
        try:
            storage = open_storage(self.address)
            if is_rehearsal:
                if self.folder is None or self.folder.exists():
                    storage.check()
                return
            if self.folder is None:
                storage.check()
            else:
                self.made_folders = local.make_folder(self.folder)
                remove_leftovers(self.folder)
                storage.abort(storage.begin(_PROBE))  # it can be written
            clean_up(storage, job)
        except (NotFoundError, StorageError) as error:
            self.trouble = str(error)

    def first_taken(self, name: str, endings: Sequence[str], *, with_volumes: bool) -> str | None:
        """Give what is in the way of an archive of this name, with its address."""
        if self.trouble is not None or (self.folder is not None and not self.folder.exists()):
            return None
        try:
            storage = open_storage(self.address)
            found = remote.first_taken(storage, name, endings)
            if found is None and with_volumes:
                found = remote.first_volume(storage, name)
        except (NotFoundError, StorageError) as error:
            self.trouble = str(error)
            return None
        return join(self.address, found) if found is not None else None

    def undo(self) -> None:
        """Remove the folders that were made, as far as they are empty."""
        for folder in reversed(self.made_folders):
            try:
                folder.rmdir()
            except OSError:
                return


class Copies:
    """The copies of one run's archive; without further places there are none."""

    def __init__(self, options: BackupOptions, *, run_id: str, job: str | None) -> None:
        """Take the places that were asked for; nothing is looked at yet.

        Raises PlanError for what is no place, and for one that is named twice.
        """
        self._run_id = run_id
        self._job = job
        self._parts = options.upload_parts
        limit = options.bandwidth_limit
        self._bandwidth = Bandwidth(parse_size(limit)) if limit else None
        self.places = tuple(map(CopyPlace, options.also_to))
        for number, place in enumerate(self.places):
            if any(place.is_same(other.address) for other in self.places[:number]):
                raise PlanError(f"--also-to {place}: is named twice; leave one out")

    def __bool__(self) -> bool:
        return bool(self.places)

    def settle(
        self, destination: _Place, endings: Sequence[str], *, is_split: bool, is_rehearsal: bool
    ) -> _Place:
        """Look at all places, and give the destination with a name that is free in all.

        `endings` are those of files that will be made besides; with `is_split` volumes of any
        number will be. Raises PlanError for a place that is none or the destination itself,
        ExistsError if a name that was asked for is taken; folders that were made are gone then.
        """
        settled = destination
        try:
            self._look(destination.address, is_rehearsal=is_rehearsal)
            with_volumes = is_split and destination.fixed
            while taken := self._first_taken(settled.name, endings, with_volumes):
                settled = _next_free(settled, taken, endings)
        except BaseException:
            self.undo()
            destination.undo()
            raise
        return settled

    def _look(self, destination: str, *, is_rehearsal: bool) -> None:
        for place in self.places:
            if place.is_same(destination):
                raise PlanError(
                    f"--also-to {place}: is where the archive itself goes; name another place"
                )
        for place in self.places:
            place.look(self._job, is_rehearsal=is_rehearsal)

    def _first_taken(self, name: str, endings: Sequence[str], with_volumes: bool) -> str | None:
        found = (one.first_taken(name, endings, with_volumes=with_volumes) for one in self.places)
        return next(filter(None, found), None)

    @property
    def folders(self) -> list[Path]:
        """The places that are local."""
        return [place.folder for place in self.places if place.folder is not None]

    def names(self, archive: str) -> list[str]:
        """Give what the copies of an archive are called."""
        return [join(place.address, os.path.basename(archive)) for place in self.places]

    def troubles(self, archive: str | None = None) -> list[CopyOutcome]:
        """Give the copies that can't be made, as far as that is known before."""
        names = self.names(archive or "")
        return [
            self._failed(place, name, archive, place.trouble)
            for place, name in zip(self.places, names, strict=True)
            if place.trouble is not None
        ]

    def make(
        self,
        number: int,
        archive: str,
        volumes: Sequence[Volume],
        folder: Path,
        *,
        stop_if_asked: Callable[[], object],
        advance: Advance = lambda _files, _size, _path: None,
    ) -> CopyOutcome:
        """Copy a published archive to a place, by its number.

        `folder` takes what is too large for memory. Nothing is raised for what the place, the
        archive or a request to stop do to the copy.
        """
        from pybak.transfer.copying import ItselfError

        place, name = self.places[number], self.names(archive)[number]
        if place.trouble is not None:
            return self._failed(place, name, archive, place.trouble)
        try:
            stop_if_asked()
            made = self._copy(number, archive, volumes, folder, stop_if_asked, advance)
        except PyBakError as error:
            try:
                stop_if_asked()
            except Interrupted as stopped:  # what failed did so because of that
                told = f"{place}: {stopped}"
                return self._failed(place, name, archive, told, status=CANCELLED)
            if isinstance(error, ItselfError):
                told = f"{error.told}; name another --also-to"
                return CopyOutcome(to=place.address, archive=name, status=FAILED, message=told)
            return self._failed(place, name, archive, str(error))
        return CopyOutcome(to=place.address, archive=name, volumes=made)

    def _copy(
        self, number: int, archive: str, volumes: Sequence[Volume], folder: Path,
        stop_if_asked: Callable[[], object], advance: Advance,
    ) -> tuple[Volume, ...]:  # fmt: skip
        from pybak.transfer.copying import ArchiveCopy
        from pybak.transfer.streaming import Stream

        place = self.places[number]
        with Stream(
            folder, threads=self._parts, stop_if_asked=stop_if_asked,
            bandwidth=self._bandwidth if place.folder is None else None,
            memory=MEMORY // len(self.places),
        ) as stream:  # fmt: skip
            copy = ArchiveCopy(
                find_files(volumes), open_storage(place.address), stream,
                notes=(notes_folder(), f"{self._run_id}-copy{number}"), reads_back=False,
                advance=advance,
            )  # fmt: skip
            return copy.run(os.path.basename(archive)).volumes

    def with_lacking(
        self, copies: Sequence[CopyOutcome], needed: Iterable[ArchiveFacts]
    ) -> tuple[CopyOutcome, ...]:
        """Tell of each copy how many archives are not in its place that it is of no use without.

        `copies` are of the places in order, `needed` the earlier archives that the snapshot needs,
        as the catalog knows them.
        """
        from pybak.catalog.copies import places

        earlier = [
            [
                os.path.dirname(from_portable(one.name))
                for one in places(archive, with_leaving=False)
            ]
            for archive in needed
        ]
        told = []
        for place, copy in zip(self.places, copies, strict=True):
            absent = sum(not any(map(place.is_same, folders)) for folders in earlier)
            if copy.is_made and absent:
                count = format_count(absent, "earlier archive")
                message = (
                    f"{place}: needs {count} that {'is' if absent == 1 else 'are'} not there: "
                    f"python flows/transfer.py latest --job {shell_word(self._job or '')} "
                    f"--to {shell_word(place.address)}"
                )
                copy = msgspec.structs.replace(copy, message=message)
            told.append(copy)
        return tuple(told)

    def _failed(
        self, place: CopyPlace, name: str, archive: str | None, told: str, *, status: str = FAILED
    ) -> CopyOutcome:
        if archive is not None:
            what = f"--job {shell_word(self._job)}" if self._job else shell_word(archive)
            to = shell_word(place.address)
            told += f"; to make up for it: python flows/transfer.py {what} --to {to}"
        return CopyOutcome(to=place.address, archive=name, status=status, message=told)

    def undo(self) -> None:
        """Remove the folders that were made, as far as they are empty."""
        for place in self.places:
            place.undo()


def _next_free(destination: _Place, taken: str, endings: Sequence[str]) -> _Place:
    if destination.fixed:
        raise ExistsError(
            f"{printable(taken)}: exists already; choose another name or remove it first"
        )
    destination = destination.next()
    while destination.is_taken(endings):
        destination = destination.next()
    return destination


def find_files(volumes: Sequence[Volume]) -> list[SourceFile]:
    """Give the files of a published archive as they are now.

    Raises NotFoundError, StorageError, and ArchiveError for one of another size.
    """
    from pybak.catalog.facts import StoredVolume
    from pybak.transfer.copying import SourceFile
    from pybak.transfer.streaming import FileAt

    files = []
    for volume in volumes:
        path = from_portable(volume.uri)
        folder, name = split(path)
        storage = open_storage(folder)
        known = patiently(partial(storage.stat, name))
        if known is None:
            raise NotFoundError(f"{printable(path)}: is gone again; run the backup again")
        if known.size != volume.size:
            raise ArchiveError(
                f"{printable(path)}: has {known.size} bytes, {volume.size} were written; "
                "run flows/verify.py to see what is damaged"
            )
        parts = tuple((part.size, part.sha256) for part in volume.parts)
        digests = StoredVolume(volume.uri, volume.size, volume.sha256, parts)
        files.append(SourceFile(FileAt(storage, known), digests))
    return files
