"""One round of an inbox, from what was asked for to the report.

The stages are called in this order: `start`, `scan`, then `next_parcels` again and again, each
parcel packed (`pybak.inbox.pack`) and handed to `store` in order, and `report` at the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from pybak import problems, staging
from pybak.catalog.failures import CatalogError
from pybak.clusters import choose_cluster
from pybak.display import printable
from pybak.errors import StorageError
from pybak.folders import Folders
from pybak.inbox.aside import aside
from pybak.inbox.asked import Asked
from pybak.inbox.batches import Batches, name_of
from pybak.inbox.duplicates import Originals, known_files
from pybak.inbox.found import Found, Identity
from pybak.inbox.history import History
from pybak.inbox.journal import Journal
from pybak.inbox.parcels import Parcel, read_outcomes, seconds
from pybak.inbox.places import Place, open_place
from pybak.inbox.recover import Recovery
from pybak.inbox.scan import Told, scan
from pybak.inbox.store import Store, done_result
from pybak.inbox.taking import Removing, give_back_strays
from pybak.inbox.tally import Tally
from pybak.options.inbox import InboxOptions
from pybak.problems import Problem
from pybak.report.inbox import DONE, InboxReport, rehearsed
from pybak.staging import reason, remove_leftovers
from pybak.stoppable import Cancellable
from pybak.storage.local import make_folder
from pybak.storage.opening import is_remote

if TYPE_CHECKING:
    from pybak.catalog.engine import Database


class InboxRun(Cancellable):
    """A round of an inbox; a context manager that leaves no staging folder behind."""

    def __init__(
        self,
        source: str,
        destination: str,
        options: InboxOptions,
        *,
        encrypted: bool = False,
        now: datetime | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Take what is asked (`Asked.of`); `clock_ns` tells how old files are."""
        self.asked = Asked.of(source, destination, options, encrypted=encrypted)
        self.run_id = str(uuid4())
        self.started_at = now or datetime.now(UTC)
        self.tally = Tally()
        self._clock = clock_ns
        self._begun = time.monotonic()
        self._pending: list[Found] = []
        self._blocked: dict[bytes, Problem] = {}
        self._places: list[Place] = []
        self._journal: Journal | None = None
        self._history: History | None = None
        self._folders: Folders | None = None
        self._batches: Batches | None = None
        self._store: Store | None = None

    @property
    def options(self) -> InboxOptions:
        """What the round was told."""
        return self.asked.options

    # -- settling what was, finding what is

    def start(self, database: Database) -> int:
        """Open the catalog and the inbox, and settle what a killed run left; give how many rows.

        Raises CatalogError, StorageError if the inbox can't be read, and PlanError for a block that
        is none, or leads into the inbox.
        """
        self.asked = self.asked.found()
        self._journal = Journal(database, self.asked.job, self.run_id)
        self._history = History(database, self.asked.job, self.asked.destination)
        try:
            self._folders = Folders(os.fsencode(self.asked.source))
        except OSError as error:
            raise self._unreadable(error) from error
        left = self._journal.unsettled()
        if not left and not self._journal.was_cut_off():
            return 0
        remove_leftovers(self.asked.staging_parent)
        recovery = Recovery(self._journal, self._folders, self._place_of, self.asked.addresses)
        recovery.settle(left)
        self._blocked = recovery.blocked
        self.tally.failed += recovery.orphans
        for intent in recovery.finished:
            self.tally.results.append(done_result(intent))
            self.tally.bytes_stored += intent.stored_size or 0
        return len(left)

    def _unreadable(self, error: OSError) -> StorageError:
        where = printable(self.asked.source)
        return StorageError(f"{where}: {reason(error)}; check who may read it")

    def _place_of(self, address: str) -> Place:
        """Open a place of files that are stored already."""
        place = open_place(address, run_id=self.run_id, has_staging=True)
        if not is_remote(address):
            place.check()
        return place

    def scan(self, told: Told = lambda _files, _bytes: None) -> int:
        """Find the files of this round; give how many. Raises StorageError, CatalogError."""
        options = self.options
        try:
            found = scan(
                os.fsencode(self.asked.source), self.asked.rules, now_ns=self._clock(),
                settle_seconds=self.asked.settle_seconds, all_names=options.all_names, told=told,
            )  # fmt: skip
        except OSError as error:
            raise self._unreadable(error) from error
        tally = self.tally
        tally.waiting += found.waiting
        tally.skipped += found.skipped
        tally.failed += [*found.failed, *self._blocked.values()]
        tally.excluded = found.excluded
        if self._folders is not None:
            give_back_strays(self._folders, found.strays, tally)
        files = [one for one in found.files if one.path not in self._blocked]
        if options.keep and self._history is not None:
            known = self._known(self._history)
            tally.known = sum(one.identity in known for one in files)
            files = [one for one in files if one.identity not in known]
        if not options.keep and self._folders is not None:
            files = self._removable(self._folders, files)
        self._pending = files
        return len(files)

    def _known(self, history: History) -> set[Identity]:
        """Give what was kept; a folder is looked at for the copies, if there may be any to miss."""
        if is_remote(self.asked.destination) or history.is_empty:
            return known_files(history, None)
        return known_files(history, self._place_of(self.asked.destination))

    def _removable(self, folders: Folders, files: Sequence[Found]) -> list[Found]:
        """Give the files that could be removed afterwards; others are not touched."""
        removing = Removing()
        found: list[Found] = []
        for one in files:
            if why := removing.trouble(folders, one.path):
                self.tally.fail(one.path, problems.UNREADABLE, f"can't be removed: {why}")
            else:
                found.append(one)
        return found

    # -- packing and storing

    @property
    def staging(self) -> Path:
        """The work folder, once there are parcels."""
        assert self._batches is not None
        return self._batches.staging

    def next_parcels(self) -> list[Parcel]:
        """Note the next files in the catalog and give the parcels that they make; none at the end.

        Raises CatalogError, StorageError if a destination can't be used, Interrupted.
        """
        if not self._pending:
            return []
        self.check_cancelled()
        if self._batches is None or self._store is None:
            self._batches, self._store = self._prepare()
        self._batches.put_back(self._store.again)
        self._store.again = []
        parcels = self._batches.next()
        if parcels and self.is_stopping():
            self._batches.request_cancel()
        return parcels

    def _prepare(self) -> tuple[Batches, Store]:
        """Open the places. Raises StorageError, NotFoundError."""
        asked, journal, history, folders = self.asked, self._journal, self._history, self._folders
        assert journal is not None
        assert history is not None
        assert folders is not None
        self._places = [
            open_place(
                address, run_id=self.run_id, has_staging=number == 0, root=asked.roots.get(address)
            )
            for number, address in enumerate(asked.addresses)
        ]
        for place in self._places:
            place.prepare(is_known=place.address == asked.destination and not history.is_empty)
            place.clean()
        remove_leftovers(asked.staging_parent)
        if asked.aside is not None:
            make_folder(asked.aside)
        originals = Originals(history, self._places)
        batches = Batches(
            asked, self._pending, journal, originals, self._places, self.tally,
            run_id=self.run_id, started_at=self.started_at, clock_ns=self._clock,
            check=self.check_cancelled,
        )  # fmt: skip
        return batches, Store(
            journal, self._places, originals, folders, self.tally,
            staging=asked.staging_parent / f"{staging.PREFIX}{self.run_id}",
            keep=asked.options.keep, keep_duplicates=asked.options.keep_duplicates,
            read_back=asked.options.read_back,
            aside=None if asked.aside is None else aside(asked.aside),
        )  # fmt: skip

    def cluster(self, parcels: Sequence[Parcel]) -> str:
        """Give where parcels are packed: `direct` for little work, else `threads`."""
        if len(parcels) < 2:
            return "direct"
        files = sum(len(parcel.items) for parcel in parcels)
        size = sum(parcel.size for parcel in parcels)
        recipe = self.asked.recipe
        return choose_cluster(
            "auto", seconds=seconds(files, size, recipe, encrypted=self.asked.encrypted),
            locked_seconds=0.0, workers=recipe.workers, processes_fit=False,
        )  # fmt: skip

    def store(self, number: int) -> None:
        """Store what the worker of parcel `number` packed. Raises CatalogError, StorageError."""
        assert self._store is not None
        assert self._batches is not None
        try:
            outcomes = read_outcomes(self.staging, number)
        except OSError as error:
            raise StorageError(f"{self.staging}: {reason(error)}; check the disk") from error
        self._store.store(self._batches.intents, outcomes)

    # -- the end

    def request_cancel(self) -> None:
        """Ask the stages to stop soon; what is packed is stored."""
        super().request_cancel()
        if self._batches is not None:
            self._batches.request_cancel()

    @property
    def stopped(self) -> str:
        """What is said when it is stopped."""
        done = self.tally.count(DONE)
        return f"stopped on request; {done} files are done, the others are as they were"

    @property
    def duration_seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._begun

    def report(self) -> InboxReport:
        """Tell what was done, also of files that a killed run had left."""
        return InboxReport.of(
            self.tally, run_id=self.run_id, source=self.asked.source, places=self.asked.addresses,
            kept=self.options.keep, duration_seconds=self.duration_seconds,
        )  # fmt: skip

    def rehearse(self, database: Database | None) -> InboxReport:
        """Tell what a round would do; the inbox is looked at, and nothing is read or changed.

        Without a catalog no file is known. Raises StorageError, CatalogError.
        """
        self.asked = self.asked.found()
        if database is not None:
            self._history = History(database, self.asked.job, self.asked.destination)
        self.scan()
        names = [name_of(found, 1, self.asked, self.started_at) for found in self._pending]
        return rehearsed(
            self.tally, self._pending, names, run_id=self.run_id, source=self.asked.source,
            places=self.asked.addresses, kept=self.options.keep,
            duration_seconds=self.duration_seconds,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._batches is not None:
            if self._journal is not None and self._batches.intents:
                with suppress(CatalogError):
                    self._journal.forget_planned()
            self._batches.close()
        for place in self._places:
            place.close()
        if self._folders is not None:
            self._folders.close()
