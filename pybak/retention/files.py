"""The files of archives that are to go: are they what was written, and can they go.

A file is deleted only if it has the size that the catalog knows: what has another one was put
there by somebody else, or is evidence. Archives may lie in several places (`pybak.catalog.copies`);
functions with `at` look at one of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

from pybak.catalog.copies import places
from pybak.catalog.facts import ArchiveFacts
from pybak.errors import StorageError
from pybak.portable import from_portable
from pybak.retention.places import (
    Found,
    Place,
    UnreachableError,
    open_place,
    parts_of,
    shown,
)
from pybak.storage.opening import is_remote
from pybak.transfer.sums import MOST_BYTES, lists, names_of_sums

_LOCAL: Final = "file://"


class Obstacle(NamedTuple):
    """Why an archive can't be deleted; `of_place` if nothing there can, not only this one."""

    message: str
    of_place: bool


class FileAt(NamedTuple):
    """A file in its place, and how many bytes the catalog says it has."""

    place: Place
    name: str
    size: int

    @property
    def shown(self) -> str:
        """What people are told."""
        return shown(self.place.folder, self.name)

    def ours(self) -> Found | None:
        """Give the file if it is there. Raises StorageError if it can't be what was written."""
        found = self.place.look(self.name)
        if found is None or found.size == self.size:
            return found
        what = "is no ordinary file"
        if found.size >= 0:
            what = f"has {found.size} bytes, {self.size} were written"
        raise StorageError(
            f"{self.shown}: {what}, so it is not deleted; delete it by hand if it may go"
        )


class Files:
    """The files of archives, looked at for one plan: each storage's folder is listed once.

    `taken` are, by archive, places that later archives have by now.
    """

    def __init__(self, taken: Mapping[int, Collection[str]] | None = None) -> None:
        self._taken = taken or {}
        self._places: dict[str, Place] = {}

    def fault(self, archive: ArchiveFacts) -> str | None:
        """Say which file of an archive is missing or not its own; None if a place has all.

        Raises UnreachableError if that can't be told.
        """
        faults: list[str] = []
        unknown: list[UnreachableError] = []
        for at in places(archive, with_leaving=False):
            try:
                fault = self._fault(at)
            except UnreachableError as error:
                unknown.append(error)
                continue
            if fault is None:
                return None
            faults.append(fault)
        if unknown:
            raise unknown[0]
        return faults[0]

    def _fault(self, at: ArchiveFacts) -> str | None:
        try:
            for volume in at.volumes:
                file = self._file(volume.uri, volume.size)
                if volume.uri in self._taken.get(at.id, ()):
                    return f"{file.shown}: is another archive by now"
                found = file.place.look(file.name)
                if found is None:
                    return f"{file.shown}: is missing"
                if found.size != file.size:
                    return f"{file.shown}: has {found.size} bytes, {file.size} were written"
        except UnreachableError:
            raise
        except StorageError as error:
            return str(error)
        return None

    def readable(self, archive: ArchiveFacts) -> ArchiveFacts:
        """Give an archive, as it lies in a later place if only that has all of it."""
        for number, at in enumerate(places(archive, with_leaving=False)):
            with contextlib.suppress(UnreachableError):
                if self._fault(at) is None:
                    return at if number else archive
        return archive

    def folders(self, at: ArchiveFacts) -> frozenset[str]:
        """Give the folders where its files lie. Raises StorageError for what is no place."""
        return frozenset(self._file(one.uri, one.size).place.folder for one in at.volumes)

    def is_there(self, at: ArchiveFacts) -> bool:
        """Whether any of its files is there. Raises UnreachableError if that can't be told."""
        try:
            return any(
                file.place.look(file.name) is not None for file in self._all(at, with_taken=True)
            )
        except UnreachableError:
            raise
        except StorageError:
            return False

    def obstacle(self, at: ArchiveFacts, *, is_begun: bool = False) -> Obstacle | None:
        """Say what keeps an archive from being deleted; None if nothing is known.

        Of one whose removal `is_begun` only that its place can be asked. Changes nothing.
        """
        try:
            for file in self._all(at):
                if is_begun:
                    file.place.look(file.name)
                    continue
                file.ours()
                try:
                    file.place.try_deleting(file.name)
                except StorageError as error:
                    return Obstacle(str(error), of_place=True)
        except StorageError as error:
            if is_begun and not isinstance(error, UnreachableError):
                return None  # told when it can't be finished
            return Obstacle(str(error), of_place=isinstance(error, UnreachableError))
        return None

    def to_delete(self, at: ArchiveFacts) -> Iterator[FileAt]:
        """Yield what goes with an archive, the first volume first: a set without it is none.

        The files of checksums come last, as they were before any of the volumes went.
        """
        sums = self._sum_files(at)
        yield from self._all(at)
        yield from sums

    def freed_by_deleting(self, archive: ArchiveFacts, kept: Collection[str] = ()) -> int:
        """Give how many bytes go with an archive, as far as that can be told.

        `kept` are the names of places that are left alone.
        """
        freed = 0
        for at in places(archive):
            with contextlib.suppress(StorageError):
                for file in self.to_delete(at) if at.name not in kept else ():
                    with contextlib.suppress(StorageError):
                        freed += file.size if file.ours() is not None else 0
        return freed

    def kinds_of_sums(self, at: ArchiveFacts) -> list[str]:
        """Give the kinds of the files of checksums beside an archive, such as sha256."""
        return [os.path.splitext(file.name)[1][1:] for file in self._sum_files(at)]

    def _all(self, at: ArchiveFacts, *, with_taken: bool = False) -> Iterator[FileAt]:
        taken = () if with_taken else self._taken.get(at.id, ())
        for volume in at.volumes:
            if volume.uri not in taken:
                yield self._file(volume.uri, volume.size)

    def _file(self, uri: str, size: int) -> FileAt:
        path = from_portable(uri)
        if not uri.startswith(_LOCAL) and not is_remote(uri):
            raise StorageError(f"{uri}: is no place that can be pruned")
        folder, name = parts_of(path)
        if folder not in self._places:
            self._places[folder] = open_place(folder)
        return FileAt(self._places[folder], name, size)

    def _sum_files(self, at: ArchiveFacts) -> list[FileAt]:
        """Find the files of checksums beside an archive: those that list its files, no others.

        None where a later archive has a place of this one.
        """
        taken = self._taken.get(at.id, ())
        if not at.volumes or any(volume.uri in taken for volume in at.volumes):
            return []
        ours = [file.name for file in self._all(at)]
        place = self._file(at.volumes[0].uri, 0).place
        found = []
        for name in names_of_sums(parts_of(at.name)[1]):
            with contextlib.suppress(StorageError):
                known = place.look(name, sure=False) if name not in ours else None
                if (
                    known is not None
                    and 0 < known.size <= MOST_BYTES
                    and lists(place.read(name, known), ours)
                ):
                    found.append(FileAt(place, name, known.size))
        return found
