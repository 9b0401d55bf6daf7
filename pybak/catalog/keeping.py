"""Archives that are read by their path, kept from being pruned meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from pybak.catalog.failures import CatalogError
from pybak.catalog.presence import has_catalog
from pybak.storage.opening import is_remote
from pybak.volumes.find import VolumeSet


@contextmanager
def keep_archives(archives: Iterable[VolumeSet], *, catalog_url: str) -> Iterator[None]:
    """Keep archives from being removed as long as the block lasts, if they are of known jobs.

    What the catalog does not know, no prune deletes; a catalog that can't be read keeps nobody
    from reading an archive. Raises LockedError.
    """
    from pybak.catalog.locks import archives_lock

    with ExitStack() as held:
        for job in _jobs_of(archives, catalog_url):
            held.enter_context(archives_lock(job, shared=True, catalog_url=catalog_url))
        yield


def _jobs_of(archives: Iterable[VolumeSet], catalog_url: str) -> list[str]:
    names = {name for archive in archives for name in names_in_catalog(archive)}
    try:
        if not names or not has_catalog(catalog_url):
            return []
        from sqlmodel import col, select

        from pybak.catalog.engine import Database
        from pybak.catalog.models import Archive

        database = Database(catalog_url)
        try:
            with database.session() as session:
                query = select(Archive.job).where(col(Archive.name).in_(sorted(names))).distinct()
                return sorted(session.exec(query))
        finally:
            database.close()
    except CatalogError:
        return []


def names_in_catalog(archive: VolumeSet) -> Iterator[str]:
    """Give what a run may have called an archive, however its folder is named now."""
    for path in (archive.base, archive.paths[0]):
        if is_remote(path):
            yield os.fsdecode(path)
            continue
        folder, name = os.path.split(os.path.abspath(path))
        for place in (folder, os.path.realpath(folder)):
            yield os.fsdecode(os.path.join(place, name))
