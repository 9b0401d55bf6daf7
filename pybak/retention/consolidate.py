"""A full archive made from those of a chain, so that the old ones can go (`--consolidate`).

It is made for the oldest snapshot that is kept and needs archives of runs that are not kept. Later
ones then need it in place of all before it. What is packed is copied as it is as far as it can be
(`pybak.retention.merge_zip`, `pybak.retention.merge_tar`); the archive is wrapped and cut into
volumes as the one was that it takes the place of.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sqlmodel import col, select

from pybak import __version__
from pybak.backup.assemble_tar import TarBook
from pybak.backup.assemble_zip import ZipBook
from pybak.backup.check_password import leave_check
from pybak.backup.output import ArchiveFile, ArchiveLayout
from pybak.catalog.engine import Database
from pybak.catalog.facts import Snapshot
from pybak.catalog.models import Run
from pybak.catalog.replacing import enter_unfinished, replace_archive
from pybak.display import printable
from pybak.errors import StorageError
from pybak.formats import manifest
from pybak.formats.manifest_reader import Stream
from pybak.formats.streams import TAR_FORMATS, codec
from pybak.formats.wrapper import wrapper_overhead
from pybak.options import BackupOptions
from pybak.problems import Problem
from pybak.resources import usable_cpus
from pybak.restore.authentic import wrapped_volumes
from pybak.retention.chain import Chain
from pybak.retention.door import Door, LocalDoor, StorageDoor
from pybak.retention.files import Files
from pybak.retention.further import copy_further
from pybak.retention.merge_tar import TarMerger
from pybak.retention.merge_zip import ZipMerger
from pybak.retention.reading import Stop, has_secret_members, manifest_of, naming, opened
from pybak.retention.taking import Rows, Taken
from pybak.staging import WorkFolder, reason, remove_leftovers
from pybak.storage.opening import is_remote
from pybak.volumes.model import Volume
from pybak.volumes.write import (
    WRAPPED_SUFFIX,
    FinishedVolume,
    payload,
    plan_volumes,
    read_finished,
    suffixes,
    write_volumes,
)

_LONGEST_NUMBER = b".000000000"


class Consolidated(NamedTuple):
    """What was made: the archive's name and the bytes of its files."""

    name: str
    size: int


class _Shape(NamedTuple):
    """How an archive is put into files: wrapped, with encrypted members, cut every `split` bytes.

    `split` counts what is inside of wrappers.
    """

    wrapped: bool
    secret: bool
    split: int | None


class _Last(NamedTuple):
    """What the manifest of the run's own archive says besides its members."""

    stream: Stream
    gone: list[str]
    errors: list[tuple[str, str, str]]


def consolidate(
    database: Database,
    chain: Chain,
    files: Files,
    *,
    password: bytes | None,
    run_id: str,
    stop_if_asked: Stop,
) -> Consolidated:
    """Make the full archive, beside the snapshot's own, and put it into that one's place.

    It is copied to the chain's further places before that. `chain` must have no obstacle
    (`find_obstacle`, `find_unready`). The old archive is left to the prune; the caller holds the
    locks. Raises ArchiveError for damage where it shows, StorageError, CatalogError, and what
    `stop_if_asked` raises; then all is as it was.
    """
    folder = min(files.folders(chain.own))
    kinds = files.kinds_of_sums(chain.own)
    door: Door = StorageDoor(folder, run_id) if is_remote(folder) else LocalDoor(folder)
    parent = door.parent
    try:
        remove_leftovers(parent)
        work = WorkFolder.create(parent, run_id)
        try:
            return _Consolidation(
                database, chain, password, work.path, door, run_id, stop_if_asked
            ).run(kinds)
        finally:
            work.remove()
            door.close()
    except OSError as error:
        raise StorageError(
            f"{printable(str(parent))}: {reason(error)}; a full archive needs room there"
        ) from error


