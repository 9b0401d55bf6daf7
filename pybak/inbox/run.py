"""One round of an inbox, from what was asked for to the report.

The stages are called in this order: `start`, `scan`, then `next_parcels` again and again, each
parcel packed (`pybak.inbox.pack`) and handed to `store` in order, and `report` at the end.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from uuid import uuid4

from pybak import problems, staging
from pybak.backup.plan import choose_cluster
from pybak.backup.rules import Rules
from pybak.catalog.failures import CatalogError
from pybak.display import printable
from pybak.errors import Interrupted, NotFoundError, PlanError, StorageError
from pybak.folders import Folders
from pybak.home import home
from pybak.inbox import naming, states
from pybak.inbox.duplicates import Originals, known_files
from pybak.inbox.encode import Recipe
from pybak.inbox.journal import Identity, Intent, Journal
from pybak.inbox.outcome import Tally
from pybak.inbox.parcels import Item, Parcel, read_outcomes, write_parcel
from pybak.inbox.places import Place, located, open_place
from pybak.inbox.placing import addresses_of, check_nesting, free_names
from pybak.inbox.recover import Recovery
from pybak.inbox.removing import Removing
from pybak.inbox.scan import Found, Told, scan
from pybak.inbox.settle import quiet_since
from pybak.inbox.shares import cut, seconds
from pybak.inbox.store import Store, done_result
from pybak.inbox.taking import aside, give_back_strays
from pybak.options.inbox import InboxOptions, settle_seconds
from pybak.paths import user_path
from pybak.problems import Problem
from pybak.report.inbox import InboxReport, rehearsed
from pybak.resources import default_workers, usable_cpus
from pybak.staging import WorkFolder, reason, remove_leftovers
from pybak.storage.local import make_folder
from pybak.storage.opening import is_remote

if TYPE_CHECKING:
    from pybak.catalog.engine import Database

MOST_FILES: Final = 20_000
"""So many files are noted and packed before the next ones."""
MOST_BYTES: Final = 4 << 30
"""The same for what waits in the staging folder to be sent to a storage."""


class InboxRun:
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
        """Take what is asked; nothing is changed. `clock_ns` tells how old files are.

        Raises NotFoundError for a missing source, PlanError for what can't be a source or a
        destination, and for one inside the other.
        """
        self.options = options
        self.encrypted = encrypted
        self.run_id = str(uuid4())
        self.started_at = now or datetime.now(UTC)
        self._clock = clock_ns
        path = user_path(source)
        if not path.exists():
            raise NotFoundError(f"{printable(source)}: does not exist; check the path")
        if not path.is_dir():
            raise PlanError(f"{printable(source)}: is no folder; name one")
        self.source = os.path.realpath(path)
        self.addresses = addresses_of(destination, options.also_to)
        self._roots: dict[str, str] = {}
        to = options.duplicates_to
        self._aside = None if to is None else user_path(to)
        named = [str(user_path(one)) for one in (to, options.staging) if one is not None]
        self._others = [*named, str(home())]
        check_nesting(self.source, self.addresses, self._others)
        self.job = f"inbox {self.source}"
        self.recipe = Recipe(
            options.format, options.level, options.workers or default_workers(usable_cpus())
        )
        self._settle_seconds = settle_seconds(options.settle)
        self._rules = Rules.build(options.include, options.exclude)
        self.tally = Tally()
        self._cancelled = threading.Event()
        self._work: WorkFolder | None = None
        self._places: list[Place] = []
        self._pending: list[Found] = []
        self._anew: set[bytes] = set()
        self._intents: dict[int, Intent] = {}
        self._parcels = 0
        self._blocked: dict[bytes, Problem] = {}
        self._removing = Removing()
        self._journal: Journal | None = None
        self._folders: Folders | None = None
        self._store: Store | None = None

    @property
    def destination(self) -> str:
        """The first place's address, by which the catalog knows what was stored."""
        return self.addresses[0]

    # -- settling what was, finding what is

    def start(self, database: Database) -> int:
        """Open the catalog and the inbox, and settle what a killed run left; give how many rows.

        Raises CatalogError, StorageError if the inbox can't be read, and PlanError for a block that
        is none, or leads into the inbox.
        """
        self._locate()
        self._journal = Journal(database, self.job, self.run_id)
        try:
            self._folders = Folders(os.fsencode(self.source))
        except OSError as error:
            raise StorageError(
                f"{printable(self.source)}: {reason(error)}; check who may read it"
            ) from error
        left = self._journal.unsettled()
        if not left and not self._journal.was_cut_off():
            return 0
        addresses = {address for intent in left for address in intent.places}
        for address in sorted({*addresses, *self.addresses}):
            with suppress(StorageError, PlanError):
                self._place_of(address).clean(
                    [intent.name for intent in left],
                    [intent.name for intent in left if intent.state == states.MADE],
                )
        remove_leftovers(self._staging_parent())
        recovery = Recovery(self._journal, self._folders, self._place_of, self.addresses)
        recovery.settle(left)
        self._blocked = recovery.blocked
        self.tally.failed += recovery.orphans
        for intent in recovery.finished:
            self.tally.results.append(done_result(intent))
            self.tally.bytes_stored += intent.stored_size or 0
        return len(left)

    def _place_of(self, address: str) -> Place:
        place = open_place(address, run_id=self.run_id, has_staging=True)
        if not is_remote(address):
            place.check()
        return place

    def _locate(self) -> None:
        """Find where blocks of local folders lie: they are folders like others from then on."""
        found = [located(address) for address in self.addresses]
        self.addresses = tuple(address for address, _ in found)
        self._roots = {address: root for address, root in found if root is not None}
        check_nesting(self.source, self.addresses, self._others)

    def scan(self, told: Told = lambda _files, _bytes: None) -> int:
        """Find the files of this round; give how many. Raises StorageError, CatalogError."""
        try:
            found = scan(
                os.fsencode(self.source), self._rules, settle_seconds=self._settle_seconds,
                now_ns=self._clock(), all_names=self.options.all_names,
                told=told,
            )  # fmt: skip
        except OSError as error:
            raise StorageError(
                f"{printable(self.source)}: {reason(error)}; check who may read it"
            ) from error
        tally = self.tally
        tally.waiting += found.waiting
        tally.skipped += found.skipped
        tally.failed += [*found.failed, *self._blocked.values()]
        tally.excluded = found.excluded
        if self._folders is not None:
            give_back_strays(self._folders, found.strays, tally)
        files = [one for one in found.files if one.path not in self._blocked]
        if self.options.keep and self._journal is not None:
            known = self._known(self._journal)
            tally.known = sum(one.identity in known for one in files)
            files = [one for one in files if one.identity not in known]
        self._pending = [one for one in files if self._can_be_taken(one)]
        return len(self._pending)

    def _known(self, journal: Journal) -> set[Identity]:
        """Give what was kept; a folder is looked at for the copies, if there may be any to miss."""
        if is_remote(self.destination) or not journal.has_rows(self.destination):
            return known_files(journal, self.destination, None)
        return known_files(journal, self.destination, self._place_of(self.destination))

    def _can_be_taken(self, found: Found) -> bool:
        """Whether a file could be removed afterwards; one that can't be is not touched."""
        if self.options.keep or self._folders is None:
            return True
        if why := self._removing.trouble(self._folders, found.path):
            self.tally.fail(found.path, problems.UNREADABLE, f"can't be removed: {why}")
        return not why

    # -- packing and storing

    @property
    def staging(self) -> Path:
        """The work folder, once there are parcels."""
        assert self._work is not None
        return self._work.path

    @property
    def pending(self) -> int:
        """How many files are not noted yet."""
        return len(self._pending)

    def next_parcels(self) -> list[Parcel]:
        """Note the next files in the catalog and give the parcels that they make; none at the end.

        Raises CatalogError, StorageError if a destination can't be used, Interrupted.
        """
        store = self._store
        if store is not None and store.again:
            self._anew.update(intent.found.path for intent in store.again)
            self._pending = [*(intent.found for intent in store.again), *self._pending]
            store.again = []
        assert self._journal is not None
        while self._pending:
            self.check_cancelled()
            if self._store is None:
                self._store = self._prepare(self._journal)
            taken = self._next()
            named = free_names(
                taken, self._name, self._places, self.tally,
                reserved=partial(self._journal.taken, self.destination),
            )  # fmt: skip
            if named:
                intents = self._journal.plan([self._intent(*one) for one in named])
                return self._parcels_of(intents)
        return []

    def _parcels_of(self, intents: Sequence[Intent]) -> list[Parcel]:
        """Cut noted files into parcels and leave these in the staging folder."""
        self._intents = {intent.row: intent for intent in intents}
        known: dict[int, tuple[str, ...]] = {}
        if not self.options.keep_duplicates:
            known = self._originals.digests(one.found.size for one in intents)
        items = [
            Item(
                intent.row, intent.found,
                naming.inner_name(intent.name, intent.format, encrypted=intent.encrypted),
                intent.found.path in self._anew,
            )
            for intent in intents
        ]  # fmt: skip
        made = cut(
            items, source=os.fsencode(self.source), recipe=self.recipe, encrypted=self.encrypted,
            first=self._parcels, known=known,
            quiet_since_ns=quiet_since(self._clock(), self._settle_seconds),
        )  # fmt: skip
        self._parcels += len(made)
        try:
            if self._work is None:
                self._work = WorkFolder.create(self._staging_parent(), self.run_id)
                self._work.subfolder("progress")
            for parcel in made:
                write_parcel(self.staging, parcel)
        except OSError as error:
            raise StorageError(
                f"{self._staging_parent()}: {reason(error)}; free some space or choose another "
                "place"
            ) from error
        if self._cancelled.is_set():
            staging.request_cancel(self.staging)
        return made

    def _prepare(self, journal: Journal) -> Store:
        """Open the places. Raises StorageError, NotFoundError."""
        self._places = [
            open_place(
                address, run_id=self.run_id, has_staging=number == 0, root=self._roots.get(address)
            )
            for number, address in enumerate(self.addresses)
        ]
        for place in self._places:
            place.prepare(
                is_known=place.address == self.destination and journal.has_rows(self.destination)
            )
            place.clean()
        remove_leftovers(self._staging_parent())
        self._originals = Originals(journal, self._places)
        assert self._folders is not None
        return Store(
            journal, self._places, self._originals, self._folders, self.tally,
            staging=self._staging_parent() / f"{staging.PREFIX}{self.run_id}",
            keep=self.options.keep, keep_duplicates=self.options.keep_duplicates,
            read_back=self.options.read_back,
            aside=None if self._aside is None else aside(self._made(self._aside)),
        )  # fmt: skip

    @staticmethod
    def _made(folder: Path) -> Path:
        make_folder(folder)
        return folder

    def _staging_parent(self) -> Path:
        if not is_remote(self.destination):
            return Path(self.destination)
        return user_path(self.options.staging or tempfile.gettempdir())

    def _next(self) -> list[Found]:
        """Take the next files; with a storage, not more than may wait to be sent."""
        taken: list[Found] = []
        size = 0
        most = MOST_BYTES if is_remote(self.destination) else None
        for found in self._pending[:MOST_FILES]:
            size += found.size
            if taken and most is not None and size > most:
                break
            taken.append(found)
        del self._pending[: len(taken)]
        return taken

    def _name(self, found: Found, number: int) -> str:
        return naming.stored_name(
            found.path, self.started_at.astimezone(), self.recipe.format,
            encrypted=self.encrypted, number=number,
        )  # fmt: skip

    def _intent(self, found: Found, name: str) -> Intent:
        return Intent(
            found=found, name=name, destination=self.destination, also=self.addresses[1:],
            format=self.recipe.format, encrypted=self.encrypted, kept=self.options.keep,
        )  # fmt: skip

    def cluster(self, parcels: Sequence[Parcel]) -> str:
        """Give where parcels are packed: `direct` for little work, else `threads`."""
        if len(parcels) < 2:
            return "direct"
        files = sum(len(parcel.items) for parcel in parcels)
        size = sum(parcel.size for parcel in parcels)
        return choose_cluster(
            "auto", seconds=seconds(files, size, self.recipe, encrypted=self.encrypted),
            locked_seconds=0.0, workers=self.recipe.workers, processes_fit=False,
        )  # fmt: skip

    def store(self, number: int) -> None:
        """Store what the worker of parcel `number` packed. Raises CatalogError, StorageError."""
        assert self._store is not None
        try:
            outcomes = read_outcomes(self.staging, number)
        except OSError as error:
            raise StorageError(f"{self.staging}: {reason(error)}; check the disk") from error
        self._store.store(self._intents, outcomes)

    # -- the end

    def request_cancel(self) -> None:
        """Ask the stages to stop soon; what is packed is stored."""
        self._cancelled.set()
        if self._work is not None:
            staging.request_cancel(self._work.path)

    def is_stopping(self) -> bool:
        """Whether `request_cancel` was called."""
        return self._cancelled.is_set()

    def check_cancelled(self) -> None:
        """Raise Interrupted once `request_cancel` was called."""
        if self._cancelled.is_set():
            raise Interrupted(
                f"stopped on request; {self.tally.count('done')} files are done, the others are "
                "as they were"
            )

    @property
    def duration_seconds(self) -> float:
        """How long it has taken so far."""
        return (datetime.now(UTC) - self.started_at).total_seconds()

    def report(self) -> InboxReport:
        """Tell what was done, also of files that a killed run had left."""
        return InboxReport.of(
            self.tally, run_id=self.run_id, source=self.source, places=self.addresses,
            kept=self.options.keep, duration_seconds=self.duration_seconds,
        )  # fmt: skip

    def rehearse(self, database: Database | None) -> InboxReport:
        """Tell what a round would do; the inbox is looked at, and nothing is read or changed.

        Without a catalog no file is known. Raises StorageError, CatalogError.
        """
        self._locate()
        if database is not None:
            self._journal = Journal(database, self.job, self.run_id)
        self.scan()
        names = [self._name(found, 1) for found in self._pending]
        return rehearsed(
            self.tally, self._pending, names, run_id=self.run_id, source=self.source,
            places=self.addresses, kept=self.options.keep, duration_seconds=self.duration_seconds,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._journal is not None and self._intents:
            with suppress(CatalogError):
                self._journal.forget_planned()
        if self._work is not None:
            self._work.remove()
        for place in self._places:
            place.close()
        if self._folders is not None:
            self._folders.close()
