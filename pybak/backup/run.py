"""One backup run from the first look at its sources to its report.

`BackupRun` holds what the stages share: sources, rules, places, what was found so far. The flow
and the command's dry run call the same methods in the same order; between them go paths of small
files and numbers.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import msgspec

from pybak import __version__, entries, staging
from pybak.backup.assemble import Assembler, Assembly
from pybak.backup.assembling import Assembling
from pybak.backup.base import History
from pybak.backup.compare import Selection, select_all
from pybak.backup.conclude import Accounts, Conclude, Outcome, Taken
from pybak.backup.discover import Discovery, discover
from pybak.backup.filter import Filtered, filter_entries
from pybak.backup.mode import FULL, INCREMENTAL, Chosen, choose_mode
from pybak.backup.plan import DIRECT, ZIP, BackupPlan, Hand, deal, plan_backup
from pybak.backup.selecting import select
from pybak.backup.settings import archive_format, check_password, rules_of
from pybak.backup.sources import Sources, resolve_sources
from pybak.entries import Root, read_entries
from pybak.errors import Interrupted, StorageError
from pybak.formats import manifest
from pybak.formats.streams import TAR_FORMATS, engine_name, memory_bytes
from pybak.home import home
from pybak.options import BackupOptions
from pybak.paths import user_path
from pybak.report import UNCHANGED, BackupReport, Comparison, PlanSummary
from pybak.resources import default_workers, share_memory, usable_cpus
from pybak.staging import WorkFolder, remove_leftovers
from pybak.storage import local
from pybak.units import parse_size
from pybak.volumes.write import (
    WRAPPED_SUFFIX,
    FinishedVolume,
    payload,
    plan_volumes,
    read_finished,
    suffixes,
)

UNSUPPORTED_BY_TAR = frozenset({entries.SOCKET, entries.UNKNOWN})
UNSUPPORTED_BY_ZIP = UNSUPPORTED_BY_TAR | {
    entries.FIFO,
    entries.CHAR_DEVICE,
    entries.BLOCK_DEVICE,
}
_DIRECT_BYTES = 64 << 20
"""Volumes of fewer bytes are written in the flow itself."""


class BackupRun:
    """A run and its work folders; a context manager that leaves nothing unfinished behind."""

    def __init__(
        self,
        sources: Sequence[str] | Sources,
        *,
        output: str | None,
        to: str | None,
        job: str | None,
        options: BackupOptions,
        password: bytes | None = None,
        now: datetime | None = None,
        scratch: Path | None = None,
        encrypted: bool = False,
    ) -> None:
        """Check everything that can be checked before the first file is looked at.

        With a `password` the archive is encrypted. With `scratch` (for a dry run) nothing is
        written outside of that folder; `encrypted` then stands for a password.
        Raises PlanError or StorageError in one line that says what to do.
        """
        self.run_id = str(uuid4())
        self.started_at = now or datetime.now(UTC)
        self.options = options
        self.job_given = job
        self._stopping = False
        found = (
            sources
            if isinstance(sources, Sources)
            else resolve_sources(sources, files_from=options.files_from)
        )
        self.roots: tuple[Root, ...] = found.roots
        self.seq: int | None = None
        self._missing = found.missing
        self._source_problems = found.problems
        self._chosen = Chosen()
        self._selection: Selection | None = None
        self.sources = [os.fsdecode(root.source) for root in self.roots]
        self.job = found.job(job)
        self.format = archive_format(options, output)
        limit = parse_size(options.memory_limit) if options.memory_limit else None
        wanted = options.workers or default_workers(usable_cpus())
        more = memory_bytes(self.format, options.level)
        self._share = share_memory(wanted, limit, more_bytes=more)
        self._rules = rules_of(options)
        self._password = password
        self._encrypted = encrypted or password is not None
        check_password(options, encrypted=self._encrypted)
        self.is_wrapped = self._encrypted and (options.hide_names or self.format != ZIP)
        self._split = parse_size(options.split) if options.split else None
        first = suffixes(0, self._split, wrapped=self.is_wrapped)[0]
        self.destination = local.choose(
            output, to, job=job, now=self.started_at.astimezone(), suffix=self.format,
            create=scratch is None, taken=[first, *(f".{kind}" for kind in self._sum_kinds)],
            is_split=self._split is not None,
        )  # fmt: skip
        self._folders: list[WorkFolder] = []
        self._made_staging: Path | None = None
        try:
            self._payload = payload(
                self._split, self.destination.name, wrapped=self.is_wrapped, mtime_ns=self._mtime_ns
            )
            self._open_work_folders(scratch)
            # Its own output and staging are known only now, and are left out by identity.
            self._rules = replace(
                self._rules, left_out=self._own_files(), earlier=self._earlier_archives()
            )
        except BaseException:
            self.close()
            raise

    @property
    def is_cut(self) -> bool:
        """Whether the archive's files are written in a step of their own: volumes or wrapped."""
        return self.is_wrapped or self._split is not None

    @property
    def _sum_kinds(self) -> list[str]:
        return list(dict.fromkeys(self.options.checksum))

    @property
    def _mtime_ns(self) -> int:
        return int(self.started_at.timestamp()) * 1_000_000_000

    def _open_work_folders(self, scratch: Path | None) -> None:
        if scratch is not None:
            self.staging = self._target = scratch
            return
        with contextlib.suppress(OSError):  # must be there to be left out of the sources
            home().mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = self.destination.folder
        remove_leftovers(folder)
        self._folders.append(WorkFolder.create(folder, self.run_id))
        self.staging = self._target = self._folders[0].path
        if self.options.staging:
            elsewhere = user_path(self.options.staging)
            if elsewhere != folder:
                if not elsewhere.exists():
                    with contextlib.suppress(OSError):
                        elsewhere.mkdir(parents=True)
                        self._made_staging = elsewhere
                remove_leftovers(elsewhere)
                self._folders.append(WorkFolder.create(elsewhere, self.run_id))
                self.staging = self._folders[1].path

    def _own_files(self) -> frozenset[tuple[int, int]]:
        """Identify what must never be in the archive: this run's own files and our home."""
        return _identities([home(), self.staging, self._target])

    def _earlier_archives(self) -> frozenset[tuple[int, int]]:
        """Identify what earlier runs of this job made."""
        return _identities(local.own_archives(self.destination.folder, self.job_given))

    def discover(self, on_progress: Callable[[int, int], None] | None = None) -> Discovery:
        """Walk the sources. Raises Interrupted once `request_cancel` was called."""

        def look_up(entry_count: int, size_bytes: int) -> None:
            self.check_cancelled()
            if on_progress is not None:
                on_progress(entry_count, size_bytes)

        with self._writing():
            return discover(
                self.roots,
                self._rules,
                self.staging / "found",
                self.staging / "found.problems",
                on_progress=look_up,
            )

    def filter(self, found: Discovery) -> Filtered:
        """Keep what the rules keep and the format can hold."""
        with self._writing():
            return filter_entries(
                found,
                self.roots,
                self._rules,
                self.staging / "kept",
                self.staging / "kept.problems",
                unsupported=UNSUPPORTED_BY_TAR if self._is_tar else UNSUPPORTED_BY_ZIP,
                format_name="tar" if self._is_tar else "ZIP",
            )

    @property
    def _is_tar(self) -> bool:
        return self.format in TAR_FORMATS

    def choose_base(self, history: History | None) -> Chosen:
        """Decide what this run is compared with, before `plan`; without a history, nothing.

        Looks for the archives that the base needs. What `history` raises is passed on.
        """
        wanted = self.options.mode
        if history is None and wanted != FULL:
            self._chosen = Chosen(reasons=("the history of this job can't be read",))
            return self._chosen
        newest = history.base(INCREMENTAL) if history is not None else None
        base = newest
        if history is None or wanted == FULL:
            base = None
        elif wanted != INCREMENTAL:
            base = history.base(wanted)
        is_other = newest is not None and (base is None or base.run_id != newest.run_id)
        self._chosen = choose_mode(
            wanted, base, full_every=self.options.full_every, now=self.started_at,
            newest=newest if is_other else None,
        )  # fmt: skip
        return self._chosen

    def plan(self, kept: Filtered) -> BackupPlan:
        """Find out what is to be saved, and cut that into batches.

        What the walk met may change the mode (`chosen`). Raises Interrupted once `request_cancel`
        was called.
        """
        with self._writing():
            self._chosen, selected = select(
                kept,
                self.roots,
                self._chosen,
                self.staging,
                self.options,
                missing=self._missing,
                problems=self._source_problems,
                threads=self._share.workers,
                stop=self.check_cancelled,
            )
            self._selection = selected
            return plan_backup(
                selected.entries,
                self.roots,
                self.staging,
                total_bytes=selected.total_bytes,
                level=self.options.level,
                archive_format=self.format,
                encrypted=self._encrypted and not self.is_wrapped,
                workers=self._share.workers,
                chunk_size=self.options.chunk_size,
                cluster=self.options.cluster,
                processes_fit=self._share.processes_fit,
            )

    @property
    def chosen(self) -> Chosen:
        """What `choose_base` decided, or `plan` once more."""
        return self._chosen

    @property
    def is_unchanged(self) -> bool:
        """Whether `plan` found nothing that an archive would be worth."""
        return self._selection is not None and self._selection.is_empty

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Translate what goes wrong with the run's own small files."""
        try:
            yield
        except OSError as error:
            place = self.staging.parent
            raise StorageError(
                f"{place}: {staging.reason(error)}; free some space or choose another --staging"
            ) from error

    def assembling(self) -> Assembling:
        """Start to lay segments together beside the workers."""
        path = None if self.is_cut else self._target / "archive"
        assembler = Assembler(self.staging, path, password=self._password)
        return Assembling(assembler, self.staging)

    def cut(self, assembly: Assembly) -> int:
        """Plan the files of a finished archive; give how many must be written."""
        if not self.is_cut:
            return 0
        with self._writing():
            return len(
                plan_volumes(
                    self.staging, assembly.extents, size=assembly.size,
                    payload_bytes=self._payload, wrapped=self.is_wrapped,
                    name=self.destination.name, mtime_ns=self._mtime_ns,
                )
            )  # fmt: skip

    def volume_hands(self, count: int, plan: BackupPlan, size: int) -> tuple[str, list[Hand]]:
        """Give where volumes are written, and which by whom; few bytes are not worth a cluster."""
        if plan.cluster == DIRECT or size < _DIRECT_BYTES or count == 1:
            return DIRECT, [Hand(0, count, 1)]
        return plan.cluster, list(deal(count, plan.workers))

    def volume_call(self, hand: Hand, cluster: str) -> dict[str, Any]:
        """Give the arguments of a task that writes volumes."""
        return {
            "staging": self.staging,
            "target": self._target,
            "start": hand.start,
            "stop": hand.stop,
            "step": hand.step,
            "kinds": self._sum_kinds,
            "threads": self._share.workers if cluster == DIRECT else 1,
        }

    def finished(self, assembly: Assembly, count: int) -> list[FinishedVolume]:
        """Give the files that make up a finished archive; `count` were written by tasks."""
        if assembly.path is None:
            return read_finished(self.staging, count)
        path = os.fsencode(assembly.path)
        return [FinishedVolume(path, "", assembly.size, {}, assembly.parts)]

    def publish(self, assembly: Assembly, count: int) -> local.Published:
        """Put a finished archive where it belongs: there all at once, or not at all."""
        return local.publish(
            self.finished(assembly, count), self.destination, kinds=self._sum_kinds
        )

    def header(self) -> manifest.Header:
        """Give the manifest's first line."""
        mode, base = self._chosen.mode, self._chosen.base
        return manifest.Header(
            run_id=self.run_id,
            job=self.job,
            mode=mode,
            format=self.format,
            created=self.started_at.astimezone(UTC).isoformat(),
            sources=self.sources,
            program=f"pybak {__version__}",
            split=self._payload,
            seq=self.seq,
            base_run=base.run_id if base is not None else None,
            full_run=base.full_run if base is not None else None,
            tags=list(self.options.tag),
        )

    def conclude(self, kept: Filtered) -> Conclude:
        """Give what tells the manifest's last lines when all files are in the archive."""
        return self._accounts(kept).conclude

    def _accounts(self, kept: Filtered) -> Accounts:
        known = (*self._source_problems, *self._chosen.problems)
        selection = self._selection or select_all(kept)
        return Accounts(self.roots, kept, selection, known, self._chosen.base)

    def request_cancel(self) -> None:
        """Ask the stages to stop soon."""
        self._stopping = True  # no lock: this is called from signal handlers
        staging.request_cancel(self.staging)

    def is_stopping(self) -> bool:
        """Whether `request_cancel` was called."""
        return self._stopping

    def check_cancelled(self) -> None:
        """Raise Interrupted once `request_cancel` was called."""
        if self._stopping:
            raise Interrupted("stopped on request")

    def plan_summary(self, plan: BackupPlan, kept: Filtered) -> PlanSummary:
        """Describe a plan for `--dry-run`."""
        outcome = self._accounts(kept).planned()
        return PlanSummary(
            job=self.job_given,
            sources=tuple(self.sources),
            destination=str(self._archive_name(self.destination.path)),
            format=self.format,
            encrypted=self._encrypted,
            split=self._split,
            checksums=tuple(self._sum_kinds),
            history=self._history(),
            is_unchanged=self.is_unchanged,
            files=outcome.files,
            folders=kept.folders,
            bytes=plan.bytes,
            batches=plan.batches,
            workers=plan.workers,
            cluster=plan.cluster,
            engine=engine_name(plan.format, plan.level),
            level=plan.level,
            excluded_by=dict(kept.excluded),
            errors=outcome.errors,
            skipped=outcome.skipped,
        )

    def _history(self) -> Comparison:
        """Say what the run was compared with."""
        mode, base, reasons = self._chosen.mode, self._chosen.base, self._chosen.reasons
        return Comparison(
            mode=mode,
            reasons=reasons,
            base_run=base.run_id if base is not None else None,
            base_started_at=base.started_at if base is not None else None,
            gone=self._selection.gone if self._selection is not None else 0,
        )

    def report(
        self,
        *,
        kept: Filtered,
        assembly: Assembly,
        stored: local.Published,
        now: datetime | None = None,
    ) -> BackupReport:
        """Sum up a finished run. Holds all problems in memory."""
        taken = Taken(assembly.files, assembly.problems, assembly.absent)
        outcome = self._accounts(kept).outcome(taken)
        return msgspec.structs.replace(
            self._report(kept, outcome, now),
            status=outcome.status,
            archive=str(self._archive_name(stored.path)),
            volumes=stored.volumes,
            checksum_files=tuple(str(path) for path in stored.checksum_files),
            lost=assembly.lost,
            bytes_read=assembly.bytes_read + self._bytes_compared,
            bytes_stored=sum(volume.size for volume in stored.volumes),
        )

    def unchanged_report(self, kept: Filtered, *, now: datetime | None = None) -> BackupReport:
        """Sum up a run that found nothing to write."""
        outcome = self._accounts(kept).planned()
        return msgspec.structs.replace(
            self._report(kept, outcome, now),
            status=UNCHANGED,
            bytes_read=self._bytes_compared,
        )

    def _report(self, kept: Filtered, outcome: Outcome, now: datetime | None) -> BackupReport:
        """Give what all reports of this run have in common."""
        return BackupReport(
            status=outcome.status,
            run_id=self.run_id,
            job=self.job_given,
            format=self.format,
            encrypted=self._encrypted,
            history=self._history(),
            files=outcome.files,
            folders=kept.folders,
            duration_seconds=((now or datetime.now(UTC)) - self.started_at).total_seconds(),
            level=self.options.level,
            excluded_by=dict(kept.excluded),
            errors=outcome.errors,
            skipped=outcome.skipped,
        )

    @property
    def _bytes_compared(self) -> int:
        return self._selection.bytes_read if self._selection is not None else 0

    def _archive_name(self, path: Path) -> Path:
        """Give what people name to get the archive back: the file, or the set without number."""
        if self.is_wrapped and self._split is None:
            return path.with_name(path.name + WRAPPED_SUFFIX)
        return path

    def owner_names(self, kept: Filtered) -> tuple[dict[str, str], dict[str, str]]:
        """Give the names of the owner and group ids that occur in the archive."""
        uids, gids = set(), set()
        selected = self._selection.entries if self._selection is not None else kept.entries
        for entry in read_entries(selected):
            uids.add(entry.uid)
            gids.add(entry.gid)
        users, groups = {}, {}
        for uid in uids:
            with contextlib.suppress(KeyError):
                users[str(uid)] = pwd.getpwuid(uid).pw_name
        for gid in gids:
            with contextlib.suppress(KeyError):
                groups[str(gid)] = grp.getgrgid(gid).gr_name
        return users, groups

    def close(self) -> None:
        """Remove the work folders, and folders made for nothing."""
        for folder in self._folders:
            folder.remove()
        if self._made_staging is not None:
            with contextlib.suppress(OSError):  # someone else uses it by now
                self._made_staging.rmdir()
        self.destination.undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _identities(paths: Iterable[Path]) -> frozenset[tuple[int, int]]:
    """Give (device, inode) of those that are there."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)
