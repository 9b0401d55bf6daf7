"""A job with a history, by the engine alone: runs, restores and prunes as the flows do them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from backing_up import Made, Outcome, back_up
from walker import Found, walk

from pybak.backup.catalog_base import JobHistory
from pybak.backup.record import write_backup
from pybak.backup.run import BackupRun
from pybak.catalog.facts import Snapshot
from pybak.catalog.history import History
from pybak.catalog.locks import job_lock
from pybak.catalog.recorder import RunRecorder
from pybak.catalog.runs import Catalog
from pybak.options import PruneOptions, RestoreOptions
from pybak.report import PruneReport, RestoreReport
from pybak.restore.ask import ask
from pybak.restore.extract import extract_batch
from pybak.restore.finish import finish, make_folders
from pybak.restore.run import RestoreRun
from pybak.retention.run import PruneRun

Tree = dict[bytes, Found]


def seen(folder: Path) -> Tree:
    """Describe a tree, but for which names share an inode: one archive alone keeps that."""
    return {path: found._replace(names=()) for path, found in walk(folder).items()}


class Job:
    """The folder `source`, its archives in `store`, its runs in a catalog."""

    def __init__(self, place: Path, *, catalog_url: str | None = None, name: str = "docs") -> None:
        self.source = place / "docs"
        self.store = place / "store"
        self.home = place / "home"
        self.source.mkdir(parents=True, exist_ok=True)
        self.url = catalog_url or f"sqlite:///{place / 'home' / 'catalog.db'}"
        self.name = name
        self._place = place
        self._restores = 0

    def run(
        self,
        mode: str = "incremental",
        *,
        before_recording: Callable[[], object] = lambda: None,
        now: datetime | None = None,
        password: bytes | None = None,
        before_reading: Callable[[BackupRun], object] = lambda _run: None,
        **options: Any,
    ) -> Outcome:
        """Make one backup and record it; give what it made."""
        kept: list[tuple[BackupRun, RunRecorder]] = []

        def begin(run: BackupRun) -> JobHistory | None:
            recorder = RunRecorder(
                self.url, run.run_id, kind="backup", job=run.job, options={}, now=run.started_at
            )
            run.seq = recorder.seq
            kept.append((run, recorder))
            return JobHistory(recorder.history, run.job) if recorder.history else None

        def record(run: BackupRun, report: Any, made: Made) -> None:
            before_recording()
            recorder = kept[0][1]
            assert recorder.problem is None, recorder.problem
            assert run.seq is not None

            def write(connection: Any) -> None:
                write_backup(connection, run=run, report=report, **made._asdict(), now=now)

            problem = recorder.finish(
                status=report.status, counts={}, now=run.started_at, write=write
            )
            assert problem is None, problem

        with job_lock(self.name, catalog_url=self.url, folder=self.home / "locks"):
            made = back_up(
                self.source, to=self.store, job=self.name, mode=mode, begin=begin, after=record,
                password=password, now=now, before_reading=before_reading, **options,
            )  # fmt: skip
            if made.report.archive is None:
                run, recorder = kept[0]
                recorder.finish(
                    status=made.report.status, counts=made.report.files.to_json(),
                    now=run.started_at,
                )  # fmt: skip
        return made

    def restore(
        self,
        which: str = "latest",
        *,
        at: str | None = None,
        target: Path | None = None,
        password: bytes | None = None,
        **options: Any,
    ) -> tuple[RestoreReport, Path]:
        """Restore a snapshot; give the report and the restored folder."""
        if target is None:
            self._restores += 1
            target = self._place / f"restored-{self._restores}"
        asked = ask(which, job=self.name, at=at, catalog_url=self.url)
        chosen = RestoreOptions(workers=2, **options)
        with RestoreRun(asked.shares(self.url, chosen), os.fspath(target), chosen) as run:
            plan = run.plan(password)
            made = make_folders(plan)
            outcomes = [extract_batch(batch, password=password) for batch in plan.batches]
            outcomes.append(finish(plan, password=password))
            return run.report(plan, made, outcomes), target / self.source.name

    def prune(self, *, password: bytes | None = None, **rules: Any) -> PruneReport:
        """Apply a retention policy."""
        with PruneRun(PruneOptions(**rules), catalog_url=self.url, password=password) as run:
            return run.report([run.prune(run.plan(self.name))])

    @contextmanager
    def history(self) -> Iterator[History]:
        """Look at what the catalog knows."""
        catalog = Catalog(self.url)
        try:
            yield History(catalog.database)
        finally:
            catalog.close()

    @property
    def snapshots(self) -> list[Snapshot]:
        """The snapshots of the job, the oldest first."""
        with self.history() as history:
            return history.snapshots(self.name)

    @property
    def archives(self) -> list[Path]:
        """The archives' files, by name."""
        return sorted(self.store.glob("*")) if self.store.is_dir() else []
