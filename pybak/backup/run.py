"""One backup run from the first look at its sources to its report.

`BackupRun` holds what the stages share: sources, rules, places, what was found so far. The flow
and the command's dry run call the same methods in the same order; between them go paths of small
files and numbers. Where it writes is `workplace`'s business, the files of a finished archive
`cutting`'s, the words of reports `summing`'s.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from pybak import __version__
from pybak.backup import chain_password, summing
from pybak.backup.about import About
from pybak.backup.ahead import Sieve, Walk, is_large
from pybak.backup.assemble import Assembler, Assembly
from pybak.backup.assembling import Assembling
from pybak.backup.base import History
from pybak.backup.book import OnLines
from pybak.backup.conclude import Accounts, Conclude
from pybak.backup.cutting import Cutting, volume_hands
from pybak.backup.discover import Discovery, discover
from pybak.backup.filter import Filtered
from pybak.backup.hands import Hand
from pybak.backup.head_start import HeadStart
from pybak.backup.mode import FULL, Chosen, choose_base
from pybak.backup.owners import owner_names
from pybak.backup.plan import BackupPlan, PlanOrder, plan_backup
from pybak.backup.selecting import select
from pybak.backup.selection import Selection, select_all
from pybak.backup.sending import Shape
from pybak.backup.settings import archive_format, check_password, rules_of, share_of
from pybak.backup.shipping import Shipment
from pybak.backup.sources import Sources, resolve_sources
from pybak.backup.summing import Summing
from pybak.backup.workplace import Workplace
from pybak.clusters import HELPERS
from pybak.entries import Root
from pybak.formats import manifest
from pybak.options import BackupOptions
from pybak.report import BackupReport, PlanSummary
from pybak.report.copies import CopyOutcome
from pybak.stoppable import Stoppable
from pybak.storage import local, remote
from pybak.units import parse_size
from pybak.volumes.write import FinishedVolume, payload
from pybak.workers.pool import HelpersUnavailableError, end_ready

_WORTH_WALKING_AHEAD = 4000
"""Entries; fewer are walked before a helper process has started."""

_A_FILE = 1 << 10
"""What a file's headers and its line in the manifest come to."""


