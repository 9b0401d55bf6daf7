"""Settle what a killed run left: every file is done by then, or as if the run had never been.

What a row's state tells (`pybak.inbox.states`):

- PLANNED: nothing was stored. The row goes; the file is found anew.
- MADE: the file was about to be stored. If every place holds exactly the bytes that were made,
  it is taken over. If not, or if the source was written to since, what is there is taken back.
  The source was not touched yet.
- STORED: only the source was left to be removed. That is done once every place has been seen to
  hold the file still; if one does not, what is there is taken back, and the source has its name
  again. One that is not what was stored stays: it came later, and what was stored stays as well.
- WITHDRAWN: the source had changed; what was stored is taken back.
- DISCARDING: a duplicate; it is looked at again.

Nothing that was stored is taken back unless the source is there, nor what another row names. A
place that can't be reached makes the file wait, unless the round has that place no more: then what
may lie there is named as a problem.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from pybak import problems
from pybak.display import printable
from pybak.errors import PlanError, SourceError, StorageError
from pybak.folders import Folders
from pybak.inbox import states
from pybak.inbox.journal import Journal
from pybak.inbox.places import Place
from pybak.inbox.rows import Intent
from pybak.inbox.taking import CHANGED, GONE, SAME, look, resume, take
from pybak.problems import Problem
from pybak.storage.opening import join


class Recovery:
    """Settles rows.

    `finished` are those that were brought to their end, `blocked` the files that must wait
    because a row of theirs could not be settled, `orphans` what may lie at places that are gone.
    """

    def __init__(
        self,
        journal: Journal,
        folders: Folders,
        open_place: Callable[[str], Place],
        addresses: Sequence[str],
    ) -> None:
        """`addresses` are the places of this round."""
        self._journal = journal
        self._folders = folders
        self._open = open_place
        self._addresses = addresses
        self.orphans: list[Problem] = []
        self.finished: list[Intent] = []
        self.blocked: dict[bytes, Problem] = {}

    def settle(self, intents: Sequence[Intent]) -> None:
        """Clear all their places, and settle rows one by one. Raises CatalogError."""
        self._clean(intents)
        for intent in intents:
            try:
                self._settle(intent)
            except (StorageError, SourceError, PlanError) as error:
                code = error.code if isinstance(error, SourceError) else problems.STORAGE
                path = intent.found.path
                message = f"an earlier run left it half-way: {error}"
                self.blocked[path] = Problem(os.fsdecode(path), code, message)

    def _clean(self, intents: Sequence[Intent]) -> None:
        """Remove what killed runs left at the places of these files, and at those of the round."""
        names = [intent.name for intent in intents]
        begun = [intent.name for intent in intents if intent.state == states.MADE]
        addresses = {address for intent in intents for address in intent.places}
        for address in sorted({*addresses, *self._addresses}):
            with suppress(StorageError, PlanError):
                self._open(address).clean(names, begun)

    def _settle(self, intent: Intent) -> None:
        if intent.state == states.PLANNED:
            self._journal.forget([intent.row])
        elif intent.state == states.DISCARDING:
            self._look_again(intent)
        elif intent.state == states.WITHDRAWN:
            resume(self._folders, intent.found, intent.hidden, give_back=True)
            self._drop(intent, *self._holding(intent))
        elif intent.state == states.MADE:
            self._take_over(intent)
        elif intent.kept:
            self._finish(intent)
        else:
            self._go_on(intent)

    def _look_again(self, intent: Intent) -> None:
        resume(self._folders, intent.found, intent.hidden, give_back=True)
        if look(self._folders, intent.found) == GONE:
            self._journal.move([intent.row], states.DUPLICATE)
        else:
            self._journal.forget([intent.row])

    def _take_over(self, intent: Intent) -> None:
        holding, orphans = self._holding(intent)
        if len(holding) < len(intent.places) or look(self._folders, intent.found) == CHANGED:
            self._drop(intent, holding, orphans)
            return
        for place in holding:
            place.sync([intent.name])
        self._journal.move([intent.row], states.STORED)
        if not intent.kept:
            take(self._folders, intent.found, intent.hidden)
        self._finish(intent)

    def _go_on(self, intent: Intent) -> None:
        """Remove the source of a stored file; not for a copy that has gone since."""
        holding, orphans = self._holding(intent)
        is_stored = bool(holding) and len(holding) + len(orphans) == len(intent.places)
        is_done = resume(self._folders, intent.found, intent.hidden, give_back=not is_stored)
        if is_stored and not is_done:
            take(self._folders, intent.found, intent.hidden)
        if is_stored or look(self._folders, intent.found) not in (SAME, CHANGED):
            self.orphans += orphans
            self._finish(intent)
        else:
            self._drop(intent, holding, orphans)

    def _holding(self, intent: Intent) -> tuple[list[Place], list[Problem]]:
        """Give the places that hold what was stored, and what lies where nobody can look."""
        holding: list[Place] = []
        orphans: list[Problem] = []
        for address in intent.places:
            try:
                place = self._open(address)
                if place.holds(intent.name, intent.expected):
                    holding.append(place)
            except (StorageError, PlanError) as error:
                if address in self._addresses:
                    raise
                where = printable(join(address, intent.name))
                message = f"a copy may lie at {where}, which can't be reached; remove it: {error}"
                orphans.append(Problem(os.fsdecode(intent.found.path), problems.STORAGE, message))
        return holding, orphans

    def _drop(self, intent: Intent, holding: Sequence[Place], orphans: Sequence[Problem]) -> None:
        """Delete what was stored, if the source is there; else keep it."""
        if holding and look(self._folders, intent.found) not in (SAME, CHANGED):
            self._finish(intent)
            return
        for place in holding:
            if not self._journal.is_named_by_others(intent, place.address):
                place.remove(intent.name)
        self._journal.forget([intent.row])
        self.orphans += orphans

    def _finish(self, intent: Intent) -> None:
        self._journal.move([intent.row], states.DONE)
        self.finished.append(intent)
