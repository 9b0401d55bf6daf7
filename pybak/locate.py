"""Find the archive that someone means: a path, a run, or the latest of a job."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from pybak.errors import ArchiveError, NotFoundError, PlanError, PyBakError
from pybak.paths import user_path
from pybak.portable import from_portable, to_portable
from pybak.volumes.find import VolumeSet, find_volumes

if TYPE_CHECKING:
    from pybak.catalog.models import Run
    from pybak.catalog.runs import Catalog

LATEST: Final = "latest"
LEAST_PREFIX: Final = 8
"""Characters of a run's id by which it may be named."""


def locate_archive(which: str, *, job: str | None, catalog_url: str) -> VolumeSet:
    """Give the volumes of an archive. A path beats a run's id, which beats `latest`.

    A path is an archive's, any one volume's, the name of all volumes without their numbers, or a
    folder's that holds the volumes of one archive; it may be a `file://` URI, as reports give
    them. The catalog is asked only when `which` is no path. Raises NotFoundError, PlanError if
    `latest` could mean several jobs, CatalogError, and what `find_volumes` raises for volumes
    that are no whole.
    """
    which = from_portable(which)
    path = user_path(which)
    try:
        return find_volumes(os.fsencode(path))
    except NotFoundError as error:
        if "/" in which:
            raise
        missing = error
    from pybak.catalog.runs import Catalog

    catalog = Catalog(catalog_url)
    try:
        if which == LATEST:
            found = _of_job(catalog, job)
        elif (run := _run(catalog, which)) is not None:
            found = _of_run(run)
        elif path.exists() or path.suffix:  # it was meant as a path
            raise missing
        else:
            raise NotFoundError(f"{which}: neither a file nor a known run; check the name")
    finally:
        catalog.close()
    try:
        return find_volumes(os.fsencode(found))
    except NotFoundError as error:
        message = f"{found}: the archive is no longer there; name another one"
        raise NotFoundError(message) from error


def known_archives(job: str | None, *, catalog_url: str) -> list[VolumeSet]:
    """Give all archives of backups in the catalog, or of one job's, that still exist.

    The newest comes first. A set that lacks volumes is left out. Raises CatalogError.
    """
    from pybak.catalog.runs import Catalog

    catalog = Catalog(catalog_url)
    try:
        names = catalog.archives(job)
    finally:
        catalog.close()
    places = []
    for name in dict.fromkeys(names):
        try:
            places.append(find_volumes(os.fsencode(name)))
        except (PlanError, ArchiveError):
            continue
    return places


def portable_name(archive: VolumeSet) -> str:
    """Give a path by which `locate_archive` finds the same files again.

    That is the archive's name without a volume's number, unless something else is called so.
    """
    try:
        is_same = find_volumes(archive.base).paths == archive.paths
    except PyBakError:
        is_same = False
    return to_portable(os.fsdecode(archive.base if is_same else archive.paths[0]))


def _run(catalog: Catalog, which: str) -> Run | None:
    """Find a run by its id, or by LEAST_PREFIX characters of its beginning or more."""
    if len(which) < LEAST_PREFIX:
        return catalog.get_run(which)
    found = catalog.runs_like(which)
    if len(found) > 1:
        ids = ", ".join(run.run_id[: len(which) + 4] for run in found[:5])
        raise PlanError(f"{which}: which run? {ids} begin like that; write more of it")
    return found[0] if found else None


def _of_run(run: Run) -> str:
    if run.archive is None:
        raise NotFoundError(f"{run.run_id}: this run ended as {run.status} and has no archive")
    return run.archive


def _of_job(catalog: Catalog, job: str | None) -> str:
    jobs = catalog.backup_jobs()
    if job is None:
        if len(jobs) > 1:
            raise PlanError(f"latest of which job? name one with --job: {', '.join(jobs)}")
        if not jobs:
            raise NotFoundError(
                "latest: no backup has been made yet; name an archive, or make a lost catalog anew "
                "with `python flows/rebuild.py DESTINATION`"
            )
        (job,) = jobs
    archive = catalog.newest_archive(job)
    if archive is None:
        known = f"; known are {', '.join(jobs)}" if jobs else ""
        raise NotFoundError(f"{job}: no backup of this job{known}")
    return archive
