"""Where the catalog is: what `PYBAK_CATALOG_URL` may say.

`sqlite:///FILE`, `postgresql://USER:PASSWORD@HOST/DATABASE`, or `block:NAME`, where one of the
two is kept by something that PyBak's engine does not know; what reads it comes by the entry-point
group `pybak.catalogs`. A URL may hold a password, so no message repeats more than its place.
"""

from __future__ import annotations

import os
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from pybak.catalog.failures import CatalogError, unusable
from pybak.errors import PyBakError
from pybak.home import CATALOG_VARIABLE

LOADERS: Final = "pybak.catalogs"
BLOCK: Final = "block:"
HOW_TO_SAY: Final = "set PYBAK_CATALOG_URL to sqlite:///FILE or postgresql://USER@HOST/DATABASE"
_SQLITE: Final = ("sqlite", "sqlite+pysqlite")
_POSTGRES: Final = ("postgresql", "postgres", "postgresql+psycopg")


def parse(url: str) -> URL:
    """Give the database's URL with the driver that PyBak uses. Raises CatalogError."""
    origin = CATALOG_VARIABLE
    if url.startswith(BLOCK):
        origin = url
        url = _loaded(url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise unusable(origin, "this is no database URL", HOW_TO_SAY) from None
    if parsed.drivername in _SQLITE:
        return parsed.set(drivername="sqlite+pysqlite")
    if parsed.drivername in _POSTGRES:
        return parsed.set(drivername="postgresql+psycopg")
    raise unusable(origin, f"unknown kind {parsed.drivername}", HOW_TO_SAY)


def is_sqlite(url: URL) -> bool:
    """Whether it is SQLite; else it is PostgreSQL."""
    return url.get_backend_name() == "sqlite"


def file_of(url: URL) -> str | None:
    """Give the path of an SQLite file, absolute; None for what is no file of its own."""
    database = url.database or ""
    if not is_sqlite(url) or database in ("", ":memory:") or database.startswith("file:"):
        return None
    return os.path.abspath(database)


def place_of(url: URL) -> str:
    """Give its place for people: a path, or a URL without password."""
    if is_sqlite(url):
        return file_of(url) or "sqlite"
    # What stands after "?" may hold a password too.
    shown = URL.create("postgresql", url.username, None, url.host, url.port, url.database)
    return shown.render_as_string()


def _loaded(url: str) -> str:
    from importlib.metadata import entry_points

    name = url.removeprefix(BLOCK)
    for point in entry_points(group=LOADERS):
        try:
            loaded: str = point.load()(name)
        except CatalogError:
            raise
        except PyBakError as error:
            raise CatalogError(f"{CATALOG_VARIABLE}={url}: {error}") from error
        return loaded
    raise unusable(url, "nothing is installed that reads blocks", HOW_TO_SAY)
