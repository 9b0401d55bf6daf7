"""Compress the new files of a folder, store them, and remove them there.

    python flows/inbox.py ~/Inbox /mnt/backups/inbox

A Prefect flow and a command, like `flows/backup.py`.
"""

# Annotations stay objects here: `serve` pickles a flow's function by value, without the names that
# only its annotations use.
if __name__ == "__main__":
    import signal

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command listens, Ctrl-C ends it
    from flows.support.inbox_command import inbox_command
    from flows.support.session import leave

    leave(inbox_command())

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.support.cluster import dask_runner
from flows.support.concluded import concluded
from flows.support.fan_out import fan_out
from flows.support.interrupt import stop_on_signal
from flows.support.locks import job_locked
from flows.support.record import failure_recorded
from flows.support.resolved import check_resolved
from flows.support.screen import Screen
from pybak.catalog.engine import Database
from pybak.catalog.failures import CatalogError
from pybak.catalog.recorder import RunRecorder
from pybak.errors import StorageError
from pybak.home import catalog_url
from pybak.inbox.parcels import Parcel
from pybak.inbox.run import InboxRun
from pybak.options.inbox import InboxOptions
from pybak.portable import from_portable
from pybak.progress_line import COMPRESSING, FINISHING, SCANNING
from pybak.report import Report
from pybak.stages import stage
from tasks._password import password_for
from tasks.pack_files import pack_files
from tasks.record_metadata import record_metadata
from tasks.scan_inbox import scan_inbox

ARTIFACT_KEY = "inbox-report"


def _run_name() -> str:
    source = flow_run.parameters.get("source") or "nothing"
    return f"{source} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


@flow(
    name="inbox",
    description="Compress the new files of a folder, store and check them, then remove them there.",
    flow_run_name=_run_name,
    task_runner=dask_runner(),
    persist_result=False,
)
def inbox(
    source: str,
    destination: str,
    options: InboxOptions = InboxOptions(),  # noqa: B008 - Prefect shows it as the default
) -> State[Any]:
    """Compress the new files of a folder, store and check them, then remove them there.

    Args:
        source: The folder whose files are taken, as a path on the machine that runs the flow.
        destination: The place that gets them: a path, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX,
            block:NAME. A missing folder is made.
        options: Which files are taken, and what they become.

    """
    return concluded(
        "inbox", ARTIFACT_KEY, options, from_portable(source),
        lambda: _inbox(source, destination, options),
    )  # fmt: skip


def _inbox(source: str, destination: str, options: InboxOptions) -> Report:
    check_resolved(flow_run.tags, {"source": source, "destination": destination})
    source, destination = from_portable(source), from_portable(destination)
    also_to = [from_portable(place) for place in options.also_to]
    options = options.model_copy(update={"also_to": also_to})
    encrypted = password_for(options.password_block) is not None
    screen = Screen.current()
    with InboxRun(source, destination, options, encrypted=encrypted) as run:
        if options.dry_run:
            return run.rehearse(None)
        with job_locked(run.asked.job, options, screen, run_id=run.run_id) as lock:
            if not lock.is_safe:  # another round may be at work on the same files
                raise StorageError(f"{lock.problem}; so nothing was taken from {source}")
            with stop_on_signal(run.request_cancel):
                return _round(run, screen)


def _round(run: InboxRun, screen: Screen) -> Report:
    recorder = RunRecorder(
        catalog_url(), run.run_id, kind="inbox", job=run.asked.job,
        options=run.options.model_dump(), now=run.started_at, flow_run=flow_run.id,
    )  # fmt: skip
    if recorder.problem:
        # Without it nobody could tell after a kill what was done.
        raise CatalogError(f"{recorder.problem}; so nothing was taken from {run.asked.source}")
    database = Database(catalog_url())
    try:
        with failure_recorded(recorder, screen):
            screen.phase(SCANNING)
            scan_inbox(run, database, screen.scanned)
            while parcels := run.next_parcels():
                _process(run, parcels, screen)
            run.check_cancelled()
            report = run.report()
    finally:
        database.close()
    record_metadata(recorder, status=report.status, counts=report.counts(), now=datetime.now(UTC))
    return report


def _process(run: InboxRun, parcels: list[Parcel], screen: Screen) -> None:
    """Have parcels packed side by side, and store each, in order, as soon as it is."""
    screen.working(
        COMPRESSING, run.staging, files=sum(len(parcel.items) for parcel in parcels),
        size_bytes=sum(parcel.size for parcel in parcels),
    )  # fmt: skip
    calls = [
        {
            "staging": run.staging, "name": f"{parcel.number:03d}", "number": parcel.number,
            "password_block": run.options.password_block,
        }
        for parcel in parcels
    ]  # fmt: skip
    fan_out(
        pack_files, calls, cluster=run.cluster(parcels), workers=run.asked.recipe.workers,
        on_failure=run.request_cancel, is_stopping=run.is_stopping, screen=screen,
        on_result=lambda place, _count: _store(run, parcels[place].number),
    )  # fmt: skip
    screen.phase(FINISHING)


@stage("store")
def _store(run: InboxRun, number: int) -> None:
    run.store(number)
