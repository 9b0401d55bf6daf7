"""One rebuild of the catalog, from the look into the folders to the report."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import count, groupby
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from uuid import uuid4

import msgspec

from pybak.catalog.address import file_of, parse
from pybak.catalog.engine import Database
from pybak.errors import (
    ArchiveError,
    NotFoundError,
    PlanError,
    StorageError,
    WrongPasswordError,
)
from pybak.formats.opening import open_archive
from pybak.formats.source import Identity
from pybak.formats.suffixes import format_of_name
from pybak.options.rebuild import RebuildOptions
from pybak.paths import user_path
from pybak.problems import DAMAGED, STORAGE, WRONG_PASSWORD, Problem
from pybak.read_run import open_work_folder
from pybak.rebuild.digests import Advance, describe_volumes
from pybak.rebuild.find import find_places
from pybak.rebuild.inboxes import carry_over
from pybak.rebuild.manifests import Found, NotOursError, take_manifest
from pybak.rebuild.meanwhile import JobLocks, Watch, told_gone, unsettled
from pybak.rebuild.old import dropped_jobs
from pybak.rebuild.order import Step, ordered
from pybak.rebuild.swap import discard, new_name, put_in_place, remove_leftovers
from pybak.rebuild.write import clear, count_runs, write_step
from pybak.report.rebuild import DroppedJob, RebuildReport, RebuiltRun
from pybak.report.status import PARTIAL, SUCCESS
from pybak.resources import default_workers, usable_cpus
from pybak.restore.authentic import authenticate, wrapped_volumes
from pybak.stoppable import Stoppable
from pybak.storage.opening import is_remote
from pybak.units import format_count
from pybak.volumes.find import VolumeSet
from pybak.volumes.model import Volume

if TYPE_CHECKING:
    from sqlalchemy import Connection

NOT_OURS: Final = "not_ours"
COPY: Final = "copy"
_FREE_ROUNDS: Final = 3
_LOCKED_ROUNDS: Final = 3
_Key = tuple[tuple[bytes, Identity | None], ...]


class RebuildRun(Stoppable):
    """A rebuild and its work folder; a context manager that removes the latter.

    The steps are `read`, `describe`, `write`, `report`, in this order. `settled` does the first two
    until nothing comes or goes any more; then they read only what is new. Passwords are handed to
    `read` and kept nowhere.
    """

    stopped = "stopped on request; the catalog is as it was"

    def __init__(
        self,
        destinations: Sequence[str],
        options: RebuildOptions,
        *,
        catalog_url: str,
        now: datetime | None = None,
    ) -> None:
        """Take what is asked; nothing is looked at yet.

        Raises PlanError for what can be no path, StorageError without a place for temporary files.
        """
        if not destinations:
            raise PlanError("no DESTINATION; name the folder that holds the archives")
        self.options = options
        self.run_id = str(uuid4())
        self.started_at = now or datetime.now(UTC)
        self.workers = options.workers or default_workers(usable_cpus())
        self._destinations = [
            os.fsencode(name if is_remote(name) else user_path(name)) for name in destinations
        ]
        self._url = catalog_url
        self._skipped: list[Problem] = []
        self._errors: list[Problem] = []
        self._others: dict[str, list[Found]] = {}
        self._notes: list[str] = []
        self._watch = Watch(self._destinations, catalog_url)
        self._locks = JobLocks(catalog_url, self.run_id)
        self._taken: dict[_Key, Found | ArchiveError] = {}
        self._described: dict[tuple[bytes, Identity | None], Volume] = {}
        self._names: dict[str, str] = {}
        self._gone: list[str] = []
        self._numbers = count()
        self._kept: str | None = None
        self.dropped: tuple[DroppedJob, ...] = ()
        self._where = ""
        self._folder = open_work_folder(self.run_id)
        self.staging = self._folder.path
        self._folder.subfolder("progress")

    def read(self, password: bytes | None = None) -> list[Step]:
        """Find the archives and read their manifests; give them in the order of their runs.

        `dropped` then names the jobs of the old catalog of which there is no archive.
        Raises NotFoundError if there is no archive of ours, WrongPasswordError if one needs a
        password and none was given, or none can be read with the one that was.
        """
        self._check_catalog()
        self._watch.look()
        places = find_places(self._destinations)
        self._errors, self._skipped, self._others = [*places.problems], [], {}
        found: dict[str, Found] = {}
        locked: list[WrongPasswordError] = []
        for volumes in places.found:
            self.check_cancelled()
            name = os.fsdecode(volumes.base)
            try:
                one = self._take(volumes, password)
            except NotOursError as error:
                if format_of_name(name) is None:
                    self._watch.strange.update(volumes.paths)
                self._skipped.append(Problem(name, NOT_OURS, _without_path(error, name)))
            except WrongPasswordError as error:
                locked.append(error)
                self._errors.append(Problem(name, WRONG_PASSWORD, _without_path(error, name)))
            except (ArchiveError, NotFoundError, StorageError) as error:
                code = DAMAGED if isinstance(error, ArchiveError) else STORAGE
                self._errors.append(Problem(name, code, _without_path(error, name)))
            else:
                self._add(one, found)
        if locked and (password is None or not found):
            raise _all_locked(locked, has_password=password is not None)
        if not found:
            raise self._nothing()
        there = {error.path for error in self._errors}.union(one.name for one in found.values())
        self._gone = [
            name for run, name in self._names.items() if run not in found and name not in there
        ]
        self._names |= {run: one.name for run, one in found.items()}
        jobs = sorted(map(self._with_replaced, found.values()), key=lambda one: one.head.job)
        self.dropped = dropped_jobs(self._url, {one.head.job for one in jobs})
        return [
            step
            for _, of_job in groupby(jobs, key=lambda one: one.head.job)
            for step in ordered(list(of_job))
        ]

    def _take(self, volumes: VolumeSet, password: bytes | None) -> Found:
        """Read a manifest, once as long as the files stay the same."""
        key = tuple((path, self._watch.seen(path)) for path in volumes.paths)
        known = self._taken.get(key)
        if known is None:
            copy = self.staging / f"{next(self._numbers):06d}.manifest"
            try:
                known = take_manifest(volumes, password, copy)
                if not self.options.no_digests:
                    self._authenticate(known, password)
            except WrongPasswordError:
                raise
            except ArchiveError as error:
                known = error
            if all(identity is not None for _, identity in key):
                self._taken[key] = known
        if isinstance(known, ArchiveError):
            raise known
        return known

    def _check_catalog(self) -> None:
        """Refuse before anything is read what could not be written in the end."""
        parsed = parse(self._url)
        if file_of(parsed) is not None or self.options.replace or self.options.dry_run:
            return
        database = Database(self._url)
        try:
            with database.reading() as connection:
                runs = count_runs(connection)
        finally:
            database.close()
        if runs:
            raise PlanError(
                f"{database.where}: holds {format_count(runs, 'run')}; give --replace to have them "
                "deleted, or name another database"
            )

    def _authenticate(self, one: Found, password: bytes | None) -> None:
        """Check what is wrapped by its codes, before what it says is believed."""
        if not one.encrypted:
            return
        with open_archive(one.volumes.paths, password=password) as archive:
            sealed = wrapped_volumes(archive.source)
            authenticate(sealed, workers=self.workers, should_stop=self.is_stopping)

    def _add(self, one: Found, found: dict[str, Found]) -> None:
        """Add an archive; of two of one run the full one counts, which needs no other.

        The same archive in another folder is a further place of it.
        """
        run_id = one.head.run_id
        first = found.setdefault(run_id, one)
        if first is one:
            return
        if _is_copy(one, first):
            copies = (*first.copies, one)
            found[run_id] = msgspec.structs.replace(first, copies=copies)
            return
        kept, other = (first, one) if first.is_full or not one.is_full else (one, first)
        found[run_id] = kept
        self._others.setdefault(run_id, []).append(other)

    def _with_replaced(self, kept: Found) -> Found:
        """Give an archive with those of its run whose place it took; tell of all others.

        A prune that was killed leaves such a one beside it (`pybak.catalog.replacing`).
        """
        others = self._others.get(kept.head.run_id, [])
        folders = {kept.folder, *(copy.folder for copy in kept.copies)}
        replaced: list[Found] = []
        for one in sorted(others, key=lambda other: other.folder not in folders):
            if not kept.is_full or one.is_full:
                continue
            first = next((at for at, other in enumerate(replaced) if _is_copy(one, other)), None)
            if first is not None:
                copies = (*replaced[first].copies, one)
                replaced[first] = msgspec.structs.replace(replaced[first], copies=copies)
            elif one.folder in folders:
                replaced.append(one)
        going = {at.name for one in replaced for at in (one, *one.copies)}
        for other in others:
            for at in (other, *other.copies):
                what = "the next prune deletes it" if at.name in going else "that one is recorded"
                message = f"is of the run that {kept.name} is of, too; {what}"
                self._skipped.append(Problem(at.name, COPY, message))
        return msgspec.structs.replace(kept, replaced=tuple(replaced))

    def _nothing(self) -> NotFoundError:
        where = ", ".join(os.fsdecode(path) for path in self._destinations)
        if self._errors:
            first = self._errors[0]
            what = f"no archive could be read: {first.path}: {first.message}"
            return NotFoundError(f"{where}: {what}")
        return NotFoundError(
            f"{where}: holds no archive that PyBak made; folders below are not searched; check the "
            "path"
        )

    @contextmanager
    def settled(
        self,
        read: Callable[[], list[Step]],
        describe: Callable[[list[Step]], dict[bytes, Volume]],
        on_wait: Callable[[str], object] = lambda _told: None,
    ) -> Iterator[tuple[list[Step], dict[bytes, Volume]]]:
        """Have all read and described by the functions, again as long as archives come or go.

        Most of it is done beside other runs, the last under the locks of all jobs, which are held
        as long as the block lasts. Raises what the functions do, and LockedError as `write`.
        """
        steps = read()
        volumes = describe(steps)
        with ExitStack() as stack:
            for number in range(_FREE_ROUNDS + _LOCKED_ROUNDS):
                changed = self._changed(steps, volumes)
                if not changed or number >= _FREE_ROUNDS:
                    stack.enter_context(self._locked(steps, on_wait))
                    changed = self._changed(steps, volumes)
                if not changed:
                    break
                steps = read()
                volumes = describe(steps)
            yield steps, volumes

    def files(self, steps: Sequence[Step]) -> int:
        """Count the files that `describe` reads."""
        return sum(1 for _ in self._to_describe(steps))

    def size(self, steps: Sequence[Step]) -> int:
        """Give how many bytes `describe` reads."""
        if self.options.no_digests:
            return 0
        files = (self._watch.seen(path) for path in self._to_describe(steps))
        return sum(one.size for one in files if one is not None)

    def describe(
        self, steps: Sequence[Step], advance: Advance = lambda _files, _size, _path: None
    ) -> dict[bytes, Volume]:
        """Give place, size and digest of every file of the archives, without those gone by now."""
        described = describe_volumes(
            self._to_describe(steps),
            workers=self.workers,
            hashes=not self.options.no_digests,
            should_stop=self.is_stopping,
            advance=advance,
            is_there=self._watch.is_there,
        )
        for path, volume in described.items():
            self._described[path, self._watch.seen(path)] = volume
        keys = [(path, self._watch.seen(path)) for path in _paths(steps)]
        return {key[0]: self._described[key] for key in keys if key in self._described}

    def _to_describe(self, steps: Sequence[Step]) -> Iterator[bytes]:
        for path in _paths(steps):
            if (path, self._watch.seen(path)) not in self._described:
                yield path

    def _changed(self, steps: Sequence[Step], volumes: Mapping[bytes, Volume]) -> set[bytes]:
        """Give the files that are not as they were read."""
        return self._watch.changed().union(path for path in _paths(steps) if path not in volumes)

    def _check_same(self, steps: Sequence[Step], volumes: Mapping[bytes, Volume]) -> None:
        if changed := self._changed(steps, volumes):
            raise unsettled(changed)

    def _locked(
        self, steps: Sequence[Step], on_wait: Callable[[str], object]
    ) -> AbstractContextManager[None]:
        return self._locks.held({step.archive.head.job for step in steps}, on_wait)

    def write(
        self,
        steps: Sequence[Step],
        volumes: dict[bytes, Volume],
        on_wait: Callable[[str], object] = lambda _told: None,
    ) -> None:
        """Write all of it into a new catalog, and put that in the old one's place at once.

        Raises LockedError while a run of one of the jobs, found or known to the old catalog, is at
        work, and if archives came or went since they were read; CatalogError, StorageError, and
        Interrupted. The catalog then is as it was.
        """
        with self._locked(steps, on_wait):
            self.check_cancelled()
            self._check_same(steps, volumes)
            path = file_of(parse(self._url))
            if path is None:
                self._write_database(steps, volumes)
            else:
                self._write_file(os.path.realpath(path), steps, volumes)
        if self._gone:
            self._notes.append(told_gone(self._gone))

    def _write_file(self, path: str, steps: Sequence[Step], volumes: dict[bytes, Volume]) -> None:
        self._where = path
        remove_leftovers(path)
        new = new_name(path, self.run_id)
        url = parse(self._url).set(database=new).render_as_string(hide_password=False)
        try:
            with self._opened(url) as database, database.transaction() as connection:
                self._write_steps(connection, steps, volumes)
                self._carry_over(path, connection)
            self._check_same(steps, volumes)
            local = self.started_at.astimezone()
            self._kept = put_in_place(new, path, now=local)
        finally:
            discard(new)

    def _carry_over(self, path: str, connection: Connection) -> None:
        why = carry_over(path, connection, self.check_cancelled)
        if why is not None:
            self._notes.append(
                f"the old catalog can't be read ({why}): what inboxes did by it is forgotten, and "
                "files that they keep are stored once more"
            )

    def _write_database(self, steps: Sequence[Step], volumes: dict[bytes, Volume]) -> None:
        with self._opened(self._url) as database, database.transaction() as connection:
            self._where = database.where
            if self.options.replace:
                clear(connection)
            elif runs := count_runs(connection):
                raise PlanError(f"{database.where}: holds {format_count(runs, 'run')} by now")
            self._write_steps(connection, steps, volumes)
            self._check_same(steps, volumes)

    @contextmanager
    def _opened(self, url: str) -> Iterator[Database]:
        database = Database(url)
        try:
            yield database
        finally:
            database.close()

    def _write_steps(
        self, connection: Connection, steps: Sequence[Step], volumes: dict[bytes, Volume]
    ) -> None:
        for step in steps:
            self.check_cancelled()
            lost = write_step(connection, step, volumes, self.check_cancelled)
            if lost is not None:
                self._errors.append(Problem(step.archive.name, STORAGE, lost))

    def report(self, steps: Sequence[Step], volumes: dict[bytes, Volume]) -> RebuildReport:
        """Sum up."""
        lacking = {error.path for error in self._errors}
        runs = tuple(
            RebuiltRun(
                archive=step.archive.name,
                run_id=step.archive.head.run_id,
                job=step.archive.head.job,
                seq=step.seq,
                mode=step.archive.head.mode,
                status=PARTIAL if step.archive.name in lacking else step.archive.status,
                started_at=step.archive.created,
                members=step.archive.members,
                size=step.archive.size,
                copies=tuple(one.name for one in step.archive.copies),
            )
            for step in steps
        )
        hashed = not self.options.no_digests and not self.options.dry_run
        return RebuildReport(
            status=PARTIAL if self._errors else SUCCESS,
            catalog=self._where or None,
            kept=self._kept,
            runs=runs,
            skipped=tuple(self._skipped),
            errors=tuple(self._errors),
            dropped=self.dropped,
            notes=tuple(self._notes),
            bytes_read=sum(volume.size for volume in volumes.values()) if hashed else 0,
            duration_seconds=(datetime.now(UTC) - self.started_at).total_seconds(),
            dry_run=self.options.dry_run,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.remove()


def _paths(steps: Sequence[Step]) -> Iterator[bytes]:
    return (path for step in steps for path in step.archive.paths)


def _is_copy(one: Found, other: Found) -> bool:
    """Whether two archives of one run are the same in two folders.

    A manifest has the digests of all members, and of the volumes' first bytes.
    """
    folders = {other.folder, *(copy.folder for copy in other.copies)}
    return one.folder not in folders and filecmp.cmp(one.manifest, other.manifest, shallow=False)


def _without_path(error: Exception, path: str) -> str:
    """Give what an error says without the path that it begins with."""
    text = str(error)
    for start in (path, str(Path(path).name)):
        if text.startswith(start + ": "):
            return text[len(start) + 2 :]
    return text


def _all_locked(errors: Sequence[WrongPasswordError], *, has_password: bool) -> WrongPasswordError:
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if has_password:
        return WrongPasswordError(f"{errors[0]}{more}")
    return WrongPasswordError(f"{errors[0]}{more}; nothing was changed")
