"""Which archives are to be transferred, where their files lie, and what the catalog knows of them.

An archive is named by its path or address, a backup by its run's id or as `latest`, which means all
archives that it needs; a job means all that it has. Of an archive that lies in several places the
first counts where all of its files are, or the one that was named.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pybak.catalog.presence import has_catalog
from pybak.display import printable
from pybak.errors import ArchiveError, NotFoundError, PlanError, PyBakError, StorageError
from pybak.paths import user_path
from pybak.portable import from_portable
from pybak.restore.ask import ask
from pybak.storage.folders import Folders
from pybak.storage.opening import is_remote, open_storage, split
from pybak.transfer.copying import SourceFile
from pybak.transfer.streaming import FileAt
from pybak.volumes.find import VolumeSet

if TYPE_CHECKING:
    from pybak.catalog.facts import ArchiveFacts, StoredVolume
    from pybak.catalog.history import History

UNREADABLE = (ArchiveError, NotFoundError, StorageError)
"""What keeps one archive from being transferred, and says nothing about the others."""


class Source(NamedTuple):
    """An archive to transfer: its name in the place that it is taken from, and its files there.

    `facts` is what the catalog knows of it, nothing of an archive that it does not know. Where the
    archive can't be taken, there are no files, and `trouble` says why.
    """

    name: str
    files: tuple[SourceFile, ...] = ()
    facts: ArchiveFacts | None = None
    trouble: PyBakError | None = None

    @property
    def size(self) -> int:
        """Its bytes in all."""
        return sum(file.at.known.size for file in self.files)


def find_sources(names: Sequence[str], *, job: str | None, catalog_url: str) -> list[Source]:
    """Give the archives that are meant, each once; without `names` all of a job.

    What can't be found or read is a source with `trouble`, unless it is the only one: then that is
    raised. Raises PlanError without anything named, and as `pybak.restore.ask.ask`.
    """
    if not names and job is None:
        raise PlanError("no ARCHIVE; name an archive, a run id or latest, or a job with --job")
    found: dict[tuple[str, int], Source] = {}
    folders = Folders()
    for source in _all(names, job, catalog_url, folders):
        key = (source.name, 0) if source.facts is None else ("", source.facts.id)
        found.setdefault(key, source)
    sources = list(found.values())
    if len(sources) == 1 and sources[0].trouble is not None:
        raise sources[0].trouble
    return sources


def lasting_names(
    names: Sequence[str], sources: Sequence[Source], *, job: str | None, catalog_url: str
) -> list[str]:
    """Give what `find_sources` finds the same by later on: `latest` may be another one then."""
    from pybak.verify.targets import lasting_name

    known = {source.name for source in sources}
    return [
        place if place in known else lasting_name(name, job=job, catalog_url=catalog_url)
        for name, place in ((name, place_name(name)) for name in names)
    ]


def place_name(text: str) -> str:
    """Give what the catalog calls an archive that somebody names like this."""
    text = from_portable(text)
    return text.rstrip("/") if is_remote(text) else str(user_path(text))


def _all(
    names: Sequence[str], job: str | None, catalog_url: str, folders: Folders
) -> Iterator[Source]:
    with _history(catalog_url) as history:
        if not names:
            yield from (_of_facts(one, folders) for one in _of_job(history, job or ""))
        for name in names:
            yield from _named(name, job, catalog_url, history, folders)


@contextmanager
def _history(catalog_url: str) -> Iterator[History | None]:
    """Open the catalog, if there is one."""
    if not has_catalog(catalog_url):
        yield None
        return
    from pybak.catalog.engine import Database
    from pybak.catalog.history import History

    database = Database(catalog_url)
    try:
        yield History(database)
    finally:
        database.close()


def _of_job(history: History | None, job: str) -> list[ArchiveFacts]:
    archives = history.archives_of_job(job) if history is not None else []
    there = [one for one in archives if not one.is_leaving]
    if not there:
        jobs = history.jobs() if history is not None else []
        known = f"; known are {', '.join(map(printable, jobs))}" if jobs else ""
        raise NotFoundError(f"{printable(job)}: no backup of this job{known}")
    return there


def _named(
    name: str, job: str | None, catalog_url: str, history: History | None, folders: Folders
) -> Iterator[Source]:
    place = place_name(name)
    facts = _facts_at(history, [place])
    if facts is not None:
        yield _of_facts(facts, folders, place)
        return
    try:
        asked = ask(name, job=job, at=None, catalog_url=catalog_url)
        if asked.snapshot is None:
            assert asked.archive is not None
            yield _of_files(asked.archive, history, folders)
            return
    except UNREADABLE as error:
        yield Source(place, trouble=error)
        return
    assert history is not None
    for one in history.archives(asked.snapshot):
        yield _of_facts(one, folders)


def _facts_at(history: History | None, names: Sequence[str]) -> ArchiveFacts | None:
    """Give the newest archive of the catalog that has a place with one of these names."""
    if history is None:
        return None
    from sqlmodel import col, select

    from pybak.catalog.models import PRESENT, Archive, ArchiveCopy

    first: Any = select(Archive.id).where(col(Archive.name).in_(names), Archive.state == PRESENT)
    copies: Any = (
        select(Archive.id)
        .join(ArchiveCopy, col(ArchiveCopy.archive_id) == col(Archive.id))
        .where(col(ArchiveCopy.name).in_(names), Archive.state == PRESENT)
    )
    with history.database.session() as session:
        ids = [*session.exec(first), *session.exec(copies)]
    return history.archives_by_id([max(ids)])[0] if ids else None


def _of_facts(facts: ArchiveFacts, folders: Folders, wanted: str | None = None) -> Source:
    """Give an archive of the catalog, from the place called `wanted` if that has it."""
    from pybak.catalog.copies import places

    choices = places(facts, with_leaving=False)
    trouble: PyBakError | None = None
    for place in sorted(choices, key=lambda place: place.name != wanted):
        if not place.volumes:
            continue
        try:
            files = tuple(_file(volume, folders) for volume in place.volumes)
        except UNREADABLE as error:
            trouble = trouble or error
        else:
            return Source(place.name, files, facts)
    lost = NotFoundError(f"{printable(facts.name)}: the catalog does not know its files")
    return Source(facts.name, facts=facts, trouble=trouble or lost)


def _file(volume: StoredVolume, folders: Folders) -> SourceFile:
    path = from_portable(volume.uri)
    file = _at(path, folders)
    if file is None:
        missing = f"{printable(path)}: the archive is no longer there; put it back"
        raise NotFoundError(missing)
    if file.known.size != volume.size:
        raise ArchiveError(
            f"{printable(path)}: has {file.known.size} bytes, {volume.size} were written; "
            "run flows/verify.py to see what is damaged"
        )
    return SourceFile(file, volume)


def _at(path: str, folders: Folders) -> FileAt | None:
    known = folders.stat(os.fsencode(path))
    return FileAt(open_storage(split(path)[0]), known) if known is not None else None


def _of_files(archive: VolumeSet, history: History | None, folders: Folders) -> Source:
    """Give an archive that was found by its files; the catalog may know it by another name."""
    from pybak.catalog.keeping import names_in_catalog

    facts = _facts_at(history, sorted(names_in_catalog(archive)))
    if facts is not None:
        name = os.fsdecode(archive.base)
        return _of_facts(facts, folders, name if is_remote(name) else str(user_path(name)))
    files = []
    for path in archive.paths:
        address = os.fsdecode(path if is_remote(path) else os.path.abspath(path))
        file = _at(address, folders)
        if file is None:
            raise NotFoundError(f"{printable(address)}: is gone; check the path")
        files.append(SourceFile(file))
    base = os.fsdecode(archive.base if is_remote(archive.base) else os.path.abspath(archive.base))
    return Source(base, tuple(files))
