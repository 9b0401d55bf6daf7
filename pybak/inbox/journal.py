"""The journal: what an inbox is about to do, and what it did, in the catalog.

Everything that an inbox does to a source or a destination is committed here before, so that a
later run can tell what a killed one had done (`pybak.inbox.states`). Every method raises
CatalogError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from pybak.catalog.failures import CatalogError
from pybak.inbox import states
from pybak.inbox.history import job_query
from pybak.inbox.rows import Intent, chunks, intent_of, name_key, values_of

if TYPE_CHECKING:
    from pybak.catalog.engine import Database


class Journal:
    """The rows of the inbox `job`, as its run `run_id` writes them."""

    def __init__(self, database: Database, job: str, run_id: str) -> None:
        self._database = database
        self._run_id = run_id
        self._name = job
        from pybak.catalog.models import ProcessedFile

        self._table: Any = ProcessedFile.__table__  # type: ignore[attr-defined]

    def unsettled(self) -> list[Intent]:
        """Give the rows that a killed run left, in the order in which they were written."""
        from sqlalchemy import select

        table = self._table.c
        query = (
            select(self._table)
            .where(table.job_id == job_query(self._name), table.state.in_(states.OPEN))
            .order_by(table.id)
        )
        with self._database.reading() as connection:
            return [intent_of(row) for row in connection.execute(query)]

    def was_cut_off(self) -> bool:
        """Whether the run of this inbox before this one never came to its end."""
        from sqlalchemy import select

        from pybak.catalog.models import Run
        from pybak.catalog.runs import RUNNING

        query: Any = (
            select(Run.status)  # type: ignore[call-overload]
            .where(Run.job == self._name, Run.run_id != self._run_id)
            .order_by(Run.__table__.c.seq.desc())  # type: ignore[attr-defined]
            .limit(1)
        )
        with self._database.reading() as connection:
            return connection.execute(query).scalar() == RUNNING

    def taken(self, destination: str, names: Iterable[str]) -> set[str]:
        """Give which of these names at a destination some row has, of whatever inbox."""
        with self._database.reading() as connection:
            return self._taken(connection, destination, names)

    def _taken(self, connection: Any, destination: str, names: Iterable[str]) -> set[str]:
        from sqlalchemy import select

        table = self._table.c
        by_key = {name_key(name): name for name in names}
        found: set[str] = set()
        for some in chunks(list(by_key)):
            query = select(table.name_key).where(
                table.name_key.in_(some), table.destination == destination
            )
            found.update(by_key[key] for key in connection.execute(query).scalars())
        return found

    def is_named_by_others(self, intent: Intent, place: str) -> bool:
        """Whether another row names what lies at a place under this one's name."""
        from sqlalchemy import select

        table = self._table.c
        query = select(table.destination, table.also).where(
            table.name_key == name_key(intent.name), table.id != intent.row
        )
        with self._database.reading() as connection:
            return any(
                place == destination or place in (also or ())
                for destination, also in connection.execute(query)
            )

    def plan(self, intents: Sequence[Intent]) -> list[Intent]:
        """Write rows for files that are about to be packed, all or none; give them with numbers.

        They have their names at the destination from then on. Raises CatalogError if another inbox
        was given one of them meanwhile.
        """
        from sqlalchemy import insert, select

        from pybak.catalog.snapshots import job_number

        now = datetime.now(UTC)
        values = [
            {
                "run_id": self._run_id, "processed_at": now,
                **values_of(intent),
            }
            for intent in intents
        ]  # fmt: skip
        table = self._table.c
        with self._database.transaction() as connection:
            for destination in {intent.destination for intent in intents}:
                names = [one.name for one in intents if one.destination == destination]
                if self._taken(connection, destination, names):
                    raise CatalogError(
                        "another inbox took the same names at the same moment; try again"
                    )
            last = connection.execute(select(table.id).order_by(table.id.desc()).limit(1)).scalar()
            job = job_number(connection, self._name)
            connection.execute(insert(self._table), [{**value, "job_id": job} for value in values])
            query = select(table.id, table.path).where(
                table.run_id == self._run_id, table.id > (last or 0)
            )
            rows = {path: row for row, path in connection.execute(query)}
        return [
            msgspec.structs.replace(intent, row=rows[value["path"]], run_id=self._run_id)
            for intent, value in zip(intents, values, strict=True)
        ]

    def made(self, intents: Iterable[Intent]) -> None:
        """Note what is about to be stored of files, by the digests that they have."""
        from sqlalchemy import bindparam, update

        values = [
            {
                "row": one.row, "new_sha256": one.sha256, "new_stored_size": one.stored_size,
                "new_stored_sha256": one.stored_sha256,
            }
            for one in intents
        ]  # fmt: skip
        table = self._table.c
        statement = (
            update(self._table)
            .where(table.id == bindparam("row"))
            .values(
                state=states.MADE, sha256=bindparam("new_sha256"),
                stored_size=bindparam("new_stored_size"),
                stored_sha256=bindparam("new_stored_sha256"),
            )
        )  # fmt: skip
        if values:
            with self._database.transaction() as connection:
                connection.execute(statement, values)

    def move(self, rows: Sequence[int], state: str) -> None:
        """Note that rows have come to another state."""
        from sqlalchemy import update

        if not rows:
            return
        values = {"state": state, "processed_at": datetime.now(UTC)}
        with self._database.transaction() as connection:
            for some in chunks(rows):
                connection.execute(
                    update(self._table).where(self._table.c.id.in_(some)).values(values)
                )

    def discard(self, duplicates: Mapping[int, tuple[str, int]]) -> None:
        """Note that sources are about to go: by row, their digest and the row they repeat."""
        from sqlalchemy import bindparam, update

        if not duplicates:
            return
        statement = (
            update(self._table)
            .where(self._table.c.id == bindparam("row"))
            .values(
                state=states.DISCARDING, name=None, name_key=None, sha256=bindparam("digest"),
                duplicate_of=bindparam("of"),
            )
        )  # fmt: skip
        values = [
            {"row": row, "digest": digest, "of": of} for row, (digest, of) in duplicates.items()
        ]
        with self._database.transaction() as connection:
            connection.execute(statement, values)

    def forget(self, rows: Sequence[int]) -> None:
        """Delete rows of files that are left as they were."""
        from sqlalchemy import delete

        if not rows:
            return
        with self._database.transaction() as connection:
            for some in chunks(rows):
                connection.execute(delete(self._table).where(self._table.c.id.in_(some)))

    def forget_planned(self) -> None:
        """Delete the rows of this run whose files were not packed."""
        from sqlalchemy import delete

        table = self._table.c
        with self._database.transaction() as connection:
            connection.execute(
                delete(self._table).where(
                    table.run_id == self._run_id, table.state == states.PLANNED
                )
            )
