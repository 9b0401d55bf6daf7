"""Store what a parcel's worker packed, and only then take the sources away.

Each step is committed to the catalog before the next one: what is about to be stored, that it is,
that the sources are gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from pybak import problems
from pybak.display import printable
from pybak.errors import ExistsError, NotFoundError, PlanError, SourceError, StorageError
from pybak.folders import Folders
from pybak.inbox import parcels, states
from pybak.inbox.duplicates import Originals
from pybak.inbox.folder_place import FolderPlace
from pybak.inbox.found import Identity
from pybak.inbox.journal import Journal
from pybak.inbox.parcels import Outcome, made_path
from pybak.inbox.places import Place
from pybak.inbox.rows import Intent, Stored
from pybak.inbox.taking import (
    CHANGED,
    REPLACED,
    SAME,
    Dispose,
    Links,
    delete,
    look,
    sync_folders,
    take,
)
from pybak.inbox.tally import Tally
from pybak.report.inbox import DONE, DUPLICATE, REMOVED, InboxFile
from pybak.storage.opening import join

_SENDING: Final = 4
_WAITS: Final = "changed after it was packed"


class _Put(msgspec.Struct, frozen=True):
    """How storing a file went: why it failed, and the places where it may lie."""

    error: StorageError | PlanError | None
    at: tuple[Place, ...]


class Store:
    """Stores parcel after parcel, in order. `again` are files to be packed after all."""

    def __init__(
        self,
        journal: Journal,
        places: Sequence[Place],
        originals: Originals,
        folders: Folders,
        tally: Tally,
        *,
        staging: Path,
        keep: bool,
        keep_duplicates: bool,
        read_back: bool,
        aside: Callable[[bytes], Dispose] | None,
    ) -> None:
        self._journal, self._places, self._originals = journal, places, originals
        self._folders, self._tally, self._staging = folders, tally, staging
        self._keep, self._keep_duplicates = keep, keep_duplicates
        self._read_back, self._aside = read_back, aside
        self._unsure: set[int] = set()
        """Rows that others repeat and that are not done."""
        self._links = Links()
        self.again: list[Intent] = []

    def store(self, intents: Mapping[int, Intent], outcomes: Sequence[Outcome]) -> None:
        """Deal with what became of a parcel's files. Raises CatalogError.

        What is wrong with one file, or with storing it, is counted and costs that file alone.
        """
        self._count_left(intents, outcomes)
        packed, repeated = self._divide(intents, outcomes)
        self._finish(self._put(packed))
        self._discard(repeated)
        for one in outcomes:  # rows that are forgotten give their numbers to others
            if one.status == parcels.MADE:
                with suppress(OSError):
                    made_path(self._staging, one.row).unlink(missing_ok=True)

    def _count_left(self, intents: Mapping[int, Intent], outcomes: Sequence[Outcome]) -> None:
        left: list[int] = []
        for one in outcomes:
            found = intents[one.row].found
            if one.status in (parcels.MADE, parcels.DUPLICATE):
                self._tally.bytes_read += found.size
                continue
            left.append(one.row)
            if one.status == parcels.FAILED:
                self._tally.fail(found.path, one.code, one.message)
            elif one.status == parcels.WAITING:
                self._tally.wait(found.path, one.code, one.message)
            else:
                problem = problems.Problem(os.fsdecode(found.path), one.code, one.message)
                self._tally.skipped.append(problem)
        self._journal.forget(left)

    def _divide(
        self, intents: Mapping[int, Intent], outcomes: Sequence[Outcome]
    ) -> tuple[list[Intent], dict[int, tuple[Intent, Stored]]]:
        """Tell files to be stored from duplicates; in order, so that the first is stored."""
        done = [one for one in outcomes if one.status in (parcels.MADE, parcels.DUPLICATE)]
        known: dict[str, Stored] = {}
        themselves: dict[tuple[Identity, str], Stored] = {}
        with suppress(StorageError):  # storing them will tell
            if not self._keep:
                themselves = self._originals.themselves(one.sha256 for one in done)
            if not self._keep_duplicates:
                known = self._originals.of(one.sha256 for one in done)
        packed: list[Intent] = []
        repeated: dict[int, tuple[Intent, Stored]] = {}
        for one in done:
            intent = msgspec.structs.replace(
                intents[one.row], sha256=one.sha256, stored_size=one.stored_size,
                stored_sha256=one.stored_sha256,
            )  # fmt: skip
            original = themselves.get((intent.found.identity, one.sha256), known.get(one.sha256))
            if original is not None:
                repeated[one.row] = (intent, original)
            elif one.status == parcels.DUPLICATE:
                # Its copy is gone by now, so this is the only one.
                self._tally.bytes_read -= intent.found.size
                self._journal.forget([one.row])
                self.again.append(intent)
            else:
                packed.append(intent)
                if not self._keep_duplicates:
                    known[one.sha256] = intent.as_stored
                    self._unsure.add(one.row)
        return packed, repeated

    # -- storing

    def _put(self, packed: Sequence[Intent]) -> list[Intent]:
        """Store files at all places; give those that are."""
        self._journal.made(packed)
        if all(isinstance(place, FolderPlace) for place in self._places) or len(packed) < 2:
            ends = [self._put_one(one) for one in packed]
        else:
            with ThreadPoolExecutor(_SENDING, thread_name_prefix="store") as pool:
                ends = list(pool.map(self._put_one, packed))
        stored = [one for one, end in zip(packed, ends, strict=True) if end.error is None]
        failed = [
            (one, end) for one, end in zip(packed, ends, strict=True) if end.error is not None
        ]
        try:
            for place in self._places:
                place.sync([one.name for one in stored])
        except StorageError as error:
            failed += [(one, _Put(error, tuple(self._places))) for one in stored]
            stored = []
        for one, end in failed:
            self._fail_to_store(one, end)
        self._journal.move([one.row for one in stored], states.STORED)
        self._originals.add(one.as_stored for one in stored)
        return stored

    def _put_one(self, intent: Intent) -> _Put:
        expected = intent.expected
        staged = made_path(self._staging, intent.row)
        at: list[Place] = []
        try:
            # The first place last: a folder takes the staged file away.
            for place in reversed(self._places):
                at.append(place)
                place.put(staged, intent.name, expected)
                if self._read_back and not place.holds(intent.name, expected):
                    where = join(place.address, intent.name)
                    raise StorageError(  # noqa: TRY301
                        f"{printable(where)}: holds other bytes than were sent; check the storage"
                    )
        except ExistsError as error:
            return _Put(error, tuple(at[:-1]))  # what has the name there is somebody else's
        except (StorageError, PlanError) as error:
            return _Put(error, tuple(at))
        return _Put(None, tuple(at))

    def _fail_to_store(self, intent: Intent, end: _Put) -> None:
        """Take back what was stored of a file, and count it."""
        path, error = intent.found.path, end.error
        if isinstance(error, ExistsError):
            self._tally.wait(path, problems.WAITING, f"{error}; it gets another name next time")
        else:
            code = problems.NOT_FOUND if isinstance(error, NotFoundError) else problems.STORAGE
            self._tally.fail(path, code, str(error))
        self._take_back(intent, end.at)

    def _take_back(self, intent: Intent, at: Collection[Place]) -> None:
        """Delete what was stored of a file whose source is there; what can't be now stays noted.

        If the source is gone, what was stored stays.
        """
        self._originals.drop(intent.row)
        if at:
            self._journal.move([intent.row], states.WITHDRAWN)
        expected = intent.expected
        try:
            holding = [
                place for place in at
                if place.holds(intent.name, expected)
                and not self._journal.is_named_by_others(intent, place.address)
            ]  # fmt: skip
            if holding and look(self._folders, intent.found) not in (SAME, CHANGED):
                self._journal.move([intent.row], states.DONE)
                return
            for place in holding:
                place.remove(intent.name)
        except (StorageError, PlanError):
            return
        self._journal.forget([intent.row])

    # -- taking away

    def _finish(self, stored: Sequence[Intent]) -> None:
        done = stored
        if not self._keep:
            done = [one for one in stored if self._take(one, delete)]
            sync_folders(self._folders, [one.found.path for one in done])
        self._journal.move([one.row for one in done], states.DONE)
        self._unsure.difference_update(one.row for one in done)
        for one in done:
            self._tally.bytes_stored += one.stored_size or 0
            self._tally.results.append(done_result(one))

    def _take(self, intent: Intent, dispose: Dispose) -> bool:
        """Take a source away; if it must stay, take back what was stored of it."""
        path = intent.found.path
        try:
            end = take(self._folders, intent.found, intent.hidden, dispose, self._links)
        except SourceError as error:
            self._tally.fail(path, error.code, str(error))
        else:
            if end != CHANGED:  # of one that was replaced, ours is the only copy
                if end == REPLACED:
                    self._tally.wait(path, problems.WAITING, "a new file of this name came")
                return True
            self._tally.wait(path, problems.WAITING, _WAITS)
        if intent.name:
            self._take_back(intent, self._places)
        return False

    def _discard(self, repeated: Mapping[int, tuple[Intent, Stored]]) -> None:
        """Take away what repeats a file that is stored; the first is stored by now, or failed."""
        repeated = self._with_whole_copies(repeated)
        self._journal.discard(
            {row: (one.sha256 or "", of.row) for row, (one, of) in repeated.items()}
        )
        done: list[int] = []
        left: list[int] = []
        for row, (intent, original) in repeated.items():
            nameless = msgspec.structs.replace(intent, name="")
            folder = intent.found.path.rpartition(b"/")[0]
            dispose: Dispose = delete
            if self._aside is not None and not original.is_itself:
                dispose = self._aside(folder)
            if not self._keep and not self._take(nameless, dispose):
                left.append(row)
                continue
            done.append(row)
            self._tally.known += original.is_itself
            self._tally.results.append(
                InboxFile(
                    path=os.fsdecode(intent.found.path),
                    status=REMOVED if original.is_itself else DUPLICATE,
                    destination=join(self._places[0].address, original.name),
                    size=intent.found.size, stored_size=original.expected.size,
                    sha256=intent.sha256 or "",
                    duplicate_of=None if original.is_itself else os.fsdecode(original.path),
                )
            )  # fmt: skip
        self._journal.forget(left)
        self._journal.move(done, states.DUPLICATE)
        if not self._keep:
            paths = [repeated[row][0].found.path for row in done]
            sync_folders(self._folders, paths)

    def _with_whole_copies(
        self, repeated: Mapping[int, tuple[Intent, Stored]]
    ) -> dict[int, tuple[Intent, Stored]]:
        """Leave out duplicates of what is not there whole: these are packed after all."""
        found: dict[int, tuple[Intent, Stored]] = {}
        lone: list[int] = []
        failed: list[int] = []
        for row, (intent, original) in repeated.items():
            try:
                if original.row in self._unsure or not self._originals.is_whole(original):
                    lone.append(row)
                else:
                    found[row] = (intent, original)
            except StorageError as error:
                self._tally.fail(intent.found.path, problems.STORAGE, str(error))
                failed.append(row)
        self.again += [repeated[row][0] for row in lone]
        self._journal.forget([*lone, *failed])
        return found


def done_result(intent: Intent) -> InboxFile:
    """Tell of a file that is done."""
    return InboxFile(
        path=os.fsdecode(intent.found.path), status=DONE,
        destination=join(intent.destination, intent.name), size=intent.found.size,
        stored_size=intent.stored_size or 0, sha256=intent.sha256 or "",
    )  # fmt: skip
