"""What someone wants back: an archive by its path, or a snapshot by run, by time or as the latest.

A path beats a run's id, which beats `latest`; the catalog is asked only for the other two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from pybak.display import printable, shell_names
from pybak.errors import NotFoundError, PlanError
from pybak.locate import LATEST, portable_name
from pybak.paths import user_path
from pybak.portable import from_portable
from pybak.problems import STORAGE, UNSAVED, Problem
from pybak.report.status import PARTIAL
from pybak.restore.owners import NAME
from pybak.restore.select import Selector
from pybak.restore.snapshot import Reference, Share, recorded_shares, references_of, whole
from pybak.storage.opening import is_remote
from pybak.volumes.find import VolumeSet, find_volumes

if TYPE_CHECKING:
    from pybak.catalog.facts import Snapshot
    from pybak.catalog.history import History
    from pybak.catalog.runs import Catalog
    from pybak.options import RestoreOptions

_UNCHANGED: Final = "unchanged"
_LEAST_PREFIX: Final = 8
_NAMED: Final = 5


@dataclass(frozen=True)
class Asked:
    """What is to be restored: the files of one archive, or a snapshot of `job`."""

    archive: VolumeSet | None = None
    run_id: str | None = None
    job: str | None = None
    snapshot: Snapshot | None = None

    @property
    def name(self) -> str:
        """What `ask` finds the same by, whatever happens meanwhile."""
        if self.archive is not None:
            return portable_name(self.archive)
        assert self.run_id is not None
        return self.run_id

    def kept(self, catalog_url: str) -> AbstractContextManager[object]:
        """Keep the archives from being removed as long as the block lasts. Raises LockedError."""
        if self.archive is not None:
            from pybak.catalog.keeping import keep_archives

            return keep_archives([self.archive], catalog_url=catalog_url)
        assert self.snapshot is not None
        from pybak.catalog.locks import archives_lock

        return archives_lock(self.snapshot.job, shared=True, catalog_url=catalog_url)

    def shares(self, catalog_url: str, options: RestoreOptions | None = None) -> list[Share]:
        """Give what is taken from which archive; names that `options` can't want may be left out.

        Raises CatalogError, PlanError for a bad pattern, and NotFoundError if the snapshot was
        removed meanwhile: what others hold of it is not all.
        """
        if self.snapshot is None:
            assert self.archive is not None
            return [whole(self.archive)]
        fragments: list[bytes] = []
        if options is not None and not options.delete:  # which depends on all that is held
            fragments = Selector(options.include).fragments
        with _catalog(catalog_url) as (_, history):
            if not history.find(self.snapshot.run_id):
                run = self.snapshot.run_id
                raise NotFoundError(f"{run}: this backup was removed just now; name another one")
            names: dict[int, list[bytes]] = {}
            references: dict[int, dict[bytes, Reference]] = {}
            for name, number, is_reference in history.names(self.snapshot, fragments):
                if is_reference:
                    references.setdefault(number, {})
                else:
                    names.setdefault(number, []).append(name)
            tellers: set[int] = set()
            if references:
                by_name = options is not None and options.owner == NAME
                made_by = history.made_by(self.snapshot.job) if by_name else {}
                for one in history.references(self.snapshot):
                    if one.archive_id in references:
                        teller, run_id = made_by.get(one.first_seq, (one.archive_id, ""))
                        tellers.add(teller)
                        references[one.archive_id] |= references_of([one], run_id)
            archives = history.archives_by_id([*names, *references, *tellers])
            lack = history.lack(self.snapshot)
            is_partial = (
                options is not None
                and options.delete
                and self.snapshot.status == PARTIAL
                and any(one.code in UNSAVED for one in history.errors(self.snapshot.run_id))
            )
        shares = [
            share._replace(is_partial=is_partial)
            for share in recorded_shares(
                (facts, names.get(facts.id, ()), references.get(facts.id, {})) for facts in archives
            )
        ]
        if lack is not None:
            own = self.snapshot.archive or ""
            last = shares.pop() if shares else Share(own, (), frozenset())
            shares.append(last._replace(lack=Problem(own, STORAGE, lack)))
        return shares


def ask(which: str, *, job: str | None, at: str | None, catalog_url: str) -> Asked:
    """Find what `which` means: a path, a run's id or 8 characters of its beginning, or `latest`.

    The address of an archive in a storage is as good as a path. With `at` (ISO 8601 with an offset)
    `latest` is the newest snapshot that was begun by then.
    Raises NotFoundError, PlanError where more than one thing may be meant and for a time beside
    anything but `latest`, CatalogError, and what `find_volumes` raises for volumes that are no
    whole.
    """
    which = from_portable(which)
    if is_remote(which):
        _refuse_time(which, at, "is an archive")
        return Asked(find_volumes(os.fsencode(which)), job=job)
    path = user_path(which)
    try:
        archive = find_volumes(os.fsencode(path))
    except NotFoundError as error:
        if "/" in which:
            raise
        missing = error
    else:
        _refuse_time(which, at, "is an archive")
        return Asked(archive, job=job)
    with _catalog(catalog_url) as (catalog, history):
        if which == LATEST:
            return _of_job(catalog, history, job, at)
        found = _of_run(catalog, history, which)
        if found is None:
            if path.exists() or path.suffix:  # it was meant as a path
                raise missing
            raise NotFoundError(f"{which}: neither a file nor a known run; check the name")
        _refuse_time(which, at, "is a run")
        if job not in (None, found.job):
            raise PlanError(f"{which}: is a run of {printable(found.job or '')}, not of {job}")
        return found


@contextmanager
def _catalog(url: str) -> Iterator[tuple[Catalog, History]]:
    from pybak.catalog.history import History
    from pybak.catalog.runs import Catalog

    catalog = Catalog(url)
    try:
        yield catalog, History(catalog.database)
    finally:
        catalog.close()


def _refuse_time(which: str, at: str | None, what: str) -> None:
    if at is not None:
        raise PlanError(f"--at: {printable(which)} {what} of one time; with --at name latest")


def _of_job(catalog: Catalog, history: History, job: str | None, at: str | None) -> Asked:
    jobs = sorted({*history.jobs(), *catalog.backup_jobs()})
    if job is None:
        if len(jobs) > 1:
            raise PlanError(f"latest of which job? name one with --job: {shell_names(jobs)}")
        if not jobs:
            raise NotFoundError(
                "latest: no backup has been made yet; name an archive, or make a lost catalog anew "
                "with `python flows/rebuild.py DESTINATION`"
            )
        (job,) = jobs
    if at is None:
        snapshot = history.newest(job)
        archive = catalog.newest_archive(job) if snapshot is None else None
        if archive is not None:
            return _recorded(archive, job)
    else:
        snapshot = history.at(job, datetime.fromisoformat(at))
    if snapshot is not None:
        return _snapshot(snapshot)
    if job in jobs:
        raise NotFoundError(f"{job}: no backup is as old as {at}; name a later time")
    known = f"; known are {', '.join(jobs)}" if jobs else ""
    raise NotFoundError(f"{job}: no backup of this job{known}")


def _of_run(catalog: Catalog, history: History, which: str) -> Asked | None:
    """Find the snapshot of a run. One that found nothing new has that of the run before it."""
    is_long = len(which) >= _LEAST_PREFIX
    if found := history.find(which) if is_long else []:
        _check_one(which, [one.run_id for one in found])
        return _snapshot(found[0])
    # Runs that made no snapshot, or before there were any.
    runs = catalog.runs_like(which) if is_long else [catalog.get_run(which)]
    run = next(iter(runs), None)
    if run is None:
        return None
    _check_one(which, [one.run_id for one in runs if one is not None])
    if run.archive is not None:
        return _recorded(run.archive, run.job)
    if run.status == _UNCHANGED:
        if (snapshot := history.found_by(run.job, run.seq)) is not None:
            return _snapshot(snapshot)
        raise NotFoundError(f"{which}: its snapshot, of the run before, was removed; name another")
    why = run.message or f"this run ended as {run.status} and has no archive"
    raise NotFoundError(f"{which}: {why}")


def _check_one(which: str, run_ids: Sequence[str]) -> None:
    """Raise PlanError where more than one run may be meant."""
    if len(run_ids) < 2:
        return
    ids = ", ".join(run_id[: len(which) + 4] for run_id in run_ids[:_NAMED])
    more = " and others" if len(run_ids) > _NAMED else ""
    raise PlanError(f"{which}: which run? {ids}{more} begin like that; write more of it")


def _snapshot(snapshot: Snapshot) -> Asked:
    return Asked(run_id=snapshot.run_id, job=snapshot.job, snapshot=snapshot)


def _recorded(archive: str, job: str) -> Asked:
    """Give the archive of a run of which the catalog knows no snapshot."""
    try:
        return Asked(find_volumes(os.fsencode(archive)), job=job)
    except NotFoundError as error:
        message = f"{archive}: the archive is no longer there; name another one"
        raise NotFoundError(message) from error
