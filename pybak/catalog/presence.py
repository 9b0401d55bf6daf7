"""Whether there is a catalog at all: what only looks must not make one."""

from __future__ import annotations

import os

from pybak.catalog.address import file_of, is_sqlite, parse, place_of
from pybak.catalog.failures import translated

_CONNECT_SECONDS = 10


def has_catalog(url: str) -> bool:
    """Whether a catalog lies at `url`; an empty file or database is none.

    Raises CatalogError where that can't be told.
    """
    parsed = parse(url)
    where = place_of(parsed)
    if is_sqlite(parsed):
        path = file_of(parsed)
        if path is None:
            return True
        with translated(where, opening=True):
            try:
                return os.stat(path).st_size > 0
            except (FileNotFoundError, NotADirectoryError):
                return False
    from sqlalchemy import create_engine

    from pybak.catalog import schema

    engine = create_engine(parsed, connect_args={"connect_timeout": _CONNECT_SECONDS})
    try:
        with translated(where, opening=True), engine.connect() as connection:
            return schema.revision_of(connection, where) is not None
    finally:
        engine.dispose()
