"""The jobs of the catalog that is to be replaced, as far as it can be read."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Final
from urllib.parse import quote

from pybak.catalog.address import file_of, parse
from pybak.catalog.engine import Database
from pybak.catalog.failures import CatalogError
from pybak.catalog.models import unescaped

_JOBS: Final = "SELECT DISTINCT job FROM run"


def known_jobs(catalog_url: str) -> set[str]:
    """Give the names of all jobs that a catalog lists; none where it is missing or damaged.

    A file is read as it is: whatever its version, it is not changed.
    """
    path = file_of(parse(catalog_url))
    try:
        rows = _of_server(catalog_url) if path is None else _of_file(os.path.realpath(path))
    except (CatalogError, sqlite3.Error, UnicodeError):
        return set()
    return {unescaped(row[0]) for row in rows if isinstance(row[0], str)}


def _of_file(path: str) -> list[tuple[object, ...]]:
    url = f"file:{quote(os.fsencode(path))}?mode=ro"
    with contextlib.closing(sqlite3.connect(url, uri=True)) as connection:
        return connection.execute(_JOBS).fetchall()


def _of_server(catalog_url: str) -> list[tuple[object, ...]]:
    database = Database(catalog_url)
    try:
        with database.reading() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(_JOBS)]
    finally:
        database.close()