class _Consolidation:
    """One consolidation at work in the folder `work`."""

    def __init__(
        self,
        database: Database,
        chain: Chain,
        password: bytes | None,
        work: Path,
        door: Door,
        run_id: str,
        stop_if_asked: Stop,
    ) -> None:
        self._database = database
        self._chain = chain
        self._password = password
        self._work = work
        self._door = door
        self._run_id = run_id
        self._stop_if_asked = stop_if_asked
        # Whole seconds, as the run itself put them into its wrappers.
        self._mtime_ns = int(chain.snapshot.started_at.timestamp()) * 1_000_000_000

    def run(self, kinds: Sequence[str]) -> Consolidated:
        """Make the archive, and checksum files of these kinds, and put it into the catalog."""
        own, snapshot = self._chain.own, self._chain.snapshot
        shape, last = self._look_at_own()
        taken = [suffixes(0, shape.split, wrapped=shape.wrapped)[0], *(f".{one}" for one in kinds)]
        given = self._door.choose(
            job=_job_in_names(snapshot.job), now=snapshot.started_at.astimezone(),
            suffix=own.format, taken=taken, is_split=shape.split is not None,
        )  # fmt: skip
        shape = shape._replace(split=self._payload(shape, given))
        output: ArchiveFile | ArchiveLayout
        if shape.wrapped or shape.split is not None:
            output = ArchiveLayout(self._work, self._stop_if_asked)
        else:
            output = ArchiveFile(self._work / "archive", self._stop_if_asked)
        try:
            made = self._merge(shape, last, output)
            finished = self._finished(output, shape, given, kinds)
        finally:
            output.close()
        end = WRAPPED_SUFFIX if shape.wrapped and shape.split is None else ""
        number = enter_unfinished(
            self._database, snapshot, name=f"{self._door.path(given)}{end}", format=own.format,
            encrypted=own.encrypted, members=made.members,
            volumes=[
                Volume(uri=self._door.uri(given + one.suffix), size=one.size)
                for one in finished
            ],
        )  # fmt: skip
        stored = self._door.publish(finished, kinds, end=end, stop_if_asked=self._stop_if_asked)
        copy_further(
            self._database, number, stored, self._chain.further,
            job=_job_in_names(snapshot.job), run_id=self._run_id, work=self._work,
            stop_if_asked=self._stop_if_asked,
        )  # fmt: skip
        replace_archive(
            self._database, snapshot, old=own.id, new=number, name=stored.name,
            volumes=stored.volumes, rewritten=made.rewritten,
        )  # fmt: skip
        return Consolidated(stored.name, sum(one.size for one in stored.volumes))

    def _look_at_own(self) -> tuple[_Shape, _Last]:
        with opened(self._chain.own, self._password, self._stop_if_asked) as archive:
            stream = manifest_of(archive)
            gone: list[str] = []
            errors: list[tuple[str, str, str]] = []
            with naming(archive.label):
                for line in stream.lines():
                    gone += line.gone or ()
                    errors += line.errors or ()
            wrapped = bool(wrapped_volumes(archive.source))
            shape = _Shape(wrapped, has_secret_members(archive), stream.head.split)
            return shape, _Last(stream, gone, errors)

    def _payload(self, shape: _Shape, name: str) -> int | None:
        """Give how many bytes go into a volume, so that its file is no larger than the old ones.

        Wrappers of other names have other sizes.
        """
        if shape.split is None or not shape.wrapped:
            return shape.split
        old = os.fsencode(os.path.basename(self._chain.own.name)) + _LONGEST_NUMBER
        size = shape.split + wrapper_overhead(old, shape.split, mtime_ns=self._mtime_ns)
        return payload(size, name, wrapped=True, mtime_ns=self._mtime_ns)

    def _merge(self, shape: _Shape, last: _Last, output: ArchiveFile | ArchiveLayout) -> Taken:
        """Lay all members down, and what ends the archive."""
        own, snapshot, old = self._chain.own, self._chain.snapshot, last.stream
        header = manifest.Header(
            run_id=snapshot.run_id, job=snapshot.job, mode="full", format=own.format,
            created=old.head.created, sources=old.head.sources, program=f"pybak {__version__}",
            split=shape.split, seq=snapshot.seq, tags=list(snapshot.tags),
            # Not its own: archives of the chain that are kept go back to this one.
            full_run=old.head.full_run,
        )  # fmt: skip
        book: TarBook | ZipBook
        merger: TarMerger | ZipMerger
        if own.format in TAR_FORMATS:
            level = _level_of(self._database, snapshot)
            book = TarBook(own.format, level)
            merger = TarMerger(
                book, codec(own.format, level), output, owners=(old.users, old.groups),
                workers=usable_cpus(), stop_if_asked=self._stop_if_asked,
            )  # fmt: skip
        else:
            password = self._password if shape.secret else None
            book = ZipBook(password)
            merger = ZipMerger(book, output, password=password, stop_if_asked=self._stop_if_asked)
        rows = Rows(self._database, snapshot, self._work)
        book.start(output)
        made = Taken(users=dict(old.users), groups=dict(old.groups))
        for one in self._chain.archives:
            self._stop_if_asked()
            with opened(one, self._password, self._stop_if_asked) as archive:
                made.add(merger.take(archive, rows.take(one.id)))
        starts: list[int] = []
        if shape.split is not None and isinstance(output, ArchiveLayout):
            starts = output.volume_starts(shape.split)
        trailer = manifest.Trailer(
            members=made.members, users=made.users, groups=made.groups, volume_starts=starts,
            status=old.status, counts=old.counts,
        )  # fmt: skip
        closing = manifest.pack_closing(
            (name.encode("utf-8", "surrogateescape") for name in last.gone),
            (Problem(*error) for error in last.errors),
        )
        book.end(manifest.Ends(header, trailer, closing), output)
        return made

    def _finished(
        self,
        output: ArchiveFile | ArchiveLayout,
        shape: _Shape,
        name: str,
        kinds: Sequence[str],
    ) -> list[FinishedVolume]:
        """Give the files of the archive, on the disk, under temporary names."""
        if isinstance(output, ArchiveFile):
            output.finish()
            path = os.fsencode(output.path)
            return [FinishedVolume(path, "", output.size, {}, tuple(output.parts))]
        if shape.wrapped and self._password is not None:
            leave_check(self._work, self._password)
        made = plan_volumes(
            self._work, output.extents, size=output.size, payload_bytes=shape.split,
            wrapped=shape.wrapped, name=name, mtime_ns=self._mtime_ns,
        )  # fmt: skip
        write_volumes(
            self._work, range(len(made)), target=self._work, password=self._password, kinds=kinds,
            threads=usable_cpus(), advance=lambda _volumes, _bytes: self._stop_if_asked(),
        )  # fmt: skip
        return read_finished(self._work, len(made))


def _job_in_names(job: str) -> str | None:
    """Give what archives are named by: nothing for a job that is called by its sources' paths."""
    return None if "/" in job else job


def _level_of(database: Database, snapshot: Snapshot) -> int:
    """Give the level that the run compressed at, the default where that is not known any more."""
    usual: int = BackupOptions.model_fields["level"].default
    with database.session() as session:
        options = session.exec(
            select(Run.options).where(col(Run.run_id) == snapshot.run_id)
        ).first()
    level = (options or {}).get("level", usual)
    return level if isinstance(level, int) and 1 <= level <= 9 else usual
