"""Rows of `file_version` as plain tuples, and the statements that move millions of them.

An ORM object a row would cost twenty times as much. `?` stands for a parameter in every
statement here; `execute` translates it for the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection

from pybak.catalog.models import escaped
from pybak.formats.manifest import Reference
from pybak.formats.manifest_facts import FullFact

COLUMNS: Final = (
    "path", "kind", "size", "mtime_ns", "ctime_ns", "inode", "device", "mode", "uid", "gid",
    "changed", "sha256", "parts", "member",
)  # fmt: skip
"""What a row says of the member; `job_id`, `archive_id`, `first_seq`, `gone_seq` come besides."""

_ALL: Final = ("job_id", "archive_id", "first_seq", *COLUMNS)
_CHUNK: Final = 10_000
_ROWS_A_STATEMENT: Final = 50  # SQLite before 3.32 takes 999 parameters
_MOST: Final = (1 << 63) - 1
_WRAP: Final = 1 << 64
_POSTGRES: Final = "postgresql"

Row = tuple[Any, ...]


class ByName(NamedTuple):
    """How a statement says that rows are to be found by job and name: table and job's column.

    Planners without statistics would take the index of the job, which has all of its rows.
    """

    table: str
    job_id: str


_BY_NAME: Final = ByName("file_version INDEXED BY ix_file_version_name", "job_id")
_BY_NAME_POSTGRES: Final = ByName("file_version", "+job_id")


def row_of(fact: FullFact, *, is_postgres: bool = False) -> Row:
    """Give the values of COLUMNS for one line of a manifest."""
    parts = None
    if fact.parts:
        parts = msgspec.json.encode([(part.size, part.sha256) for part in fact.parts]).decode()
    changed: Any = fact.changed if is_postgres else int(fact.changed)
    mtime_ns, ctime_ns, inode, dev = fact.mtime_ns, fact.ctime_ns, fact.inode, fact.dev
    return (
        escaped(fact.path or ""), fact.type, fact.size,
        mtime_ns if -_MOST <= mtime_ns <= _MOST else clamped(mtime_ns),
        ctime_ns if -_MOST <= ctime_ns <= _MOST else clamped(ctime_ns),
        inode if inode <= _MOST else wrapped(inode),
        dev if dev is None or dev <= _MOST else wrapped(dev),
        fact.mode, fact.uid, fact.gid, changed, fact.sha256, parts, None,
    )  # fmt: skip


def row_of_reference(one: Reference, *, is_postgres: bool = False) -> Row:
    """Give the values of COLUMNS for a reference."""
    changed: Any = one.changed if is_postgres else int(one.changed)
    parts = msgspec.json.encode(one.parts).decode() if one.parts else None
    return (
        escaped(one.path), one.type, one.size, clamped(one.mtime_ns), clamped(one.ctime_ns),
        wrapped(one.inode), None if one.dev is None else wrapped(one.dev), one.mode, one.uid,
        one.gid, changed, one.sha256, parts,
        None if one.member is None else escaped(one.member),
    )  # fmt: skip


def clamped(time_ns: int) -> int:
    """Give a time as far as a BIGINT holds it."""
    return max(-_MOST, min(time_ns, _MOST))


def wrapped(number: int) -> int:
    """Give an inode or device number, which have 64 bits without a sign, as a BIGINT."""
    return number if number <= _MOST else number - _WRAP


def unwrapped(number: int) -> int:
    """Undo `wrapped`."""
    return number if number >= 0 else number + _WRAP


def by_name(connection: Connection) -> ByName:
    """Give how statements find versions by job and name."""
    return _BY_NAME_POSTGRES if is_postgres(connection) else _BY_NAME


def is_postgres(connection: Connection) -> bool:
    """Whether the connection is to PostgreSQL; else it is to SQLite."""
    return connection.dialect.name == _POSTGRES


def execute(connection: Connection, statement: str, parameters: Row = ()) -> int:
    """Run one statement; give how many rows it concerned."""
    result = connection.exec_driver_sql(_translated(connection, statement), parameters)
    return result.rowcount


def execute_many(connection: Connection, statement: str, rows: Iterable[Row]) -> None:
    """Run one statement with each of many parameters, some thousands at once."""
    text = _translated(connection, statement)
    cursor = connection.connection.cursor()
    try:
        for chunk in chunked(rows):
            cursor.executemany(text, chunk)
    finally:
        cursor.close()


def insert_versions(
    connection: Connection, job_id: int, archive_id: int, first_seq: int, rows: Iterable[Row]
) -> None:
    """Insert open versions; `rows` are as `row_of` gives them."""
    head = (job_id, archive_id, first_seq)
    names = ", ".join(_ALL)
    if is_postgres(connection):
        cursor: Any = connection.connection.cursor()
        with cursor, cursor.copy(f"COPY file_version ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(head + row)
        return
    # Many rows a statement take a third less time than one each.
    marks = ", ".join([*(str(int(number)) for number in head), *("?" * len(COLUMNS))])
    start = f"INSERT INTO file_version ({names}) VALUES "  # noqa: S608 - our own names
    left: list[Row] = []

    def together() -> Iterator[Row]:
        iterator = iter(rows)
        while len(some := list(islice(iterator, _ROWS_A_STATEMENT))) == _ROWS_A_STATEMENT:
            yield tuple(chain.from_iterable(some))
        left.extend(some)

    cursor = connection.connection.cursor()
    try:
        cursor.executemany(start + ", ".join([f"({marks})"] * _ROWS_A_STATEMENT), together())
        cursor.executemany(f"{start}({marks})", left)
    finally:
        cursor.close()


def stream(connection: Connection, statement: str, parameters: Row = ()) -> Iterator[Row]:
    """Yield the rows of a query, some thousands in memory at once."""
    text = _translated(connection, statement)
    driver: Any = connection.connection
    cursor = driver.cursor(name="pybak_stream") if is_postgres(connection) else driver.cursor()
    try:
        cursor.execute(text, parameters)
        while rows := cursor.fetchmany(_CHUNK):
            yield from rows
    finally:
        cursor.close()


def chunked(rows: Iterable[Row]) -> Iterator[Sequence[Row]]:
    """Cut rows into lists that are sent at once."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _translated(connection: Connection, statement: str) -> str:
    return statement.replace("?", "%s") if is_postgres(connection) else statement
