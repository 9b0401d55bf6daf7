"""Plain statements for both databases. `?` stands for a parameter in every one of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from pybak.catalog.rows import Row, is_postgres


def rows(connection: Connection, statement: str, parameters: Row = ()) -> list[Row]:
    """Give all rows of a query that gives few.

    An own cursor costs a fifth of what SQLAlchemy's would: a page takes several queries.
    """
    text = statement.replace("?", "%s") if is_postgres(connection) else statement
    cursor = connection.connection.cursor()
    try:
        cursor.execute(text, parameters)
        return list(cursor.fetchall())
    finally:
        cursor.close()


def row(connection: Connection, statement: str, parameters: Row = ()) -> Row | None:
    """Give the first row, None if there is none."""
    found = rows(connection, statement, parameters)
    return found[0] if found else None


def moment(value: Any) -> datetime:
    """Give a time as the drivers hand it out: SQLite as text, PostgreSQL as a datetime."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    assert isinstance(value, datetime)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def moment_or_none(value: Any) -> datetime | None:
    """Give a time that may be missing."""
    return None if value is None else moment(value)


def stored_moment(connection: Connection, when: datetime) -> Any:
    """Give an aware time as a parameter that compares with the catalog's."""
    utc = when.astimezone(UTC)
    if is_postgres(connection):
        return utc
    return f"{utc.replace(tzinfo=None):%Y-%m-%d %H:%M:%S.%f}"


def loaded(value: Any) -> Any:
    """Give a JSON column as the drivers hand it out: SQLite as text, PostgreSQL as it is."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except ValueError:  # lone surrogates, of names that are no UTF-8
        return json.loads(value)


def times(mark: str, count: int) -> str:
    """Repeat a mark, for lists: `?, ?, ?`."""
    return ", ".join([mark] * count)
