"""Find the archive that someone means: a path, a run, or the latest of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pybak.catalog.runs import Catalog
from pybak.errors import NotFoundError, PlanError
from pybak.paths import user_path

LATEST: Final = "latest"


def locate_archive(which: str, *, job: str | None, catalog_url: str) -> Path:
    """Give the path of an archive. An existing path beats a run's id, which beats `latest`.

    The catalog is asked only when `which` is no path. Raises NotFoundError, PlanError if
    `latest` could mean several jobs, and CatalogError.
    """
    path = user_path(which)
    if path.exists():
        if not path.is_file():
            raise PlanError(f"{which}: is no archive; name the file itself")
        return path
    if "/" in which:
        raise NotFoundError(f"{which}: no such archive; check the path")
    catalog = Catalog(catalog_url)
    try:
        found = _of_job(catalog, job) if which == LATEST else _of_run(catalog, which)
    finally:
        catalog.close()
    if not Path(found).is_file():
        raise NotFoundError(f"{found}: the archive is no longer there; name another one")
    return Path(found)


def _of_run(catalog: Catalog, run_id: str) -> str:
    run = catalog.get_run(run_id)
    if run is None:
        raise NotFoundError(f"{run_id}: neither a file nor a known run; check the name")
    if run.archive is None:
        raise NotFoundError(f"{run_id}: this run ended as {run.status} and has no archive")
    return run.archive


def _of_job(catalog: Catalog, job: str | None) -> str:
    jobs = catalog.backup_jobs()
    if job is None:
        if len(jobs) > 1:
            raise PlanError(f"latest of which job? name one with --job: {', '.join(jobs)}")
        if not jobs:
            raise NotFoundError("latest: no backup has been made yet; name an archive")
        (job,) = jobs
    archive = catalog.newest_archive(job)
    if archive is None:
        known = f"; known are {', '.join(jobs)}" if jobs else ""
        raise NotFoundError(f"{job}: no backup of this job{known}")
    return archive
