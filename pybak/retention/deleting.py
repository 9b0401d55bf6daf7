"""The deletions of one prune: archive by archive, in all of their places, and what came of them.

A storage that refuses its credentials, or does not answer any more, is not asked again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pybak.catalog.copies import places
from pybak.catalog.facts import ArchiveFacts
from pybak.errors import StorageError
from pybak.problems import STORAGE, Problem
from pybak.retention.check import with_others
from pybak.retention.files import Files
from pybak.retention.places import Place, UnreachableError


class _Failure:
    """What went wrong with one archive, and how many others were left because of it."""

    def __init__(self, name: str, error: StorageError) -> None:
        self.name = name
        self.error = error
        self.others = 0


class Deletion:
    """Deletes archives, and counts the bytes that it `freed`.

    `kept` are, by archive, the names of places that are left alone.
    """

    def __init__(self, files: Files, kept: Mapping[int, Collection[str]]) -> None:
        self.freed = 0
        self._files = files
        self._kept = kept
        self._failures: list[_Failure] = []
        self._closed: dict[str, _Failure] = {}
        self._used: dict[str, Place] = {}
        self._has_changed = False

    def delete(self, archive: ArchiveFacts) -> bool:
        """Delete the files of an archive wherever it lies; whether all are gone.

        With each place go its files of checksums; what is gone already is fine. A place is left
        at the first file that can't be deleted, the first volume being the first to go.
        """
        kept = self._kept.get(archive.id, ())
        done = True
        for at in places(archive):
            if at.name in kept or not self._delete(at):
                done = False
        return done

    def _delete(self, at: ArchiveFacts) -> bool:
        folder = ""
        try:
            for folder in self._files.folders(at):
                if (before := self._closed.get(folder)) is not None:
                    before.others += 1
                    return False
            for file in self._files.to_delete(at):
                folder = file.place.folder
                if (known := file.ours()) is None:
                    continue
                try:
                    file.place.delete(file.name, known)
                except StorageError as error:
                    # Where an answer was lost, it may be gone.
                    self._has_changed |= not error.is_denied
                    raise
                self._has_changed = True
                self._used[folder] = file.place
                self.freed += known.size
        except StorageError as error:
            failure = _Failure(at.name, error)
            self._failures.append(failure)
            if error.is_denied or error.retryable or isinstance(error, UnreachableError):
                self._closed[folder] = failure
            return False
        return True

    @property
    def refusal(self) -> StorageError | None:
        """What a storage said that lets these credentials delete nothing; None if any file went."""
        if self._has_changed:
            return None
        return next((one.error for one in self._failures if one.error.is_denied), None)

    def problems(self) -> list[Problem]:
        """Tell what could not be deleted."""
        return [
            Problem(one.name, STORAGE, with_others(str(one.error), one.others))
            for one in self._failures
        ]

    def sync(self) -> None:
        """Bring what was deleted to the disk."""
        for place in self._used.values():
            place.sync()
