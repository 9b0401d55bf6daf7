"""The catalog as a dry run sees it: read if it is there, never made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pybak.catalog.engine import Database
from pybak.catalog.failures import CatalogError
from pybak.catalog.history import History
from pybak.catalog.presence import has_catalog
from pybak.home import catalog_url


@contextmanager
def history_to_look_at(warn: Callable[[str], object]) -> Iterator[History | None]:
    """Give what the catalog knows; None where there is none, or it can't be used."""
    url = catalog_url()
    try:
        is_there = has_catalog(url)
    except CatalogError as error:
        warn(str(error))
        is_there = False
    if not is_there:
        yield None
        return
    database = Database(url)
    try:
        yield History(database)
    finally:
        database.close()
