"""Backups by the engine alone that are recorded in a catalog, as the backup flow does it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backing_up import Made, Outcome, back_up

from pybak.backup.catalog_base import JobHistory
from pybak.backup.record import write_backup
from pybak.backup.run import BackupRun
from pybak.catalog.engine import Database
from pybak.catalog.facts import Snapshot
from pybak.catalog.history import History
from pybak.catalog.recorder import RunRecorder
from pybak.report import BackupReport


class Recorded:
    """Runs of one job, each later than the one before, recorded in the catalog at `url`."""

    def __init__(self, url: str, to: Path, job: str = "docs") -> None:
        self.url = url
        self.to = to
        self.job = job
        self.outcomes: list[Outcome] = []
        # Files that were made just now are not racy.
        self.now = datetime.now(UTC) + timedelta(seconds=5)

    def back_up(self, *sources: Path, **options: Any) -> Outcome:
        """Run one backup, incremental if nothing else is said."""
        self.now += timedelta(seconds=61, microseconds=7)
        started = options.pop("now", self.now)
        ended = started + timedelta(seconds=1)
        options.setdefault("mode", "incremental")
        recorders: list[RunRecorder] = []
        written: list[bool] = []

        def begin(run: BackupRun) -> JobHistory:
            recorder = RunRecorder(
                self.url, run.run_id, kind="backup", job=run.job, options={}, now=started
            )
            assert recorder.problem is None
            assert recorder.history is not None
            recorders.append(recorder)
            run.seq = recorder.seq
            return JobHistory(recorder.history, run.job)

        def after(run: BackupRun, report: BackupReport, made: Made) -> None:
            (recorder,) = recorders
            problem = recorder.finish(
                status=report.status, counts={}, now=ended,
                write=lambda connection: write_backup(
                    connection, run=run, report=report, **made._asdict(), now=ended
                ),
            )  # fmt: skip
            assert problem is None
            written.append(True)

        done = back_up(
            *sources, to=self.to, job=self.job, begin=begin, after=after, now=started, **options
        )
        if not written:
            report = done.report
            counts = report.files.to_json()
            assert recorders[0].finish(status=report.status, counts=counts, now=ended) is None
        self.outcomes.append(done)
        return done

    def snapshots(self) -> list[Snapshot]:
        """Give what the catalog knows, the oldest first."""
        database = Database(self.url)
        try:
            return History(database).snapshots(self.job)
        finally:
            database.close()
