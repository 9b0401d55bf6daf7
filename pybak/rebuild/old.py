"""What the catalog that is to be replaced knows, as far as it can be read.

It is read as it is: whatever its version, it is not changed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

from pybak.catalog.address import file_of, parse, place_of
from pybak.catalog.failures import CatalogError, translated
from pybak.catalog.models import unescaped
from pybak.report.rebuild import DroppedJob

# These columns are in every version.
_JOBS: Final = "SELECT DISTINCT job FROM run"
_BACKUPS: Final = "SELECT job, archive FROM run WHERE kind = 'backup' AND archive IS NOT NULL"
_CONNECT_SECONDS: Final = 10


def known_jobs(catalog_url: str) -> set[str]:
    """Give the names of all jobs that a catalog lists; none where it is missing or damaged."""
    return {unescaped(row[0]) for row in _rows(catalog_url, _JOBS) if isinstance(row[0], str)}


def dropped_jobs(catalog_url: str, found: Iterable[str]) -> tuple[DroppedJob, ...]:
    """Give the jobs that a catalog has backups of and that are not among those `found`."""
    taken = set(found)
    archives: dict[str, set[str]] = {}
    for job, archive in _rows(catalog_url, _BACKUPS):
        if isinstance(job, str) and isinstance(archive, str) and unescaped(job) not in taken:
            archives.setdefault(unescaped(job), set()).add(unescaped(archive))
    return tuple(
        DroppedJob(
            job=job, backups=len(names), folders=tuple(sorted(set(map(os.path.dirname, names))))
        )
        for job, names in sorted(archives.items())
    )


def _rows(catalog_url: str, statement: str) -> list[tuple[Any, ...]]:
    try:
        path = file_of(parse(catalog_url))
        if path is None:
            return _of_server(catalog_url, statement)
        return _of_file(os.path.realpath(path), statement)
    except (CatalogError, sqlite3.Error, UnicodeError):
        return []


def _of_file(path: str, statement: str) -> list[tuple[Any, ...]]:
    url = f"file:{quote(os.fsencode(path))}?mode=ro"
    with contextlib.closing(sqlite3.connect(url, uri=True)) as connection:
        return connection.execute(statement).fetchall()


def _of_server(catalog_url: str, statement: str) -> list[tuple[Any, ...]]:
    from sqlalchemy import create_engine

    url = parse(catalog_url)
    engine = create_engine(url, connect_args={"connect_timeout": _CONNECT_SECONDS})
    try:
        with translated(place_of(url), opening=True), engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]
    finally:
        engine.dispose()
