"""Catalogs for tests: those of earlier releases, and what a database's schema is.

`tests/schemas/` has each schema that was released, as SQL with rows in it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import inspect

from pybak.catalog.engine import Database

SCHEMAS = Path(__file__).parent / "schemas"
RELEASED = ("0001", "0002", "0003", "0005")


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite:")


def file_of(url: str) -> Path:
    assert is_sqlite(url)
    return Path(url.removeprefix("sqlite:///"))


def make_released(url: str, revision: str) -> None:
    """Make the catalog that a release left at `url`."""
    kind = "sqlite" if is_sqlite(url) else "postgresql"
    run_sql(url, (SCHEMAS / f"{revision}_{kind}.sql").read_text())


def run_sql(url: str, script: str) -> None:
    """Run statements by the driver alone."""
    if is_sqlite(url):
        path = file_of(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(script)
        database.close()
        return
    with psycopg.connect(url) as connection:
        connection.execute(script.encode())


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Give the rows of a query by the driver alone."""
    if is_sqlite(url):
        database = sqlite3.connect(file_of(url))
        try:
            return database.execute(statement).fetchall()
        finally:
            database.close()
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def tables_of(url: str) -> set[str]:
    """Give the names of all tables."""
    if is_sqlite(url):
        if not file_of(url).exists():
            return set()
        rows = query(url, "SELECT name FROM sqlite_master WHERE type = 'table'")
    else:
        rows = query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row[0] for row in rows}


def schema_of(database: Database) -> dict[str, Any]:
    """Describe every table as SQLAlchemy reads it from the database itself."""
    described: dict[str, Any] = {}
    with database.reading() as connection:
        look = inspect(connection)
        for table in look.get_table_names():
            described[table] = {
                "columns": [
                    {name: str(value) for name, value in column.items()}
                    for column in look.get_columns(table)
                ],
                "key": look.get_pk_constraint(table)["constrained_columns"],
                "unique": sorted(c["column_names"] for c in look.get_unique_constraints(table)),
                "foreign": [
                    (key["constrained_columns"], key["referred_table"], key["referred_columns"])
                    for key in look.get_foreign_keys(table)
                ],
                "indexes": sorted(
                    (str(index["name"]), index["column_names"], index["unique"],
                     [f"{k}={v}" for k, v in (index.get("dialect_options") or {}).items()])
                    for index in look.get_indexes(table)
                ),
            }  # fmt: skip
    return described