class BackupRun(Stoppable):
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
        self._owners: tuple[tuple[int, ...], tuple[int, ...]] = (), ()
        self.job = found.job(job)
        self.format = archive_format(options, output)
        self._share = share_of(options, self.format)
        self._rules = rules_of(options)
        self._password = password
        is_encrypted = encrypted or password is not None
        check_password(options, encrypted=is_encrypted)
        self._about = about = About(
            self.run_id, self.started_at, job, self.job,
            tuple(os.fsdecode(root.source) for root in self.roots), self.format, options,
            is_encrypted, parse_size(options.split) if options.split else None,
        )  # fmt: skip
        self.is_wrapped = about.is_wrapped
        self._place = Workplace(about, output=output, to=to, is_rehearsal=scratch is not None)
        self._shipment = self._place.shipment
        self.copies = self._place.copies
        self.destination = self._place.destination
        self._expected_bytes = 0
        self._head: HeadStart | None = None
        try:
            self._payload = payload(
                about.split, self.destination.name, wrapped=about.is_wrapped,
                mtime_ns=about.mtime_ns,
            )  # fmt: skip
            self._place.open(scratch)
            # Its own output and staging are known only now, and are left out by identity.
            self._rules = replace(
                self._rules, left_out=self._place.own_files(),
                earlier=self._place.earlier_archives(),
            )  # fmt: skip
        except BaseException:
            self.close()
            raise
        self.staging = self._place.staging
        self._cutting = Cutting(about, self._place, self._payload, self._share.workers)

    def begin_ahead(self, *, is_first: bool = False) -> bool:
        """Begin to walk by a helper process; `discover` then waits for that.

        False where there is too little to walk, or no second core for it. What follows a walk of
        which all will be saved goes on, too (`pybak.backup.head_start`): of a full backup, and of
        any where `is_first` tells that there is nothing to compare with.
        """
        if self._share.workers == 1 or not self._share.helpers_fit:
            return False
        if is_large(self.roots, self._rules, entries=_WORTH_WALKING_AHEAD):
            walk = self._walk
            is_whole = is_first or self.options.mode == FULL
            if is_whole and self._shipment is None:
                order = self._order(self.staging / "kept", 0)
                walk = replace(walk, sieve=self._sieve, order=order)
            with contextlib.suppress(HelpersUnavailableError):
                self._head = HeadStart(walk, self.check_cancelled)
        return self._head is not None

    @property
    def _walk(self) -> Walk:
        staging = self.staging
        found, problems = staging / "found", staging / "found.problems"
        return Walk(self.roots, self._rules, staging, found, problems)

    @property
    def _sieve(self) -> Sieve:
        return Sieve(
            self.roots, self._rules, self.staging / "kept", self.staging / "kept.problems",
            self._about.unsupported, "tar" if self._about.is_tar else "ZIP",
        )  # fmt: skip

    def discover(self, on_progress: Callable[[int, int], None] | None = None) -> Discovery:
        """Walk the sources. Raises Interrupted once `request_cancel` was called."""

        def look_up(entry_count: int, size_bytes: int) -> None:
            self.check_cancelled()
            if on_progress is not None:
                on_progress(entry_count, size_bytes)

        with self._place.writing():
            found = self._head.discover(look_up) if self._head is not None else None
            if found is not None:
                return found
            walk = self._walk
            return discover(walk.roots, walk.rules, walk.found, walk.problems, on_progress=look_up)

    def filter(self, found: Discovery) -> Filtered:
        """Keep what the rules keep and the format can hold."""
        with self._place.writing():
            kept = self._head.kept(found) if self._head is not None else None
            return self._sieve.filter(found) if kept is None else kept

    def choose_base(self, history: History | None) -> Chosen:
        """Decide what this run is compared with, before `plan`; without a history, nothing.

        Looks for the archives that the base needs, and whether they have this run's password
        (`chain_password.goes_on` raises if not). What `history` raises is passed on.
        """
        chosen = choose_base(
            history, self.options.mode, full_every=self.options.full_every, now=self.started_at
        )
        self._chosen = chain_password.goes_on(
            chosen, self._password, is_encrypted=self._about.is_encrypted
        )
        return self._chosen

    def plan(self, kept: Filtered) -> BackupPlan:
        """Find out what is to be saved, and cut that into batches.

        What the walk met may change the mode (`chosen`). Raises Interrupted once `request_cancel`
        was called.
        """
        before = self._chosen
        with self._place.writing():
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
            self._expected_bytes = selected.total_bytes + _A_FILE * (kept.files + kept.folders)
            if before.base is None and (base := self._chosen.base) is not None:
                chain_password.check_waiting(
                    base, self._password, is_encrypted=self._about.is_encrypted
                )
            order = self._order(selected.entries, selected.total_bytes)
            known = self._head.plan(kept, order) if self._head is not None else None
            plan = plan_backup(order) if known is None else known
            self._owners = (
                tuple(sorted({*plan.uids, *selected.reference_uids})),
                tuple(sorted({*plan.gids, *selected.reference_gids})),
            )
            if plan.cluster != HELPERS:
                end_ready()
            if self._shipment is not None:
                plan = self._shipment.share_out(plan, self._shape)
            return plan

    def _order(self, entries: Path, total_bytes: int) -> PlanOrder:
        options, share = self.options, self._share
        return PlanOrder(
            entries, self.roots, self.staging, total_bytes, options.level, share.workers,
            self.format, self._about.is_encrypted and not self.is_wrapped, options.chunk_size,
            options.cluster, share.processes_fit, share.helpers_fit,
        )  # fmt: skip

    @property
    def _shape(self) -> Shape:
        """How the archive becomes files in a storage."""
        return Shape(
            self.destination.name, self._payload, self._expected_bytes, self._about.mtime_ns,
            self._password if self.is_wrapped else None,
        )  # fmt: skip

    @property
    def chosen(self) -> Chosen:
        """What `choose_base` decided, or `plan` once more."""
        return self._chosen

    @property
    def is_unchanged(self) -> bool:
        """Whether `plan` found nothing that an archive would be worth."""
        return self._selection is not None and self._selection.is_empty

    def assembling(self, on_lines: OnLines | None = None) -> Assembling:
        """Start to lay segments together beside the workers."""
        if self._shipment is not None:
            return self._sending(self._shipment, on_lines)
        path = None if self._cutting.is_needed else self._place.target / "archive"
        assembler = Assembler(self.staging, path, password=self._password, on_lines=on_lines)
        return Assembling(assembler, self.staging)

    def _sending(self, shipment: Shipment, on_lines: OnLines | None) -> Assembling:
        with self._place.writing():
            output = shipment.begin(
                self._shape, self.staging, threads=self._share.workers,
                on_failure=self.request_cancel,
            )  # fmt: skip
        assembler = Assembler(
            self.staging, None, password=self._password, sending=output,
            staging_limit=shipment.staging_limit, is_alone=shipment.is_far, on_lines=on_lines,
        )  # fmt: skip
        return Assembling(assembler, self.staging)

    @property
    def is_far(self) -> bool:
        """Whether workers on other hosts send what they compress: see `parcel`."""
        return self._shipment is not None and self._shipment.is_far

    @property
    def needs_shared_staging(self) -> bool:
        """Whether workers on other hosts must see this host's PYBAK_HOME to do their part."""
        return self._shipment is not None and self._shipment.needs_shared_staging

    def parcel(self, hand: Hand) -> bytes:
        """Give what a worker on another host needs for a hand."""
        assert self._shipment is not None
        with self._place.writing():
            return self._shipment.parcel(self.staging, hand)

    def take_in(self, start: int, returned: bytes) -> None:
        """Take what such a worker has returned for the hand that begins with batch `start`."""
        assert self._shipment is not None
        with self._place.writing():
            self._shipment.take_in(self.staging, start, returned)

    def cut(self, assembly: Assembly) -> int:
        """Plan the files of a finished archive; give how many must be written."""
        return self._cutting.plan(assembly)

    def volume_hands(self, count: int, plan: BackupPlan, size: int) -> tuple[str, list[Hand]]:
        """Give where volumes are written, and which by whom."""
        return volume_hands(count, plan, size)

    def volume_call(self, hand: Hand, cluster: str) -> dict[str, Any]:
        """Give the arguments of a task that writes volumes."""
        return self._cutting.call(hand, cluster)

    def finished(self, assembly: Assembly, count: int) -> list[FinishedVolume]:
        """Give the files that make up a finished archive; `count` were written by tasks."""
        return self._cutting.finished(assembly, count)

    def publish(self, assembly: Assembly, count: int) -> local.Published | remote.Published:
        """Put a finished archive where it belongs: there all at once, or not at all."""
        if self._shipment is not None:
            return self._shipment.publish(self._about.sum_kinds)
        assert isinstance(self.destination, local.Destination)
        return local.publish(
            self.finished(assembly, count), self.destination, kinds=self._about.sum_kinds
        )

    @property
    def copying(self) -> Path:
        """The folder for what copies put down while they are made."""
        return self._place.copying

    def copy(
        self, report: BackupReport, number: int, advance: Callable[[int, int, bytes], None]
    ) -> CopyOutcome:
        """Copy the published archive to one of its further places, all of it or nothing."""
        assert report.archive is not None
        return self.copies.make(
            number, report.archive, report.volumes, self.copying,
            stop_if_asked=self.check_cancelled, advance=advance,
        )  # fmt: skip

    def with_copies(self, report: BackupReport, copies: Sequence[CopyOutcome]) -> BackupReport:
        """Give the report with what became of the copies."""
        return summing.with_copies(self._about, report, copies)

    def header(self) -> manifest.Header:
        """Give the manifest's first line."""
        mode, base = self._chosen.mode, self._chosen.base
        return manifest.Header(
            run_id=self.run_id,
            job=self.job,
            mode=mode,
            format=self.format,
            created=self.started_at.astimezone(UTC).isoformat(),
            sources=list(self._about.sources),
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
        base, newest = self._chosen.base, self._chosen.newest
        return Accounts(self.roots, kept, selection, known, base, newest)

    def plan_summary(self, plan: BackupPlan, kept: Filtered) -> PlanSummary:
        """Describe a plan for `--dry-run`."""
        return self._summing(kept).planned(plan, self.destination.path, self.copies)

    def report(
        self,
        *,
        kept: Filtered,
        assembly: Assembly,
        stored: local.Published | remote.Published,
        now: datetime | None = None,
    ) -> BackupReport:
        """Sum up a finished run. Holds all problems in memory."""
        return self._summing(kept).finished(assembly, stored, now)

    def unchanged_report(self, kept: Filtered, *, now: datetime | None = None) -> BackupReport:
        """Sum up a run that found nothing to write."""
        return self._summing(kept).unchanged(now)

    def _summing(self, kept: Filtered) -> Summing:
        accounts = self._accounts(kept)
        return Summing(self._about, kept, self._chosen, self._selection, accounts)

    def owner_names(self) -> tuple[dict[str, str], dict[str, str]]:
        """Give the names of the owner and group ids that the archive tells of, once planned."""
        return owner_names(*self._owners)

    def close(self) -> None:
        """Take back what is not published, remove work folders, and folders made for nothing.

        Fine the second time.
        """
        if self._head is not None:
            self._head.close()
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
