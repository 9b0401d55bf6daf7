"""One transfer of archives, from what was asked for to the report: archive by archive.

A copy adds its destination to the places of an archive that the catalog knows. A move makes it one
in place of the old one, and only then deletes what lies there. At any moment the archive is whole
in a place that the catalog names, and a later run goes on from wherever one was killed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from pybak import report
from pybak.catalog.locks import archives_lock, job_lock, waiting_seconds
from pybak.display import printable
from pybak.errors import Interrupted, LockedError, PyBakError, StorageError
from pybak.options.transfer import TransferOptions
from pybak.paths import user_path
from pybak.portable import from_portable
from pybak.read_run import open_work_folder
from pybak.report.transfer import COPIED, MOVED, THERE, TransferredArchive, TransferReport
from pybak.staging import reason
from pybak.stoppable import Stoppable
from pybak.storage.bandwidth import Bandwidth
from pybak.storage.opening import is_remote, join, open_storage, split
from pybak.storage.patience import patiently
from pybak.storage.probe import Places
from pybak.storage.unfinished import clean_up, notes_folder
from pybak.transfer.copying import Advance, ArchiveCopy, Copied, check_room, find_sums
from pybak.transfer.find import Source, find_sources
from pybak.transfer.streaming import FileAt, Stream
from pybak.units import parse_size

if TYPE_CHECKING:
    from pybak.catalog.engine import Database
    from pybak.catalog.facts import StoredVolume


class TransferRun(Stoppable):
    """A transfer and its work folder; a context manager that removes the latter."""

    stopped = "stopped on request; every archive is whole where the catalog has it"

    def __init__(
        self,
        names: Sequence[str],
        to: str,
        options: TransferOptions,
        *,
        job: str | None = None,
        catalog_url: str,
        now: datetime | None = None,
    ) -> None:
        """Take what is asked; nothing is looked at yet.

        `names` are archives, ids of runs or `latest`; without any all archives of `job` are meant.
        Raises PlanError for what can be no destination, StorageError without a place for temporary
        files.
        """
        self.options = options
        self.run_id = str(uuid4())
        self.started_at = now or datetime.now(UTC)
        self.to = to.rstrip("/") if is_remote(to) else str(user_path(to))
        self.target = open_storage(self.to)
        self._names, self._job, self._url = names, job, catalog_url
        self._places = Places()
        self._wait = waiting_seconds(wait=options.wait, limit=options.wait_limit)
        self._folder = open_work_folder(self.run_id)
        self.staging = self._folder.path
        self._folder.subfolder("progress")

    def find(self) -> list[Source]:
        """Find the archives. Raises as `pybak.transfer.find.find_sources`."""
        return find_sources(self._names, job=self._job, catalog_url=self._url)

    @contextmanager
    def locked(
        self, sources: Sequence[Source], on_wait: Callable[[str], object] = lambda _told: None
    ) -> Iterator[None]:
        """Keep these archives from being deleted; for a move, from being read or built on as well.

        Raises LockedError, Interrupted, and for a move StorageError where there are no locks.
        """
        jobs = sorted({one.facts.job for one in sources if one.facts is not None})
        moves = self.options.move
        with ExitStack() as stack:
            for job in jobs:
                taken = []
                if moves:
                    taken.append(
                        job_lock(
                            job, wait=self._wait, catalog_url=self._url, run_id=self.run_id,
                            cancelled=self.is_stopping, on_wait=on_wait,
                        )
                    )  # fmt: skip
                taken.append(
                    archives_lock(
                        job, shared=not moves, wait=self._wait, catalog_url=self._url,
                        run_id=self.run_id, cancelled=self.is_stopping, on_wait=on_wait,
                    )
                )  # fmt: skip
                for lock in map(stack.enter_context, taken):
                    if moves and not lock.is_safe:
                        raise StorageError(lock.problem or "no locks can be held")
            yield

    def prepare(self) -> None:
        """See that the destination can be used, make a local one, remove what killed runs left.

        Raises NotFoundError and StorageError.
        """
        if not is_remote(self.to):
            try:
                os.makedirs(self.to, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"{printable(self.to)}: {reason(error)}; choose a folder you can write"
                ) from error
        self.target.check()
        clean_up(self.target, self._job)

    def files(self, sources: Sequence[Source]) -> int:
        """Count the files of the archives."""
        return sum(len(one.files) for one in sources)

    def size(self, sources: Sequence[Source]) -> int:
        """Give how many bytes are read, at most."""
        return sum(one.size for one in sources) * (2 if self.options.verify else 1)

    def transfer(
        self,
        source: Source,
        number: int = 0,
        advance: Advance = lambda _files, _size, _path: None,
    ) -> TransferredArchive:
        """Copy or move one archive; a failure that is only its own is told, not raised.

        Raises Interrupted.
        """
        self.check_cancelled()
        try:
            if source.trouble is not None:
                raise source.trouble
            return self._transfer(source, number, advance)
        except (Interrupted, LockedError):
            raise
        except PyBakError as error:
            return _failed(source, error)

    def _transfer(self, source: Source, number: int, advance: Advance) -> TransferredArchive:
        if self._is_here(source):
            cleared = self.options.move and self._clear(source)
            return _outcome(source, MOVED if cleared else THERE, to=source.name)
        base = os.path.basename(source.name)
        with Stream(
            self.staging, threads=self.options.upload_parts,
            bandwidth=self._bandwidth(), stop_if_asked=self.check_cancelled,
        ) as stream:  # fmt: skip
            copied = ArchiveCopy(
                source.files, self.target, stream,
                notes=(notes_folder(), f"{self.run_id}-{number}"),
                reads_back=self.options.verify, moves=self.options.move, places=self._places,
                advance=advance,
            ).run(base)  # fmt: skip
        name = join(self.to, base)
        if self.options.move:
            self._move(source, name, copied)
        elif source.facts is not None:
            self._add(source, name, copied)
        status = MOVED if self.options.move else COPIED if copied.files else THERE
        return _outcome(source, status, to=name, bytes_sent=copied.size)

    def _bandwidth(self) -> Bandwidth | None:
        limit = self.options.bandwidth_limit
        return Bandwidth(parse_size(limit)) if limit else None

    def _is_here(self, source: Source) -> bool:
        """Whether an archive lies in the destination as it is."""
        folder = source.files[0].at.storage.address
        if is_remote(folder) or is_remote(self.to):
            return folder == self.to
        return os.path.realpath(folder) == os.path.realpath(self.to)

    def _add(self, source: Source, name: str, copied: Copied) -> None:
        """Write down the further place."""
        from pybak.catalog.copies import StoredCopy, add_copies, archive_at

        assert source.facts is not None
        with self._catalog() as database, database.transaction() as connection:
            archive = archive_at(connection, source.facts.run_id, source.name)
            add_copies(connection, archive, [StoredCopy(name=name, volumes=copied.volumes)])

    def _move(self, source: Source, name: str, copied: Copied) -> None:
        """Have the catalog name the new place, then delete what lies at the old one."""
        files = [file.at for file in source.files]
        names = [file.name for file in files]
        files += find_sums(files[0].storage, names, os.path.basename(source.name))
        if source.facts is None:
            # From behind: what is left after a kill is found again, and found at its destination.
            _delete_all(reversed(files))
            return
        from pybak.catalog.copies import StoredCopy, archive_at, drop_copy, move_place

        with self._catalog() as database:
            with database.transaction() as connection:
                archive = archive_at(connection, source.facts.run_id, source.name)
                new = StoredCopy(name=name, volumes=copied.volumes)
                leaving = move_place(connection, archive, source.name, new)
            _delete_all(files)
            with database.transaction() as connection:
                drop_copy(connection, leaving)
        self._clear(source)

    def _clear(self, source: Source) -> bool:
        """Delete what moves that were killed left of an archive; say whether there was anything.

        The archive is whole at the destination: nothing of a place that counts is touched, nor of
        the destination under another address.
        """
        if source.facts is None or not any(one.is_leaving for one in source.facts.copies):
            return False
        from pybak.catalog.copies import drop_copy, places
        from pybak.catalog.history import History

        with self._catalog() as database:
            for facts in History(database).archives_by_id([source.facts.id]):
                there = places(facts, with_leaving=False)
                kept = {volume.uri for place in there for volume in place.volumes}
                for one in facts.copies:
                    if not one.is_leaving:
                        continue
                    if kept.isdisjoint(
                        volume.uri for volume in one.volumes
                    ) and not self._is_destination(one.volumes):
                        _delete_known(one.volumes, os.path.basename(one.name))
                    with database.transaction() as connection:
                        drop_copy(connection, one.id)
        return True

    def _is_destination(self, volumes: Sequence[StoredVolume]) -> bool:
        """Whether the destination is where these files lie."""
        folders = dict.fromkeys(split(from_portable(volume.uri))[0] for volume in volumes)
        return any(self._places.are_one(open_storage(one), self.target) for one in folders)

    @contextmanager
    def _catalog(self) -> Iterator[Database]:
        from pybak.catalog.engine import Database

        database = Database(self._url)
        try:
            yield database
        finally:
            database.close()

    def rehearse(self, sources: Sequence[Source]) -> TransferReport:
        """Tell what would be done, and change nothing."""
        return self.report([self._rehearse(source) for source in sources])

    def _rehearse(self, source: Source) -> TransferredArchive:
        if source.trouble is not None:
            return _failed(source, source.trouble)
        if self._is_here(source):
            return _outcome(source, THERE, to=source.name)
        try:
            is_there = [self._has(file.at) for file in source.files]
        except PyBakError as error:
            return _failed(source, error)
        status = MOVED if self.options.move else THERE if all(is_there) else COPIED
        return _outcome(source, status, to=join(self.to, os.path.basename(source.name)))

    def _has(self, file: FileAt) -> bool:
        if not is_remote(self.to) and not os.path.isdir(self.to):
            return False
        return check_room(file, self.target) is not None

    def report(self, archives: Sequence[TransferredArchive]) -> TransferReport:
        """Sum up."""
        failed = [one for one in archives if one.code is not None]
        status = report.PARTIAL if failed else report.SUCCESS
        if failed and len(failed) == len(archives):
            status = report.FAILED
        return TransferReport(
            status=status, run_id=self.run_id, to=self.to, moves=self.options.move,
            dry_run=self.options.dry_run, archives=tuple(archives),
            duration_seconds=(datetime.now(UTC) - self.started_at).total_seconds(),
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._folder.remove()


def _outcome(source: Source, status: str, **more: object) -> TransferredArchive:
    facts = source.facts
    return TransferredArchive(
        archive=source.name, status=status, size=source.size,
        run_id=facts.run_id if facts else None, job=facts.job if facts else None,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def _failed(source: Source, error: PyBakError) -> TransferredArchive:
    return _outcome(
        source, report.FAILED, code=report.error_code(error, "transfer"), message=str(error)
    )


def _delete_all(files: Iterator[FileAt] | Sequence[FileAt]) -> None:
    """Delete files as they were looked at. Raises StorageError for one that was replaced."""
    for file in files:
        patiently(partial(file.storage.delete, file.name, version=file.known.version or None))


def _delete_known(volumes: Sequence[StoredVolume], archive: str) -> None:
    """Delete the files that the catalog knows, as far as they are there and have their sizes."""
    paths = [split(from_portable(volume.uri)) for volume in volumes]
    files: list[FileAt] = []
    for (folder, name), volume in zip(paths, volumes, strict=True):
        known = patiently(partial(open_storage(folder).stat, name))
        if known is None:
            continue
        if known.size != volume.size:
            raise StorageError(
                f"{printable(join(folder, name))}: has {known.size} bytes, {volume.size} were "
                "written, so it is not deleted; delete it by hand if it may go"
            )
        files.append(FileAt(open_storage(folder), known))
    if paths:
        files += find_sums(open_storage(paths[0][0]), [name for _, name in paths], archive)
    _delete_all(files)
