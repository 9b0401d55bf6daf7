"""What others do while a rebuild reads: files that come and go, and runs that are kept away."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from pybak.catalog.address import file_of, parse
from pybak.catalog.locks import archives_lock, job_lock
from pybak.display import printable
from pybak.errors import LockedError
from pybak.formats.source import Identity
from pybak.rebuild.find import list_files
from pybak.rebuild.old import known_jobs
from pybak.resources import allow_open_files
from pybak.storage.opening import is_remote

_MOST_NAMED: Final = 5


class Watch:
    """The files of the destinations as they were seen last.

    `strange` are those that may change as they like, for they are no archives.
    """

    def __init__(self, destinations: Sequence[bytes], catalog_url: str) -> None:
        self._destinations = destinations
        self._seen: dict[bytes, Identity] = {}
        self.strange: set[bytes] = set()
        catalog = file_of(parse(catalog_url))
        self._catalog = os.fsencode(os.path.realpath(catalog)) if catalog is not None else None

    def look(self) -> None:
        """See what is there from now on. Raises StorageError."""
        self._seen, self.strange = list_files(self._destinations), set()

    def seen(self, path: bytes) -> Identity | None:
        """Give what a file was when it was seen."""
        return self._seen.get(path)

    def is_there(self, path: bytes) -> bool:
        """Whether a file still is what was seen."""
        found = self._seen.get(path)
        return found is not None and list_files(self._destinations).get(path) == found

    def changed(self) -> set[bytes]:
        """Give the files that came, went or are others by now; none is opened for that."""
        differing = {
            path for path, _ in list_files(self._destinations).items() ^ self._seen.items()
        }
        return {path for path in differing - self.strange if not self._is_of_catalog(path)}

    def _is_of_catalog(self, path: bytes) -> bool:
        """Whether a file is the catalog or one that belongs to it, which may lie there too."""
        if self._catalog is None or is_remote(path):
            return False
        folder, name = os.path.split(path)
        return os.path.join(os.path.realpath(folder), name).startswith(self._catalog)


class JobLocks:
    """The locks of jobs that one rebuild holds; none is taken twice."""

    def __init__(self, catalog_url: str, run_id: str) -> None:
        self._url, self._run_id = catalog_url, run_id
        self._held: set[str] = set()

    @contextmanager
    def held(self, jobs: Iterable[str], on_wait: Callable[[str], object]) -> Iterator[None]:
        """Keep runs away from these jobs and from all that the old catalog knows.

        Whoever deletes archives takes the job's lock too. The second lock is left to files alone:
        on a server each takes a connection, of which there are few. Raises LockedError.
        """
        allow_open_files()
        wanted = set(jobs)
        own: set[str] = set()
        with ExitStack() as stack:
            stack.callback(lambda: self._held.difference_update(own))
            # Until the others are locked a new job may begin.
            while new := sorted(wanted.union(known_jobs(self._url)) - self._held):
                for job in new:
                    self._take(job, stack, on_wait)
                    self._held.add(job)
                    own.add(job)
            yield

    def _take(self, job: str, stack: ExitStack, on_wait: Callable[[str], object]) -> None:
        url, run_id = self._url, self._run_id
        is_file = file_of(parse(url)) is not None
        stack.enter_context(job_lock(job, catalog_url=url, run_id=run_id, on_wait=on_wait))
        stack.enter_context(
            archives_lock(
                job, shared=True, catalog_url=url if is_file else None, run_id=run_id,
                on_wait=on_wait,
            )
        )  # fmt: skip


def unsettled(paths: Iterable[bytes]) -> LockedError:
    """Say what is not as it was read."""
    names = [os.fsdecode(path) for path in sorted(paths)]
    return LockedError(
        f"archives came or went meanwhile: {_named(names)}; run it again, or stop the "
        "schedule for that long; the catalog is as it was"
    )


def told_gone(names: Sequence[str]) -> str:
    """Say which archives were read and are left out."""
    return (
        f"pruned or moved while archives were read, so not in the new catalog: {_named(names)}; if "
        "they lie elsewhere now, run it again and name that folder too"
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(printable, names[:_MOST_NAMED])) + more
