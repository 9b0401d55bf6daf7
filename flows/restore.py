"""Unpack an archive, or the snapshot of a job.

    python flows/restore.py backup_20261121_101500.zip --to ~/restored
    python flows/restore.py latest --job documents --at "2026-11-20 14:00" --to ~/restored

A Prefect flow and a command, like `flows/backup.py`.
"""

# Annotations stay objects here: `serve` pickles a flow's function by value, without the names that
# only its annotations use.
if __name__ == "__main__":
    import signal

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command listens, Ctrl-C ends it
    from flows.support.commands import restore_command
    from flows.support.session import leave

    leave(restore_command())

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.support.begun import begun_restore
from flows.support.cluster import dask_runner
from flows.support.concluded import concluded
from flows.support.fan_out import fan_out
from flows.support.interrupt import stop_on_signal
from flows.support.record import failure_recorded
from flows.support.resolved import check_resolved
from flows.support.screen import Screen
from pybak.catalog.recorder import RunRecorder
from pybak.home import catalog_url
from pybak.options import RestoreOptions
from pybak.portable import from_portable
from pybak.report import Report
from pybak.restore import helping
from pybak.restore.ask import ask
from pybak.restore.run import RestoreRun
from tasks._password import password_for
from tasks.extract import extract
from tasks.finish_restore import finish_restore
from tasks.make_folders import make_folders
from tasks.plan_restore import plan_restore
from tasks.record_metadata import record_metadata

ARTIFACT_KEY = "restore-report"
RESTORING = "restoring"


def _run_name() -> str:
    given = flow_run.parameters
    return f"{given.get('archive')} to {given.get('to')}"


@flow(
    name="restore",
    description="Unpack an archive or a snapshot, whole or in part.",
    flow_run_name=_run_name,
    task_runner=dask_runner(),
    persist_result=False,
)
def restore(
    archive: str,
    to: str,
    job: str | None = None,
    options: RestoreOptions = RestoreOptions(),  # noqa: B008 - Prefect shows it as the default
) -> State[Any]:
    """Unpack an archive or a snapshot, whole or in part.

    Args:
        archive: The archive's path, the id of the run that made a snapshot, or "latest".
        to: The folder to restore into; it is made if missing.
        job: The job whose latest snapshot is meant.
        options: What is restored and how.

    """
    return concluded(
        "restore", ARTIFACT_KEY, options, job or archive,
        lambda: _run(archive, to, job, options),
    )  # fmt: skip


def _run(archive: str, to: str, job: str | None, options: RestoreOptions) -> Report:
    check_resolved(flow_run.tags, {"to": to})
    screen = Screen.current()
    begun = begun_restore(archive=archive, to=to, job=job, options=options)
    if begun is not None:
        with begun.run as run, stop_on_signal(run.request_cancel):
            return _restore(run, begun.job, screen)
    url = catalog_url()
    asked = ask(archive, job=job, at=options.at, catalog_url=url)
    with (
        asked.kept(url),
        RestoreRun(asked.shares(url, options), from_portable(to), options) as run,
        stop_on_signal(run.request_cancel),
    ):
        if options.dry_run:
            return run.rehearse(password_for(options.password_block))
        return _restore(run, asked.job, screen)


def _restore(run: RestoreRun, job: str | None, screen: Screen) -> Report:
    recorder = RunRecorder(
        catalog_url(), run.run_id, kind="restore", job=job or run.archive or "",
        options=run.options.model_dump(), now=run.started_at, flow_run=flow_run.id,
    )  # fmt: skip
    with failure_recorded(recorder, screen):
        plan = plan_restore(run)
        run.check_cancelled()
        made = make_folders(plan)
        screen.working(RESTORING, run.staging, files=plan.files, size_bytes=plan.size)
        calls = [
            {
                "staging": run.staging, "name": f"{number:03d}", "batch": batch,
                "password_block": run.options.password_block,
            }
            for number, batch in enumerate(plan.batches)
        ]  # fmt: skip
        outcomes = fan_out(
            extract, calls, cluster=run.cluster(plan), workers=run.workers,
            on_failure=run.request_cancel, is_stopping=run.is_stopping, screen=screen,
            helper_module=helping.MODULE,
        )  # fmt: skip
        run.check_cancelled()
        outcomes.append(finish_restore(run.staging, plan, run.options.password_block))
        run.check_cancelled()
        report = run.report(plan, made, outcomes)
    record_metadata(
        recorder, status=report.status, counts=report.files.to_json(), now=datetime.now(UTC)
    )
    return report
