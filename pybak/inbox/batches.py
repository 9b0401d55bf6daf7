"""The files of a round in batches: each is named, noted in the catalog, and cut into parcels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from pybak import staging
from pybak.errors import StorageError
from pybak.inbox import naming
from pybak.inbox.asked import Asked
from pybak.inbox.duplicates import Originals
from pybak.inbox.found import Found
from pybak.inbox.journal import Journal
from pybak.inbox.parcels import Item, Parcel, cut, write_parcel
from pybak.inbox.places import Place
from pybak.inbox.rows import Intent
from pybak.inbox.settle import quiet_since
from pybak.inbox.tally import Tally
from pybak.staging import WorkFolder, reason
from pybak.storage.opening import is_remote

MOST_FILES: Final = 20_000
"""So many files are noted and packed before the next ones."""
MOST_BYTES: Final = 4 << 30
"""The same for what waits in the staging folder to be sent to a storage."""


class Batches:
    """Hands out `pending` files. `intents` are those of the last batch, by row.

    `clock_ns` tells the time, `check` is called before each batch and may raise.
    """

    def __init__(
        self,
        asked: Asked,
        pending: Sequence[Found],
        journal: Journal,
        originals: Originals,
        places: Sequence[Place],
        tally: Tally,
        *,
        run_id: str,
        started_at: datetime,
        clock_ns: Callable[[], int],
        check: Callable[[], None],
    ) -> None:
        self._asked, self._journal, self._originals = asked, journal, originals
        self._places, self._tally = places, tally
        self._run_id, self._started_at = run_id, started_at
        self._clock, self._check = clock_ns, check
        self._pending = list(pending)
        self._anew: set[bytes] = set()
        self._parcels = 0
        self._work: WorkFolder | None = None
        self.intents: dict[int, Intent] = {}

    @property
    def staging(self) -> Path:
        """The work folder, once there are parcels."""
        assert self._work is not None
        return self._work.path

    def put_back(self, intents: Sequence[Intent]) -> None:
        """Have files handed out again, and packed whatever their digests are."""
        self._anew.update(intent.found.path for intent in intents)
        self._pending = [*(intent.found for intent in intents), *self._pending]

    def next(self) -> list[Parcel]:
        """Note the next files in the catalog and give the parcels that they make; none at the end.

        Raises CatalogError, StorageError if a place or the staging folder can't be used.
        """
        while self._pending:
            self._check()
            named = naming.free_names(
                self._next_files(), self._name, self._places, self._tally,
                reserved=partial(self._journal.taken, self._asked.destination),
            )  # fmt: skip
            if named:
                return self._parcels_of(self._journal.plan([self._intent(*one) for one in named]))
        return []

    def _next_files(self) -> list[Found]:
        """Take the next files; with a storage, not more than may wait to be sent."""
        taken: list[Found] = []
        size = 0
        most = MOST_BYTES if is_remote(self._asked.destination) else None
        for found in self._pending[:MOST_FILES]:
            size += found.size
            if taken and most is not None and size > most:
                break
            taken.append(found)
        del self._pending[: len(taken)]
        return taken

    def _name(self, found: Found, number: int) -> str:
        return name_of(found, number, self._asked, self._started_at)

    def _intent(self, found: Found, name: str) -> Intent:
        asked = self._asked
        return Intent(
            found=found, name=name, destination=asked.destination, also=asked.addresses[1:],
            format=asked.recipe.format, encrypted=asked.encrypted, kept=asked.options.keep,
        )  # fmt: skip

    def _parcels_of(self, intents: Sequence[Intent]) -> list[Parcel]:
        """Cut noted files into parcels and leave these in the staging folder."""
        asked = self._asked
        self.intents = {intent.row: intent for intent in intents}
        known: dict[int, tuple[str, ...]] = {}
        if not asked.options.keep_duplicates:
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
            items, recipe=asked.recipe, encrypted=asked.encrypted, first=self._parcels,
            known=known, source=os.fsencode(asked.source),
            quiet_since_ns=quiet_since(self._clock(), asked.settle_seconds),
        )  # fmt: skip
        self._parcels += len(made)
        try:
            if self._work is None:
                self._work = WorkFolder.create(asked.staging_parent, self._run_id)
                self._work.subfolder("progress")
            for parcel in made:
                write_parcel(self.staging, parcel)
        except OSError as error:
            raise StorageError(
                f"{asked.staging_parent}: {reason(error)}; free some space or choose another place"
            ) from error
        return made

    def request_cancel(self) -> None:
        """Ask workers to stop."""
        if self._work is not None:
            staging.request_cancel(self._work.path)

    def close(self) -> None:
        """Remove the work folder."""
        if self._work is not None:
            self._work.remove()


def name_of(found: Found, number: int, asked: Asked, started_at: datetime) -> str:
    """Give what a file is called at the destination; `number` tells equal names apart."""
    return naming.stored_name(
        found.path, started_at.astimezone(), asked.recipe.format, encrypted=asked.encrypted,
        number=number,
    )  # fmt: skip
