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
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from pybak import __version__, entries, problems, report, staging
from pybak.backup.assemble import Assembler, Assembly
from pybak.backup.discover import Discovery, discover
from pybak.backup.filter import Filtered, filter_entries
from pybak.backup.plan import DIRECT, ZIP, BackupPlan, Hand, deal, plan_backup
from pybak.backup.rules import Rules
from pybak.backup.sources import resolve_sources
from pybak.entries import Root, read_entries
from pybak.errors import Interrupted, PlanError, StorageError
from pybak.formats import manifest
from pybak.formats.streams import TAR_FORMATS, engine_name, memory_bytes
from pybak.formats.suffixes import format_of_name
from pybak.home import home
from pybak.options import BackupOptions
from pybak.paths import user_path
from pybak.problems import Problem, read_problems
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
_NETWORK = ("tcp://", "tls://")
_DIRECT_BYTES = 64 << 20
"""Volumes of fewer bytes are written in the flow itself."""


class BackupRun:
    """A run and its work folders; a context manager that leaves nothing unfinished behind."""

    def __init__(
        self,
        sources: Sequence[str],
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
        found = resolve_sources(sources, files_from=options.files_from)
        self.roots: tuple[Root, ...] = found.roots
        self._source_problems = found.problems
        self.sources = [os.fsdecode(root.source) for root in self.roots]
        self.job = job or ", ".join(self.sources)
        self.format = archive_format(options, output)
        limit = parse_size(options.memory_limit) if options.memory_limit else None
        wanted = options.workers or default_workers(usable_cpus())
        more = memory_bytes(self.format, options.level)
        self._share = share_memory(wanted, limit, more_bytes=more)
        self._rules = _rules(options)
        self._password = password
        self._encrypted = encrypted or password is not None
        _check_password(options, encrypted=self._encrypted)
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

    def plan(self, kept: Filtered) -> BackupPlan:
        """Cut what is kept into batches."""
        with self._writing():
            return plan_backup(
                kept.entries,
                self.roots,
                self.staging,
                total_bytes=kept.total_bytes,
                level=self.options.level,
                archive_format=self.format,
                encrypted=self._encrypted and not self.is_wrapped,
                workers=self._share.workers,
                chunk_size=self.options.chunk_size,
                cluster=self.options.cluster,
                processes_fit=self._share.processes_fit,
            )

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
        return manifest.Header(
            run_id=self.run_id,
            job=self.job,
            mode="full",
            format=self.format,
            created=self.started_at.astimezone(UTC).isoformat(timespec="seconds"),
            sources=self.sources,
            program=f"pybak {__version__}",
            split=self._payload,
        )

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

    def plan_summary(self, plan: BackupPlan, kept: Filtered) -> report.PlanSummary:
        """Describe a plan for `--dry-run`."""
        errors, skipped = self._problems(kept)
        return report.PlanSummary(
            job=self.job_given,
            sources=tuple(self.sources),
            destination=str(self._archive_name(self.destination.path)),
            format=self.format,
            encrypted=self._encrypted,
            split=self._split,
            checksums=tuple(self._sum_kinds),
            files=report.FileCounts(
                new=plan.files,
                excluded=sum(kept.excluded.values()),
                skipped=len(skipped),
                failed=_failed(errors),
            ),
            folders=plan.folders,
            bytes=plan.bytes,
            batches=plan.batches,
            workers=plan.workers,
            cluster=plan.cluster,
            engine=engine_name(plan.format, plan.level),
            level=plan.level,
            excluded_by=dict(kept.excluded),
            errors=tuple(errors),
            skipped=tuple(skipped),
        )

    def report(
        self,
        *,
        plan: BackupPlan,
        kept: Filtered,
        assembly: Assembly,
        stored: local.Published,
        now: datetime | None = None,
    ) -> report.BackupReport:
        """Sum up a finished run. Holds all problems in memory."""
        errors, skipped = self._problems(kept)
        for problem in assembly.problems:
            (skipped if problem.is_skip else errors).append(problem)
        changed = sum(problem.code == problems.CHANGED for problem in assembly.problems)
        return report.BackupReport(
            status=report.PARTIAL if errors else report.SUCCESS,
            run_id=self.run_id,
            job=self.job_given,
            archive=str(self._archive_name(stored.path)),
            volumes=stored.volumes,
            checksum_files=tuple(str(path) for path in stored.checksum_files),
            format=self.format,
            encrypted=self._encrypted,
            lost=assembly.lost,
            files=report.FileCounts(
                new=assembly.files - changed,
                excluded=sum(kept.excluded.values()),
                skipped=sum(problem.code in problems.SKIPPED_CODES for problem in skipped),
                failed=_failed(errors),
            ),
            folders=plan.folders,
            bytes_read=assembly.bytes_read,
            bytes_stored=sum(volume.size for volume in stored.volumes),
            duration_seconds=((now or datetime.now(UTC)) - self.started_at).total_seconds(),
            level=self.options.level,
            excluded_by=dict(kept.excluded),
            errors=tuple(errors),
            skipped=tuple(skipped),
        )

    def _archive_name(self, path: Path) -> Path:
        """Give what people name to get the archive back: the file, or the set without number."""
        if self.is_wrapped and self._split is None:
            return path.with_name(path.name + WRAPPED_SUFFIX)
        return path

    def _problems(self, kept: Filtered) -> tuple[list[Problem], list[Problem]]:
        errors: list[Problem] = list(self._source_problems)
        skipped: list[Problem] = []
        for path in kept.problems:
            for problem in read_problems(path):
                (skipped if problem.is_skip else errors).append(problem)
        return errors, skipped

    def owner_names(self, kept: Filtered) -> tuple[dict[str, str], dict[str, str]]:
        """Give the names of the owner and group ids that occur."""
        uids, gids = set(), set()
        for entry in read_entries(kept.entries):
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


def archive_format(options: BackupOptions, output: str | None) -> str:
    """Give the format that is wanted. A known ending of `output` decides where `options` say zip.

    A form sends its defaults along, so zip may be what nobody chose. Raises PlanError where the
    two contradict each other.
    """
    named = format_of_name(output) if output else None
    if named in (None, options.format):
        return options.format
    if options.format == ZIP:
        return named or ZIP
    raise PlanError(
        f"{output}: is a name for {named}, and the format is {options.format}; "
        f"give it a name that ends with .{options.format}"
    )


def _check_password(options: BackupOptions, *, encrypted: bool) -> None:
    """Raise PlanError where a password is missing, or can't get to where it is needed."""
    if options.hide_names and not encrypted:
        raise PlanError("--hide-names: needs a password; give it with -p")
    if encrypted and options.password_block is None and options.cluster.startswith(_NETWORK):
        raise PlanError(
            f"--cluster: a typed password does not reach the workers of {options.cluster}; "
            "keep it in a Prefect block and name that with --password-block"
        )


def _rules(options: BackupOptions) -> Rules:
    return Rules.build(
        include=options.include,
        exclude=options.exclude,
        exclude_from=options.exclude_from,
        max_file_size=options.max_file_size,
        one_file_system=options.one_file_system,
        use_markers=not options.ignore_markers,
    )


def _identities(paths: Iterable[Path]) -> frozenset[tuple[int, int]]:
    """Give (device, inode) of those that are there."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def _failed(errors: Sequence[Problem]) -> int:
    """Count the errors that are about a file, folder or source."""
    return sum(problem.code != problems.NO_MATCH for problem in errors)


class Assembling:
    """An assembler at work in a thread of its own; a context manager that ends it."""

    def __init__(self, assembler: Assembler, folder: Path) -> None:
        self._assembler = assembler
        self._folder = folder
        self._no_more = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="assemble", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._assembler.run(self._no_more.is_set)
        except BaseException as error:  # raised again by `check`; nobody sees a thread's own end
            self._error = error
            staging.request_cancel(self._folder)  # the workers' effort would be lost

    def check(self) -> None:
        """Raise what stopped the assembler, if anything did."""
        if self._error is not None:
            raise self._error

    def finish(
        self, header: manifest.Header, owners: tuple[dict[str, str], dict[str, str]]
    ) -> Assembly:
        """Take in what the workers have finished, and end the archive.

        Raises what stopped the assembler, and Interrupted after a cancel.
        """
        self._no_more.set()
        self._thread.join()
        self.check()
        if staging.is_cancelled(self._folder):
            raise Interrupted("stopped on request")
        users, groups = owners
        return self._assembler.finish(header, users=users, groups=groups)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._no_more.set()
        self._thread.join()
        self._assembler.close()
        if isinstance(error, Interrupted) and self._error is not None:
            # Nobody asked to stop: it was this error that called the workers off.
            raise self._error from error
