"""Copy archives from one storage to another, or move them.

    python flows/transfer.py --job documents --to s3://bucket/backups

A Prefect flow and a command, like `flows/backup.py`.
"""

# Annotations stay objects here: `serve` pickles a flow's function by value, without the names that
# only its annotations use.
if __name__ == "__main__":
    import signal

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command listens, Ctrl-C ends it
    from flows.support.commands import transfer_command
    from flows.support.session import leave

    leave(transfer_command())

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.support.concluded import concluded
from flows.support.interrupt import stop_on_signal
from flows.support.record import failure_recorded
from flows.support.screen import Screen
from pybak.catalog.recorder import RunRecorder
from pybak.home import catalog_url
from pybak.options.transfer import TransferOptions
from pybak.portable import from_portable
from pybak.report import Report
from pybak.transfer.run import TransferRun
from tasks.record_metadata import record_metadata
from tasks.transfer_archive import transfer_archive

ARTIFACT_KEY = "transfer-report"
TRANSFERRING = "transferring"


def _run_name() -> str:
    given = flow_run.parameters
    what = ", ".join(given.get("archives") or [given.get("job") or "nothing"])
    return f"{what} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


@flow(
    name="transfer",
    description="Copy archives to another place, or move them there, and check what arrived.",
    flow_run_name=_run_name,
    persist_result=False,
)
def transfer(
    archives: list[str],
    to: str,
    job: str | None = None,
    options: TransferOptions = TransferOptions(),  # noqa: B008 - Prefect shows it as the default
) -> State[Any]:
    """Copy archives to another place, or move them there, and check what arrived.

    Args:
        archives: Paths or addresses of archives; ids of runs or "latest" for all archives that a
            backup needs. Empty: all archives of the job.
        to: The folder to put them in: a path, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, block:NAME.
        job: The job whose archives, or whose latest backup, are meant.
        options: How it is done.

    """
    return concluded(
        "transfer", ARTIFACT_KEY, options, job or ", ".join(archives),
        lambda: _run(archives, to, job, options),
    )  # fmt: skip


def _run(archives: list[str], to: str, job: str | None, options: TransferOptions) -> Report:
    screen = Screen.current()
    with (
        TransferRun(
            archives, from_portable(to), options, job=job, catalog_url=catalog_url()
        ) as run,
        stop_on_signal(run.request_cancel),
    ):
        if options.dry_run:
            return run.rehearse(run.find())
        return _transfer(run, job or ", ".join(archives), screen)


def _transfer(run: TransferRun, what: str, screen: Screen) -> Report:
    recorder = RunRecorder(
        catalog_url(), run.run_id, kind="transfer", job=what, options=run.options.model_dump(),
        now=run.started_at, flow_run=flow_run.id,
    )  # fmt: skip
    with failure_recorded(recorder, screen), run.locked(run.find(), screen.waiting):
        sources = run.find()  # as they are now that nobody changes them
        run.prepare()
        screen.working(
            TRANSFERRING, run.staging, files=run.files(sources), size_bytes=run.size(sources)
        )
        report = run.report(
            [transfer_archive(run, source, number) for number, source in enumerate(sources)]
        )
    record_metadata(recorder, status=report.status, counts=report.counts(), now=datetime.now(UTC))
    return report
