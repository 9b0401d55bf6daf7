"""The rows of an inbox in the catalog: what it is about to do, and what it did.

Everything that an inbox does to a source or a destination is committed here before, so that a
later run can tell what a killed one had done. Every method raises CatalogError.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pybak.catalog.failures import CatalogError
from pybak.catalog.rows import clamped, unwrapped, wrapped
from pybak.inbox import states
from pybak.inbox.parcels import Outcome
from pybak.inbox.scan import Found, hidden_name

if TYPE_CHECKING:
    from pybak.catalog.engine import Database

_AT_ONCE: Final = 500
"""Parameters of a statement; old SQLites take 999."""


class Intent(msgspec.Struct, frozen=True):
    """A row that is not at its end: what its file looked like, and where it goes.

    `row` is 0 before it is written. `name` is empty for one that is discarded.
    """

    found: Found
    name: str
    destination: str
    also: tuple[str, ...]
    format: str
    encrypted: bool
    kept: bool
    state: str = states.PLANNED
    row: int = 0
    sha256: str | None = None
    stored_size: int | None = None
    stored_sha256: str | None = None
    run_id: str = ""

    @property
    def hidden(self) -> bytes:
        """What the file is called while it is taken, without its folder."""
        return hidden_name(self.run_id, os.path.basename(self.found.path))

    @property
    def places(self) -> tuple[str, ...]:
        """All the places that it goes to."""
        return (self.destination, *self.also)


class Stored(msgspec.Struct, frozen=True):
    """A file that was stored before."""

    row: int
    path: bytes
    name: str
    size: int
    sha256: str
    stored_size: int
    stored_sha256: str


Identity = tuple[bytes, int, int, int]
"""By what a file that was kept is known again; see `Found`."""


class Journal:
    """The rows of the inbox `job`, and of every inbox of its destination."""

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
            .where(table.job_id == self._job(), table.state.in_(states.OPEN))
            .order_by(table.id)
        )
        with self._database.reading() as connection:
            return [_intent(row) for row in connection.execute(query)]

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

    def _job(self) -> Any:
        """Give the query for the job's number; none before its first row is written."""
        from sqlalchemy import select

        from pybak.catalog.models import Job

        return select(Job.id).where(Job.name == self._name).scalar_subquery()  # type: ignore[call-overload]

    def taken(self, destination: str, names: Iterable[str]) -> set[str]:
        """Give which of these names at a destination some row has, of whatever inbox."""
        with self._database.reading() as connection:
            return self._taken(connection, destination, names)

    def _taken(self, connection: Any, destination: str, names: Iterable[str]) -> set[str]:
        from sqlalchemy import select

        table = self._table.c
        by_key = {_key(name): name for name in names}
        found: set[str] = set()
        for some in _chunks(list(by_key)):
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
            table.name_key == _key(intent.name), table.id != intent.row
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
                **_values(intent),
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

    def made(self, outcomes: Iterable[Outcome]) -> None:
        """Note what is about to be stored."""
        from sqlalchemy import bindparam, update

        values = [
            {
                "row": one.row, "new_sha256": one.sha256, "new_stored_size": one.stored_size,
                "new_stored_sha256": one.stored_sha256,
            }
            for one in outcomes
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
            for some in _chunks(rows):
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
            for some in _chunks(rows):
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

    def has_rows(self, destination: str) -> bool:
        """Whether any file went to a destination, or was about to."""
        from sqlalchemy import select

        table = self._table.c
        query = (
            select(table.id)
            .where(table.destination == destination)
            .order_by(table.id.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            return connection.execute(query).scalar() is not None

    def known(
        self, destination: str, digests: Sequence[str] | None = None
    ) -> dict[Identity, Stored]:
        """Give the files that were kept when they were done, and what was stored of each.

        `digests` asks for files with these alone. Of a duplicate it is what that repeats.
        """
        from sqlalchemy import func, select

        table, copy = self._table.c, self._table.alias("copy")
        query = (
            select(
                table.path, table.size, table.mtime_ns, table.inode, *_stored_columns(copy.c)
            )
            .join(copy, copy.c.id == func.coalesce(table.duplicate_of, table.id))
            .where(
                table.job_id == self._job(), table.state.in_((states.DONE, states.DUPLICATE)),
                table.kept, table.destination == destination, copy.c.name.is_not(None),
            )
            .order_by(table.id)
        )  # fmt: skip
        found: dict[Identity, Stored] = {}
        queries = [query]
        if digests is not None:
            queries = [query.where(table.sha256.in_(some)) for some in _chunks(digests)]
        with self._database.reading() as connection:
            for one in queries:
                for path, size, mtime_ns, inode, *stored in connection.execute(one):
                    identity = (os.fsencode(path), size, mtime_ns, unwrapped(inode))
                    found[identity] = _stored(stored)
        return found

    def of_sizes(self, destination: str, sizes: Iterable[int], most: int) -> dict[int, set[str]]:
        """Give the digests of files of these sizes that were stored at a destination.

        At most `most` of a size: where there are more, none.
        """
        from sqlalchemy import select

        table = self._table.c
        found: dict[int, set[str]] = {}
        with self._database.reading() as connection:
            for some in _chunks(sorted(set(sizes))):
                query = select(table.size, table.sha256).where(
                    table.size.in_(some), *self._stored_at(destination)
                ).distinct()  # fmt: skip
                for size, sha256 in connection.execute(query):
                    found.setdefault(size, set()).add(sha256)
        return {size: digests for size, digests in found.items() if len(digests) <= most}

    def of_digests(self, destination: str, digests: Iterable[str]) -> dict[str, list[Stored]]:
        """Give the files with these digests that were stored at a destination, the newest first."""
        from sqlalchemy import select

        table = self._table.c
        found: dict[str, list[Stored]] = {}
        with self._database.reading() as connection:
            for some in _chunks(sorted(set(digests))):
                query = (
                    select(*_stored_columns(table))
                    .where(table.sha256.in_(some), *self._stored_at(destination))
                    .order_by(table.id.desc())
                )
                for stored in connection.execute(query):
                    one = _stored(stored)
                    found.setdefault(one.sha256, []).append(one)
        return found

    def _stored_at(self, destination: str) -> tuple[Any, ...]:
        table = self._table.c
        return (
            table.destination == destination, table.state.in_(states.THERE),
            table.name.is_not(None), table.sha256.is_not(None),
        )  # fmt: skip


def _key(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def _stored_columns(table: Any) -> tuple[Any, ...]:
    return (
        table.id, table.path, table.name, table.size, table.sha256, table.stored_size,
        table.stored_sha256,
    )  # fmt: skip


def _stored(columns: Any) -> Stored:
    row, path, name, size, sha256, stored_size, stored_sha256 = columns
    return Stored(
        row, os.fsencode(path), name, size, sha256 or "", stored_size or 0, stored_sha256 or ""
    )


def _values(intent: Intent) -> dict[str, Any]:
    found = intent.found
    return {
        "path": os.fsdecode(found.path), "size": found.size, "mtime_ns": clamped(found.mtime_ns),
        "ctime_ns": clamped(found.ctime_ns), "inode": wrapped(found.inode),
        "device": wrapped(found.device), "mode": found.mode, "destination": intent.destination,
        "also": list(intent.also), "name": intent.name, "name_key": _key(intent.name),
        "format": intent.format, "encrypted": intent.encrypted, "state": intent.state,
        "kept": intent.kept,
    }  # fmt: skip


def _intent(row: Any) -> Intent:
    found = Found(
        os.fsencode(row.path), row.size, row.mtime_ns, row.ctime_ns, unwrapped(row.inode),
        unwrapped(row.device), row.mode,
    )  # fmt: skip
    return Intent(
        found=found, name=row.name or "", destination=row.destination, also=tuple(row.also or ()),
        format=row.format, encrypted=bool(row.encrypted), kept=bool(row.kept), state=row.state,
        row=row.id, sha256=row.sha256, stored_size=row.stored_size,
        stored_sha256=row.stored_sha256, run_id=row.run_id,
    )  # fmt: skip


def _chunks(items: Sequence[Any]) -> Iterable[list[Any]]:
    iterator = iter(items)
    while some := list(islice(iterator, _AT_ONCE)):
        yield some
