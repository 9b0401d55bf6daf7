"""Restore a sample of the newest backup and compare it with what was saved.

    python flows/drill.py --job documents

A Prefect flow and a command, like `flows/backup.py`.
"""

# Annotations stay objects here: `serve` pickles a flow's function by value, without the names that
# only its annotations use.
if __name__ == "__main__":
    import signal

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command listens, Ctrl-C ends it
    from flows.support.commands import drill_command
    from flows.support.session import leave

    leave(drill_command())

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.support.cluster import dask_runner
from flows.support.concluded import concluded
from flows.support.fan_out import fan_out
from flows.support.interrupt import stop_on_signal
from flows.support.record import failure_recorded
from flows.support.screen import Screen
from pybak.catalog.recorder import RunRecorder
from pybak.drill.run import DrillRun
from pybak.home import catalog_url
from pybak.options.drill import DrillOptions
from pybak.report import Report, RestoreReport
from pybak.restore import helping
from pybak.restore.run import RestoreRun
from tasks.choose_sample import choose_sample
from tasks.compare_restored import compare_restored
from tasks.extract import extract
from tasks.finish_restore import finish_restore
from tasks.make_folders import make_folders
from tasks.plan_restore import plan_restore
from tasks.record_metadata import record_metadata

ARTIFACT_KEY = "drill-report"
CHOOSING = "choosing files"
RESTORING = "restoring"
COMPARING = "comparing"


def _run_name() -> str:
    what = flow_run.parameters.get("job") or "the only job"
    return f"{what} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


@flow(
    name="drill",
    description="Restore a sample of the newest backup and compare it with what was saved.",
    flow_run_name=_run_name,
    task_runner=dask_runner(),
    persist_result=False,
)
def drill(
    job: str | None = None,
    options: DrillOptions = DrillOptions(),  # noqa: B008 - Prefect shows it as the default
) -> State[Any]:
    """Restore a sample of the newest backup and compare it with what was saved.

    Args:
        job: The job whose newest backup is tried. Empty: the only one there is.
        options: How much is restored, and where.

    """
    return concluded(
        "drill", ARTIFACT_KEY, options, job or "the only job", lambda: _run(job, options)
    )


def _run(job: str | None, options: DrillOptions) -> Report:
    screen = Screen.current()
    with (
        DrillRun(job, options, catalog_url=catalog_url()) as run,
        stop_on_signal(run.request_cancel),
    ):
        return _drill(run, screen)


def _drill(run: DrillRun, screen: Screen) -> Report:
    recorder = RunRecorder(
        catalog_url(), run.run_id, kind="drill", job=run.job,
        options=run.options.model_dump(), now=run.started_at, flow_run=flow_run.id,
    )  # fmt: skip
    with failure_recorded(recorder, screen), run.locked(screen.waiting):
        screen.phase(CHOOSING)
        choose_sample(run)
        with run.restore_run() as restore, stop_on_signal(restore.request_cancel):
            restored = _restore(restore, screen)
        run.check_cancelled()
        screen.phase(COMPARING)
        report = run.report(restored, compare_restored(run, restored))
    record_metadata(
        recorder, status=report.status, counts=run.evidence(report), now=datetime.now(UTC),
        message=report.headline(),
    )  # fmt: skip
    return report


def _restore(run: RestoreRun, screen: Screen) -> RestoreReport:
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
        helper_module=helping.MODULE,
        on_failure=run.request_cancel, is_stopping=run.is_stopping, screen=screen,
    )  # fmt: skip
    run.check_cancelled()
    outcomes.append(finish_restore(run.staging, plan, run.options.password_block))
    run.check_cancelled()
    return run.report(plan, made, outcomes)
